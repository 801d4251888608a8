"""What else a Keras user passes: one-hot labels, class weights, a global precision."""

from __future__ import annotations

import pytest

from bnas_larq.backend import keras, tf
from bnas_larq.errors import BnasLarqError
from bnas_larq.spaces import SearchSpace
from bnas_larq.supernet.super_net import SuperNet

OPERATIONS = ("none", "max_pool_3x3", "bin_conv_3x3")
SPACE = SearchSpace("small", OPERATIONS, OPERATIONS, nodes=1)


def supernet(**settings) -> SuperNet:
    return SuperNet(SPACE, 3, cells=1, channels=2, input_shape=(8, 8, 3), **settings)


def batch(seed: int):
    """Images [4, 8, 8, 3] and labels [4]."""
    images = tf.random.stateless_normal([4, 8, 8, 3], [seed, 0])
    return images, tf.random.stateless_uniform([4], [seed, 1], maxval=3, dtype=tf.int32)


def one_hot(batch):
    images, labels = batch
    return images, tf.one_hot(labels, 3)


def test_one_hot_labels_give_what_numbers_give():
    losses = {
        "numbers": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "one-hot": keras.losses.CategoricalCrossentropy(from_logits=True),
    }
    logs = {}
    for form, loss in losses.items():
        halves = batch(1), batch(2)
        if form == "one-hot":
            halves = tuple(map(one_hot, halves))
        keras.utils.set_random_seed(1)
        net = supernet()
        net.compile(loss=loss, metrics=["accuracy"])
        history = net.fit(tf.data.Dataset.from_tensors(halves), verbose=0)
        evaluated = net.evaluate(*halves[1], batch_size=4, verbose=0, return_dict=True)
        logs[form] = {**{key: values[0] for key, values in history.history.items()}, **evaluated}
    assert 0 < logs["numbers"]["accuracy"] + logs["numbers"]["alpha_accuracy"]
    assert logs["one-hot"] == pytest.approx(logs["numbers"], abs=1e-6)


def test_class_weights_are_refused():
    net = supernet()
    net.compile()
    halves = tf.data.Dataset.from_tensors((batch(1), batch(2)))
    with pytest.raises(BnasLarqError, match=r"weighs no classes.*class_weight=\{0: 2.0\}"):
        net.fit(halves, class_weight={0: 2.0})


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "float64"])
def test_a_policy_of_keras_is_refused(policy):
    with pytest.raises(BnasLarqError, match=f"Received: policy '{policy}'. Set it to 'float32'"):
        supernet(dtype=policy)
    keras.mixed_precision.set_global_policy(policy)
    try:
        with pytest.raises(BnasLarqError, match=f"Received: policy '{policy}'"):
            supernet()
    finally:
        keras.mixed_precision.set_global_policy("float32")
