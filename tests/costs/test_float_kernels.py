"""Codes of kernels that are stored as int8."""

from __future__ import annotations

import numpy as np

from bnas_larq.costs.float_kernels import int8_codes


def test_int8_codes_are_within_half_a_step_of_the_kernel():
    kernel = np.random.default_rng(0).normal(size=(5, 3, 3, 7)).astype(np.float32)
    kernel[2] = 0
    codes, scales = int8_codes(kernel, axes=(0,))
    assert codes.min() == -127 or codes.max() == 127
    expected = [np.abs(k).max() / 127 or 1 for k in kernel]
    np.testing.assert_allclose(scales.reshape(-1), expected, rtol=1e-6)
    assert (np.abs(codes * scales - kernel) <= 0.5001 * scales).all()


def test_scales_of_several_axes():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 4, 2)).astype(np.float32)
    codes, scales = int8_codes(kernel, axes=(-2, -1))
    assert scales.shape == (1, 1, 4, 2)
    assert (np.abs(codes).max((0, 1)) == 127).all()


def test_codes_of_codes_are_the_same():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 4, 8)).astype(np.float32)
    codes, scales = int8_codes(kernel, axes=(-1,))
    again, _ = int8_codes(codes * scales * np.float32(0.37), axes=(-1,))
    assert np.array_equal(again, codes)
