"""Full-precision kernels with the values that a deployed file has, at the end of a training."""

from __future__ import annotations

from bnas_larq.backend import keras
from bnas_larq.costs.float_kernels import int8_codes, is_stored_smaller
from bnas_larq.costs.multiplications import size
from bnas_larq.costs.weight_memory import is_float_kernel, output_axes


def round_to_int8(model: keras.Model) -> None:
    """Round a model's full-precision kernels to the values that a file with int8 kernels gives
    them, so that storing them changes nothing any more.

    A BatchNorm behind a convolution, which conversion multiplies into its kernel, only changes
    scales of channels. Kernels that are too small to be stored as int8 stay as they are.
    """
    for layer in model.submodules:
        if isinstance(layer, keras.layers.Layer):
            for weight in layer._trainable_weights + layer._non_trainable_weights:
                if is_float_kernel(layer, weight) and is_stored_smaller(size(weight)):
                    codes, scales = int8_codes(weight.numpy(), output_axes(weight))
                    weight.assign(codes * scales)
