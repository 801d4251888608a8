"""Evaluation: accuracies, confusion matrix and CSV files of outputs that can be checked by eye."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest

from bnas_larq.backend import keras, tf
from bnas_larq.training.evaluation import Evaluation, evaluate_network

NAMES = ("ant", 'bee, "big"', "cat")


@pytest.fixture
def evaluation():
    """Predictions 0, 1, 1, 2 for the labels 0, 1, 2, 0; the last label ranks third."""
    logits = np.float32([[9, 0, 0], [0, 2, 1], [0, 2, 1], [0, 1, 2]])
    return Evaluation(logits, np.array([0, 1, 2, 0]))


def test_top_k(evaluation):
    assert evaluation.predictions.tolist() == [0, 1, 1, 2]
    assert evaluation.top(1) == 2 / 4
    assert evaluation.top(2) == 3 / 4
    assert evaluation.top(3) == 4 / 4
    assert evaluation.top(5) == 4 / 4


def test_of_equal_logits_the_lower_class_counts_first():
    """A network that answers the same for every class is no better than chance."""
    evaluation = Evaluation(np.zeros((4, 4), np.float32), np.arange(4))
    assert [evaluation.top(k) for k in (1, 2, 3, 4)] == [1 / 4, 2 / 4, 3 / 4, 4 / 4]
    assert evaluation.predictions.tolist() == [0, 0, 0, 0]


def test_confusion_counts_true_by_predicted(evaluation):
    assert evaluation.confusion().tolist() == [[1, 0, 1], [0, 1, 0], [0, 1, 0]]
    assert evaluation.confusion().sum() == 4


def test_a_class_that_never_occurs_has_a_row_of_zeros():
    evaluation = Evaluation(np.float32([[1, 0, 0], [1, 0, 0]]), np.array([1, 1]))
    assert evaluation.confusion().tolist() == [[0, 0, 0], [2, 0, 0], [0, 0, 0]]


def test_metrics():
    logits = np.log(np.float32([[0.7, 0.2, 0.1], [0.5, 0.25, 0.25]]))
    metrics = Evaluation(logits, np.array([0, 2])).metrics()
    assert metrics["loss"] == pytest.approx(-(math.log(0.7) + math.log(0.25)) / 2, rel=1e-6)
    assert (metrics["accuracy"], metrics["examples"]) == (1 / 2, 2)
    assert "top5_accuracy" not in metrics  # three classes: it would always be 1


def test_top_5_accuracy_is_reported_from_six_classes_on():
    logits = np.float32([[5, 4, 3, 2, 1, 0], [0, 1, 2, 3, 4, 5]])
    metrics = Evaluation(logits, np.array([5, 1])).metrics()
    assert (metrics["accuracy"], metrics["top5_accuracy"]) == (0.0, 1 / 2)


def test_large_logits_do_not_overflow(tmp_path):
    evaluation = Evaluation(np.float32([[1e4, 0], [0, 1e4]]), np.array([0, 0]))
    assert evaluation.metrics()["loss"] == pytest.approx((0 + 1e4) / 2)
    evaluation.write_predictions(tmp_path / "p.csv", ("a", "b"))
    assert (tmp_path / "p.csv").read_text().splitlines()[2] == "1,a,b,1.000000,0"


def read(path):
    with open(path, newline="") as stream:
        return list(csv.reader(stream))


def test_predictions_are_written_in_stored_order(evaluation, tmp_path):
    evaluation.write_predictions(tmp_path / "predictions.csv", NAMES)
    e = math.e
    sure = f"{e**2 / (1 + e + e**2):.6f}"  # softmax of (0, 1, 2), in any order
    assert read(tmp_path / "predictions.csv") == [
        ["index", "label", "prediction", "confidence", "correct"],
        ["0", "ant", "ant", f"{e**9 / (e**9 + 2):.6f}", "1"],
        ["1", NAMES[1], NAMES[1], sure, "1"],
        ["2", "cat", NAMES[1], sure, "0"],
        ["3", "ant", "cat", sure, "0"],
    ]


def test_the_confusion_matrix_is_written_with_names(evaluation, tmp_path):
    evaluation.write_confusion(tmp_path / "confusion.csv", NAMES)
    assert read(tmp_path / "confusion.csv") == [
        ["label", *NAMES],
        ["ant", "1", "0", "1"],
        [NAMES[1], "0", "1", "0"],
        ["cat", "0", "1", "0"],
    ]


def test_a_network_is_evaluated_over_all_batches_in_order():
    """A linear model whose outputs are known; the last batch is smaller."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3, use_bias=False)])
    model.layers[0].set_weights([2 * np.eye(3, dtype=np.float32)])
    inputs = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    labels = np.array([0, 1, 2, 1, 0], np.uint8)
    evaluation = evaluate_network(
        model, tf.data.Dataset.from_tensor_slices((inputs, labels)).batch(2)
    )
    np.testing.assert_allclose(evaluation.logits, 2 * inputs, rtol=1e-6)
    assert evaluation.labels.tolist() == [0, 1, 2, 1, 0]
    assert evaluation.top(1) == np.mean(inputs.argmax(axis=1) == labels)


def test_a_network_is_evaluated_in_inference_mode():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dropout(0.9)])
    data = tf.data.Dataset.from_tensor_slices((np.ones((4, 2), np.float32), [0, 1, 0, 1])).batch(4)
    assert evaluate_network(model, data).logits.tolist() == np.ones((4, 2)).tolist()
