"""ABC-Net's convolution of several weight bases with several activation bases, and its schemes
`abc-net-3x1` to `abc-net-5x5` (M×N).

Source: Lin et al., arXiv 1711.11294. Bases, scales and gradients are those of
`bnas_larq.layers.abc_net`.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence

from bnas_larq.backend import keras, lq, only_infers_shape, register, tf
from bnas_larq.errors import BnasLarqError
from bnas_larq.layers.abc_net import ABCKernel, ABCSign, shifted_sign, weight_bases
from bnas_larq.layers.convolution_kernels import pixels_read
from bnas_larq.layers.convolutions import check_own_convolution, initializer
from bnas_larq.layers.quantizers import get_scheme, register_scheme

#: (M, N) → the shifts u of the weight bases and the first ones v of the activation bases, of
#: ResNet-18 (arXiv 1711.11294, table S4).
INITIAL_SHIFTS: dict[tuple[int, int], tuple[tuple[float, ...], tuple[float, ...]]] = {
    (1, 1): ((0.0,), (0.0,)),
    (3, 1): ((-1.0, 0.0, 1.0), (0.0,)),
    (3, 3): ((-1.0, 0.0, 1.0), (-1.5, 0.0, 1.5)),
    (3, 5): ((-1.0, 0.0, 1.0), (-3.5, -2.5, -1.5, 0.0, 2.5)),
    (5, 1): ((-2.0, -1.0, 0.0, 1.0, 2.0), (0.0,)),
    (5, 3): ((-2.0, -1.0, 0.0, 1.0, 2.0), (-0.9, 0.0, 0.9)),
    (5, 5): ((-1.0, -0.5, 0.0, 0.5, 1.0), (-3.5, -2.5, -1.5, 0.0, 2.5)),
}


@register
class ABCConv2D(keras.layers.Layer):
    """Convolution of M weight bases with N activation bases (arXiv 1711.11294, §3), without bias:
    Σ_mn α_m·β_n·conv(B_m, H_v_n(x)). The α are solved for in each call; v and β are trained.

    Inference computes the M·N binary convolutions, which Larq Compute Engine makes 1-bit; training
    computes their sum as one convolution, by linearity. BatchNorm stands in front of the layer.

    Padding `"same"` around images smaller than the kernel is wrong in Larq Compute Engine (0.16);
    the export refuses such a network.

    `bnas_larq.count_costs` counts M·N binary convolutions, M bits for each weight of the kernel,
    and 4 bytes for each α, β and v.

    With a real input or kernel it is a layer of the real networks from which ABC-Net starts, whose
    weight files fit it: the sum of one input and M kernels, of N inputs and one kernel, or an
    ordinary convolution. What that does not use is not trained.

    Args:
        filters: output channels.
        kernel_size: height and width of the kernel.
        weight_shifts: u of the M weight bases, fixed.
        activation_shifts: first v of the N activation bases; each β starts at 1. For the paper's
            values of both, see `INITIAL_SHIFTS`.
        strides: of height and width.
        padding: `"same"` (zeros behind the sign) or `"valid"`.
        kernel_initializer, kernel_regularizer, kernel_constraint: as in Keras.
        real_input: a quantizer such as `RealActivation` in place of the N activation bases.
        real_kernel: convolve with the latent kernel itself, in place of the M weight bases.

    Input shape: [batch, height, width, channels]. Output shape: [batch, height', width', filters].

    Raises:
        BnasLarqError: no or equal shifts, sizes below 1, or another padding.

    Example:
        >>> layer = ABCConv2D(4, 3, *INITIAL_SHIFTS[3, 5], strides=2)
        >>> layer(tf.zeros([1, 8, 8, 2])).shape
        TensorShape([1, 4, 4, 4])
        >>> [tuple(weight.shape) for weight in layer.weights]
        [(3, 3, 2, 4), (5,), (5,)]
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        weight_shifts: Sequence[float] = (0.0,),
        activation_shifts: Sequence[float] = (0.0,),
        *,
        strides: int = 1,
        padding: str = "same",
        kernel_initializer: str | keras.initializers.Initializer = "glorot_uniform",
        kernel_regularizer: str | keras.regularizers.Regularizer | None = None,
        kernel_constraint: str | keras.constraints.Constraint | None = None,
        real_input: lq.quantizers.Quantizer | dict | None = None,
        real_kernel: bool = False,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        for shifts in (weight_shifts, activation_shifts):
            if not 0 < len(shifts) == len(set(shifts)) or not all(map(math.isfinite, shifts)):
                raise BnasLarqError(
                    "Each base has a shift, and no two are equal, as their bases would be. "
                    f"Received: {list(shifts)}. Take those of INITIAL_SHIFTS."
                )
        if min(filters, kernel_size, strides) < 1 or padding not in ("same", "valid"):
            raise BnasLarqError(
                "Filters, kernel size and strides are 1 or more, padding is 'same' or 'valid'. "
                f"Received: {filters}, {kernel_size}, {strides}, {padding!r}."
            )
        self.filters, self.kernel_size = filters, kernel_size
        self.strides, self.padding = strides, padding
        self.weight_shifts = tuple(map(float, weight_shifts))
        self.activation_shifts = tuple(map(float, activation_shifts))
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        if isinstance(real_input, dict):
            real_input = keras.utils.deserialize_keras_object(real_input)
        self.real_input, self.real_kernel = real_input, real_kernel

    @property
    def bases(self) -> tuple[int | None, int | None]:
        """M and N, None for a real kernel or input; read by the cost count."""
        weights = None if self.real_kernel else len(self.weight_shifts)
        return weights, None if self.real_input else len(self.activation_shifts)

    def build(self, input_shape) -> None:
        shape = [self.kernel_size, self.kernel_size, input_shape[-1], self.filters]
        self.kernel = self.add_weight(
            "kernel",
            shape,
            initializer=self.kernel_initializer,
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )
        first = keras.initializers.Constant(self.activation_shifts)
        bases = {"shape": [len(self.activation_shifts)], "trainable": self.real_input is None}
        self.shift = self.add_weight("shift", initializer=first, **bases)
        self.scale = self.add_weight("scale", initializer="ones", **bases)
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        if only_infers_shape(self):  # for which M·N products would be many operations
            shape = self.compute_output_shape(inputs.shape)
            return tf.compat.v1.placeholder(self.compute_dtype, shape)
        kernels, strides = [tf.convert_to_tensor(self.kernel)], self.strides
        if training:
            inputs, strides = pixels_read(inputs, self.kernel.shape, strides)
        if not self.real_kernel:
            bases, scales = weight_bases(*kernels, self.weight_shifts)
            kernels = [scales[number] * base for number, base in enumerate(tf.unstack(bases))]
        if self.real_input:
            signs, factors = [self.real_input(inputs)], [1.0]
        else:
            signs, factors = [], tf.unstack(self.scale)
            for number, shift in enumerate(tf.unstack(self.shift)):
                with tf.name_scope(f"sign{number:03d}"):
                    signs.append(shifted_sign(inputs, shift))
        if training:
            signs = [tf.add_n([f * sign for f, sign in zip(factors, signs, strict=True)])]
            factors, kernels = [1.0], [tf.add_n(kernels)]
        pairs = itertools.product(zip(factors, signs, strict=True), kernels)
        total = None
        for number, ((factor, sign), kernel) in enumerate(pairs):
            # A file runs independent operations in the order of their names: with these, a device
            # holds one product beside the sum.
            with tf.name_scope(f"product{number:03d}"):
                product = factor * tf.nn.conv2d(sign, kernel, strides, self.padding.upper())
                total = product if total is None else total + product
        return total

    def get_config(self) -> dict:
        keys = ("filters", "kernel_size", "weight_shifts", "activation_shifts", "strides")
        return {
            **super().get_config(),
            **{key: getattr(self, key) for key in (*keys, "padding")},
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
            "real_input": self.real_input and keras.utils.serialize_keras_object(self.real_input),
            "real_kernel": self.real_kernel,
        }

    def compute_output_shape(self, input_shape) -> tf.TensorShape:
        batch, *sides, _ = input_shape
        window = self.kernel_size if self.padding == "valid" else 1
        sides = [side and -(-(side - window + 1) // self.strides) for side in sides]
        return tf.TensorShape([batch, *sides, self.filters])


def _convolution(
    filters: int,
    kernel_size: int,
    *,
    bases: tuple[int, int],
    name: str,
    dilation: int,
    padding: str,
    input_quantizer: lq.quantizers.Quantizer,
    kernel_quantizer: ABCKernel | None,
    **settings: object,
) -> ABCConv2D:
    """A convolution of a scheme with several bases."""
    check_own_convolution("abc-net-{}x{}".format(*bases), name, padding)
    if dilation != 1:
        raise BnasLarqError(
            "ABC-Net's convolutions of several bases are not dilated. "
            f"Received: dilation={dilation} of {name}. Use the scheme abc-net."
        )
    return ABCConv2D(
        filters,
        kernel_size,
        *INITIAL_SHIFTS[bases],
        kernel_initializer=initializer(),
        real_input=None if isinstance(input_quantizer, ABCSign) else input_quantizer,
        real_kernel=kernel_quantizer is None,
        name=name,
        **settings,
    )


for _bases in INITIAL_SHIFTS:
    if _bases != (1, 1):
        register_scheme(
            "abc-net-{}x{}".format(*_bases),
            dataclasses.replace(
                get_scheme("abc-net"), convolution=functools.partial(_convolution, bases=_bases)
            ),
        )
