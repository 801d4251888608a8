"""DARTS' separable convolutions (arXiv 1806.09055, §3.1.1) with binary kernels and activations.

A depthwise convolution of each channel and a pointwise one (1×1) of all; the separable operation
does so twice, the first time with the strides, the dilated one once, as in DARTS. What is binary
about them is ours: each of the convolutions has BatchNorm and sign in front of it, as every
candidate of BNAS (arXiv 2002.06963); ReLU stands behind each pair, where DARTS has it in front, so
that the full-precision twin is not linear.

Whether they learn anything is decided by the scheme, see `bnas_larq.layers.quantizers`: with
`sign-scale-centred`, the published binarisation, every depthwise kernel is 0, and the output does
not depend on the image.
"""

from __future__ import annotations

from bnas_larq.backend import keras
from bnas_larq.layers.context import Context
from bnas_larq.layers.operations import register_operation
from bnas_larq.spaces import describe


def _depthwise_pointwise(
    context: Context, part: str, kernel_size: int, dilation: int = 1, *, second: bool = False
) -> list[keras.layers.Layer]:
    """BatchNorm, sign, depthwise, BatchNorm, sign, pointwise, ReLU.

    Args:
        part: goes into the layers' names.
        second: it reads not the state, but what a first pair made of it.
    """
    strides, shared = (1, None) if second else (context.strides, context.shared)
    depthwise, pointwise = (
        context.at(f"{context.name}_{kind}{part}", context.filters, *place, edges=context.edges)
        for kind, place in (("depthwise", (strides, shared)), ("pointwise", ()))
    )
    return [
        *depthwise.binary_input(),
        *depthwise.binary_depthwise(kernel_size, dilation, apart=second),
        *pointwise.binary_input(),
        *pointwise.binary_conv(1, apart=True),
        pointwise.relu(),
    ]


def _register(kernel_size: int) -> None:
    name = f"bin_sep_conv_{kernel_size}x{kernel_size}"

    @register_operation(name, describe(name), sharing="channels")
    def separable(context: Context) -> list[keras.layers.Layer]:
        first = _depthwise_pointwise(context, "1", kernel_size)
        return [*first, *_depthwise_pointwise(context, "2", kernel_size, second=True)]

    name = f"bin_dil_sep_conv_{kernel_size}x{kernel_size}"

    @register_operation(name, describe(name), sharing="channels")
    def dilated(context: Context) -> list[keras.layers.Layer]:
        return _depthwise_pointwise(context, "", kernel_size, dilation=2)


for _size in (3, 5):
    _register(_size)
