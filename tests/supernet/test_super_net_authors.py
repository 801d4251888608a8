"""The supernet against the authors' program: logits in training mode and gradients of α.

About every tenth sum in front of a ReLU is zero in mathematics (an even number of ±a), and about
1e-9 in floating point, where the last bits of a and the order of addition decide whether ReLU
passes the gradient. Gradients of two programs therefore agree closely only if they round alike: the
strict test computes centring and scale in PyTorch's order of summation, BatchNorm in plain float32,
and the cells in the reference form with the scale inside (`reference_cell.py`). The product
convolves ±1 and multiplies by the scale afterwards: there these sums are 0, and pass nothing.
"""

from __future__ import annotations

import numpy as np
import pytest

from bnas_larq.backend import keras, lq, tf
from bnas_larq.layers.constraints import CenterClip
from bnas_larq.layers.quantizers import Scheme, register_scheme
from bnas_larq.spaces import SearchSpace
from bnas_larq.supernet.search_cell import SearchCell
from bnas_larq.supernet.super_net import SuperNet


def lanes_sum(x: tf.Tensor, lanes: int) -> tf.Tensor:
    """Sum over the first axis as a vectorised loop does it: interleaved lanes, then those."""
    count = x.shape[0]
    if count > lanes and count % lanes == 0:
        x = tf.reduce_sum(tf.reshape(x, [count // lanes, lanes, *x.shape[1:]]), 0)
    return tf.reduce_sum(x, 0)


class PyTorchSignScale(lq.quantizers.Quantizer):
    """`SignScale`'s value with its sums in PyTorch's order; α need no gradient of the kernel."""

    precision = 1

    def call(self, kernel: tf.Tensor) -> tf.Tensor:
        rows, _, inputs, _ = kernel.shape
        total = lanes_sum(tf.transpose(kernel, [2, 0, 1, 3]), 4)
        centred = kernel - tf.math.divide_no_nan(total, float(inputs))[:, :, None, :]
        latent = tf.clip_by_value(centred, -1.0, 1.0)
        by_row = tf.reduce_sum(tf.transpose(tf.abs(latent), [1, 0, 2, 3]), 0)
        if rows == 5:  # the remainder of four lanes is added to the first one
            by_row = tf.gather(by_row, [0, 4, 1, 2, 3])
        total = lanes_sum(tf.reduce_sum(by_row, 0), 8)
        return lq.math.sign(latent) * tf.math.divide_no_nan(total, float(rows * rows * inputs))


def authors_supernet(file, scheme: str) -> SuperNet:
    net = SuperNet(
        SearchSpace.bnas(),
        10,
        cells=4,
        channels=4,
        padding="symmetric",
        scheme=scheme,
        full_precision=file.full_precision(),
        input_shape=(32, 32, 3),
    )
    file.fill_supernet(net)
    net.compile()
    return net


def run(net: SuperNet, file) -> tuple[np.ndarray, float, list[np.ndarray]]:
    """Logits and loss in training mode, and the gradients of the loss with respect to both α."""
    with tf.GradientTape() as tape:
        logits = net(file.images, training=True)
        loss = net.loss(file["labels"], logits)
    gradients = tape.gradient(loss, net.alphas)
    return logits.numpy(), float(loss), [gradient.numpy() for gradient in gradients]


@pytest.fixture(scope="module")
def plain(authors) -> SuperNet:
    """The product as it is, with the fixture's weights."""
    return authors_supernet(authors("open_supernet"), "sign-scale")


def test_what_was_binary_there_is_binary_here(authors, plain):
    file = authors("open_supernet")
    edges = {True: 0, False: 0}  # candidate convolutions by whether they are binary
    for cell in plain.cells:
        for outgoing in cell.outgoing:
            for candidate in outgoing.candidates:
                for layer in (layer for layers in candidate.chains for layer in layers):
                    if isinstance(layer, lq.layers.QuantConv2D):
                        width = layer.filters // cell.plan.filters  # edges that it serves
                        edges[layer.kernel_quantizer is not None] += width
    assert edges[True] == len(file["binarized"])
    assert sum(edges.values()) == 4 * 14 * 4  # cells, edges, kinds


def test_logits_and_gradients_of_alpha_equal_the_authors_program(
    authors, edge_by_edge, monkeypatch
):
    """In the reference form, whose scales are inside the convolution as in the authors' program."""
    register_scheme("test-pytorch", Scheme(lq.quantizers.SteSign, PyTorchSignScale, CenterClip))
    file = authors("open_supernet")
    net = authors_supernet(file, "test-pytorch")
    for layer in net.submodules:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.fused = False

    def reference(cell, states, mixture, training=None):
        return edge_by_edge(cell, states, mixture.weights, training)

    monkeypatch.setattr(SearchCell, "call", reference)
    logits, loss, gradients = run(net, file)
    np.testing.assert_allclose(logits, file["logits_train"], atol=1e-4)
    assert loss == pytest.approx(float(file["loss"]), rel=1e-5)
    for ours, theirs in zip(gradients, file.alpha_gradients(), strict=True):
        assert np.abs(ours - theirs).max() <= 1e-3 * np.abs(theirs).max()


def test_the_products_own_arithmetic(authors, plain):
    """Logits and loss within 1e-4 with nothing replaced.

    Its gradients of α point the same way (cosine 0.9994 and 0.9996 when this was written) but
    differ by 5 % of the largest entry in normal and 3 % in reduction cells: see the top.
    """
    file = authors("open_supernet")
    logits, loss, gradients = run(plain, file)
    np.testing.assert_allclose(logits, file["logits_train"], atol=1e-4)
    assert loss == pytest.approx(float(file["loss"]), rel=1e-4)
    for ours, theirs in zip(gradients, file.alpha_gradients(), strict=True):
        cosine = np.sum(ours * theirs) / np.linalg.norm(ours) / np.linalg.norm(theirs)
        assert cosine > 0.99
