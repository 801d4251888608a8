"""Margins and centre loss against numbers worked out by hand, NumPy and their own derivatives."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from bnas_larq.backend import keras, tf
from bnas_larq.errors import BnasLarqError
from bnas_larq.layers.margin_head import (
    CenterLoss,
    MarginHead,
    arcface,
    cosface,
    cosines,
    moved_centers,
)

COS, SIN = math.cos, math.sin


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_cosines_of_right_and_half_right_angles():
    # (3, 4) has length 5; (1, 1) length √2.
    kernel = tf.constant([[10.0, 0.0, 1.0], [0.0, 0.1, 1.0]])
    expected = [[3 / 5, 4 / 5, (3 + 4) / (5 * math.sqrt(2))]]
    np.testing.assert_allclose(cosines(tf.constant([[3.0, 4.0]]), kernel), expected, rtol=1e-6)


def test_arcface_turns_the_own_class_by_m():
    # cos θ = 3/5, sin θ = 4/5; cos(θ + m) = 3/5·cos m − 4/5·sin m.
    logits = arcface(tf.constant([[0.6, 0.8], [0.6, 0.8]]), tf.constant([0, 1]), 10.0, 0.3)
    expected = [
        [10 * (0.6 * COS(0.3) - 0.8 * SIN(0.3)), 10 * 0.8],
        [10 * 0.6, 10 * (0.8 * COS(0.3) - 0.6 * SIN(0.3))],
    ]
    np.testing.assert_allclose(logits, expected, rtol=1e-6)


def test_arcface_keeps_falling_beyond_pi_minus_m():
    # With m = 1/2 the cosine turns at θ = π − 1/2: cos θ = −0.8776.
    angles = [math.pi - 0.51, math.pi - 0.49]
    cosine = tf.constant([[COS(angle), 0.0] for angle in angles])
    logits = arcface(cosine, tf.constant([0, 0]), 1.0, 0.5).numpy()[:, 0]
    # Before it cos(θ + 1/2), behind it cos θ − 1/2·sin(π − 1/2).
    expected = [COS(angles[0] + 0.5), COS(angles[1]) - 0.5 * SIN(math.pi - 0.5)]
    np.testing.assert_allclose(logits, expected, rtol=1e-5)
    cosine = tf.constant(np.linspace(1, -1, 201, dtype=np.float32)[:, None])
    logits = arcface(cosine, tf.zeros(201, tf.int32)).numpy()[:, 0]
    assert (np.diff(logits) < 0).all()


def test_cosface_lowers_the_own_class_by_m():
    logits = cosface(tf.constant([[0.6, -0.8]]), tf.constant([1]), 30.0, 0.35)
    np.testing.assert_allclose(logits, [[30 * 0.6, 30 * (-0.8 - 0.35)]], rtol=1e-6)


def by_hand(kind, embeddings, kernel, labels, scale, margin):
    """The module's formulas, one logit after the other."""
    logits = np.zeros((len(embeddings), kernel.shape[1]))
    for row, column in np.ndindex(*logits.shape):
        x, w = embeddings[row].astype(np.float64), kernel[:, column].astype(np.float64)
        value = x @ w / math.sqrt(x @ x) / math.sqrt(w @ w)
        if column == labels[row] and kind == "cosface":
            value -= margin
        elif column == labels[row]:
            angle = math.acos(value)
            fallback = value - margin * SIN(math.pi - margin)
            value = COS(angle + margin) if angle < math.pi - margin else fallback
        logits[row, column] = scale * value
    return logits


@pytest.mark.parametrize(("kind", "margin"), [("arcface", 1.2), ("arcface", 0.0), ("cosface", 0.4)])
def test_a_head_equals_the_formulas(kind, margin):
    embeddings, labels = numbers(40, 5), np.arange(40) % 7
    head = MarginHead(7, kind, scale=20.0, margin=margin)
    logits = head([tf.constant(embeddings), tf.constant(labels)], training=True)
    kernel = head.kernel.numpy()
    expected = by_hand(kind, embeddings, kernel, labels, 20.0, margin)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    plain = by_hand("cosface", embeddings, kernel, labels, 20.0, 0.0)
    for inputs in (embeddings, [embeddings, labels]):
        np.testing.assert_allclose(head(inputs), plain, rtol=1e-4, atol=1e-4)


def test_neither_length_changes_the_logits():
    head, labels = MarginHead(4), tf.constant([0, 1, 2])
    embeddings = numbers(3, 6)
    before = head([embeddings, labels], training=True)
    head.kernel.assign(head.kernel * [[0.1, 1.0, 5.0, 100.0]])
    after = head([7.0 * embeddings, labels], training=True)
    np.testing.assert_allclose(before, after, rtol=1e-4)


def test_published_margins():
    assert (MarginHead(2).scale, MarginHead(2).margin) == (64.0, 0.5)
    assert MarginHead(2, "cosface").margin == 0.4


@pytest.mark.parametrize("kind", ["arcface", "cosface"])
@pytest.mark.parametrize("value", [1.0, 0.9, 0.0, -0.5, -0.95, -1.0])
def test_derivatives(kind, value):
    """d cos(θ + m)/d cos θ = cos m + sin m·cos θ/sin θ; 1 in the fallback, and finite at θ = 0."""
    cosine = tf.constant([[value, 0.3]])
    with tf.GradientTape() as tape:
        tape.watch(cosine)
        logits = {"arcface": arcface, "cosface": cosface}[kind](cosine, tf.constant([0]), 2.0, 0.5)
    own, other = tape.gradient(logits, cosine).numpy()[0]
    expected = 1.0
    if kind == "arcface" and value > COS(math.pi - 0.5):
        expected = COS(0.5)
        if value < 1:
            expected += SIN(0.5) * value / math.sqrt(1 - value**2)
    assert (own, other) == (pytest.approx(2 * expected, rel=1e-5), 2.0)


def test_centers_move_to_their_class():
    # Class 0: Σ(c − x) = (1 − 3) + (1 − 5) = −6 of n = 2; class 1: none; class 2: 2 − 0, n = 1.
    centers = tf.constant([[1.0], [7.0], [2.0]])
    embeddings = tf.constant([[3.0], [0.0], [5.0]])
    moved = moved_centers(centers, embeddings, tf.constant([0, 2, 0]), rate=0.5)
    expected = [[1 + 0.5 * 6 / (1 + 2)], [7.0], [2 - 0.5 * 2 / (1 + 1)]]
    np.testing.assert_allclose(moved, expected)


def test_centre_loss_and_its_gradient():
    layer, labels = CenterLoss(3, weight=0.2), tf.constant([2, 0])
    embeddings, centers = numbers(2, 4), numbers(3, 4, seed=1)
    layer.build([(None, 4), (None,)])
    layer.centers.assign(centers)
    inputs = tf.constant(embeddings)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = layer([inputs, labels], training=True)
        loss = layer.losses[0]
    np.testing.assert_array_equal(outputs, embeddings)
    away = embeddings - centers[[2, 0]]
    # λ/2·mean of the squared lengths; its derivative λ·(x − c)/batch.
    np.testing.assert_allclose(loss, 0.2 / 2 * ((away[0] ** 2).sum() + (away[1] ** 2).sum()) / 2)
    np.testing.assert_allclose(tape.gradient(loss, inputs), 0.2 * away / 2, rtol=1e-5)
    expected = centers.copy()
    expected[[2, 0]] += 0.5 * away / (1 + 1)
    np.testing.assert_allclose(layer.centers, expected, rtol=1e-5)
    assert layer.trainable_weights == []
    layer([inputs, labels])
    np.testing.assert_allclose(layer.centers, expected, rtol=1e-5)  # inference moves nothing


def training_model() -> keras.Model:
    images, labels = keras.Input((6,), name="image"), keras.Input((), dtype=tf.int64, name="label")
    features = keras.layers.Dense(4, name="features")(images)
    features = CenterLoss(3, 0.1, name="centers")([features, labels])
    logits = MarginHead(3, "cosface", 16.0, 0.2, name="head")([features, labels])
    return keras.Model([images, labels], logits)


def test_a_network_learns_with_both():
    keras.utils.set_random_seed(1)
    images, labels = numbers(30, 6), np.arange(30) % 3
    images[:, 0] += 3.0 * labels
    model = training_model()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = [weight.copy() for weight in model.get_weights()]
    losses = model.fit([images, labels], labels, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    changed = [not np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True)]
    assert all(changed) and len(changed) == 2 + 1 + 1  # dense layer, centres, head
    logits = model.predict([images, labels], verbose=0)
    np.testing.assert_allclose(logits, model.predict([images, labels * 0], verbose=0))


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("form", ["keras", "h5", "clone"])
def test_it_is_saved(tmp_path, form):
    model = training_model()
    model.get_layer("centers").centers.assign(numbers(3, 4))
    if form == "clone":
        again = keras.models.clone_model(model)
        again.set_weights(model.get_weights())
    else:
        model.save(tmp_path / f"model.{form}")
        again = keras.models.load_model(tmp_path / f"model.{form}")
    for one, other in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    inputs = [numbers(5, 6), np.array([0, 1, 2, 1, 0])]
    for training in (False, True):
        np.testing.assert_array_equal(model(inputs, training), again(inputs, training))


@pytest.mark.parametrize("made", [MarginHead(3, "cosface", 16.0, 0.2), CenterLoss(3, 0.1, 0.4)])
def test_config_round_trip(made):
    config = json.loads(json.dumps(keras.utils.serialize_keras_object(made)))
    again = keras.utils.deserialize_keras_object(config)
    assert type(again) is type(made) and again.get_config() == made.get_config()
    assert config["registered_name"].startswith("bnas_larq>")


def test_what_a_head_refuses():
    with pytest.raises(BnasLarqError, match="one of arcface, cosface. Received: 'arkface'; did"):
        MarginHead(2, "arkface")
    for settings in ({"scale": 0.0}, {"margin": -0.1}, {"margin": math.pi}, {"num_classes": 1}):
        with pytest.raises(
            BnasLarqError, match=f"two classes.* {[*settings][0]}={[*settings.values()][0]}"
        ):
            MarginHead(**{"num_classes": 2, **settings})
    with pytest.raises(BnasLarqError, match="know the classes. Received: embeddings alone"):
        MarginHead(2)(numbers(1, 3), training=True)
