"""Sums over the channels of several edges, in both types."""

from __future__ import annotations

import numpy as np

from bnas_larq.backend import tf
from bnas_larq.supernet.edge_channels import sum_of_products


def test_products_are_added_up_in_float32():
    """In bfloat16 a sum of ones ends at 256."""
    ones = tf.ones([8, 32, 32, 4], tf.bfloat16)
    np.testing.assert_array_equal(sum_of_products(ones, ones), [8 * 32 * 32] * 4)


def test_bfloat16_rounds_the_sum_alone():
    generator = np.random.default_rng(0)
    a, b = (tf.cast(generator.normal(0.2, 1.0, (16, 16, 16, 8)), tf.bfloat16) for _ in range(2))
    exact = np.sum(np.float64(a.numpy()) * np.float64(b.numpy()), axis=(0, 1, 2))
    assert sum_of_products(a, b).dtype == tf.float32
    np.testing.assert_allclose(sum_of_products(a, b), exact, rtol=2.0**-8)
