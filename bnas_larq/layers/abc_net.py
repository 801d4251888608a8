"""ABC-Net: kernels and activations as linear combinations of several binary bases.

Source: Lin et al., "Towards Accurate Binary Convolutional Neural Network", arXiv 1711.11294. A
kernel W becomes Σ α_m·B_m, an activation R becomes Σ β_n·A_n, and a convolution of both the sum

    O = Σ_m Σ_n α_m·β_n·conv(B_m, A_n)

of M·N binary ones. `ABCConv2D` is that layer, and the convolution of the schemes `abc-net-3x1` to
`abc-net-5x5` (M×N, with the paper's first shifts). The scheme `abc-net` is the case M = N = 1 in
any larq layer: `ABCKernel` and `ABCSign`. There the shift v of the activations stays 0 and their
scale β stays 1 (ours): real stages of the same network then have equal weights, and the offset of a
BatchNorm in front of the sign is a v, the scale of one behind the convolution a β, for each
channel.

Each mean and scale is of the whole kernel, so a depthwise kernel, whose filters have one input
channel each, is not zeroed by its centring: all its filters share one mean and one scale (ours).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

from bnas_larq.backend import keras, lq, register, tf
from bnas_larq.errors import BnasLarqError
from bnas_larq.layers.binary_convolution import pixels_read
from bnas_larq.layers.convolutions import check_own_convolution
from bnas_larq.layers.projection import filters_of_part
from bnas_larq.layers.quantizers import Scheme, register_scheme

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

#: Added to the diagonal of the normal equations (all ones) if their determinant is below
#: `_DEPENDENT`.
_RIDGE, _DEPENDENT = 1e-4, 1e-6


def weight_bases(
    kernel: tf.Tensor, shifts: Sequence[float] = (0.0,)
) -> tuple[tf.Tensor, tf.Tensor]:
    """The binary bases of a kernel, and the scales with which they approximate it best.

    B_m = sign(W − mean(W) + u_m·std(W)), and α minimises ‖W − Σ α_m·B_m‖² (arXiv 1711.11294, eq. 3
    and 4). W receives the sum of what the bases receive, without a mask, and nothing through α,
    mean and std; so behind Σ α_m·B_m it receives Σ α_m·g (eq. 7).

    Args:
        kernel: W, of any shape; mean and std are of all of it.
        shifts: u_m of the M bases.

    Returns:
        B, ±1 [M, *shape of W]; α, [M], which may be negative.
    """

    @tf.custom_gradient
    def approximate(kernel):
        moves = tf.reshape(tf.constant(shifts, kernel.dtype), [-1] + [1] * len(kernel.shape))
        centred = kernel - tf.reduce_mean(kernel)
        bases = lq.math.sign(centred + moves * tf.math.reduce_std(kernel))
        flat, elements = tf.reshape(bases, [len(shifts), -1]), kernel.shape.num_elements()
        products = tf.matmul(flat, flat, transpose_b=True) / elements
        target = tf.linalg.matvec(flat, tf.reshape(kernel, [-1])) / elements
        dependent = tf.cast(tf.linalg.det(products) < _DEPENDENT, kernel.dtype)
        products += _RIDGE * dependent * tf.eye(len(shifts), dtype=kernel.dtype)
        scales = tf.linalg.solve(products, target[:, None])[:, 0]
        return (bases, scales), lambda of_bases, _: tf.reduce_sum(of_bases, axis=0)

    return approximate(kernel)


def shifted_sign(inputs: tf.Tensor, shift: tf.Tensor | float = 0.0) -> tf.Tensor:
    """H_v(x): +1 where clip(x + v, 0, 1) ≥ 0.5, else −1 (arXiv 1711.11294, eq. 8 and 9).

    The gradient passes where 0 ≤ x + v ≤ 1; v receives its sum. (Eq. 10 prints x − v, which does
    not fit eq. 8.)

    Args:
        inputs: x, of any shape.
        shift: v, a scalar.
    """

    @tf.custom_gradient
    def binarise(inputs, shift):
        def gradient(upstream):
            inside = (inputs >= -shift) & (inputs <= 1.0 - shift)
            passed = upstream * tf.cast(inside, upstream.dtype)
            return passed, tf.reduce_sum(passed)

        return lq.math.sign(inputs - (0.5 - shift)), gradient

    return binarise(inputs, tf.cast(shift, inputs.dtype))


@register
class ABCKernel(lq.quantizers.Quantizer):
    """Kernel quantizer α·sign(W − mean(W)), α = mean(W·B): ABC-Net's single weight base, with one
    mean and one scale for the whole layer (arXiv 1711.11294). The gradient is α·g without a mask.

    Args:
        parts: how many layers' filters a kernel holds side by side, each with a mean and a scale of
            its own. The supernet convolves the kernels of several edges at once.

    Raises:
        BnasLarqError: filters that cannot be cut into so many parts (in a call).

    Example:
        >>> ABCKernel()(tf.constant([[0.75, -0.25], [0.5, 0.0]])).numpy().tolist()
        [[0.375, -0.375], [0.375, -0.375]]
    """

    precision = 1

    def __init__(self, parts: int = 1, **kwargs) -> None:
        super().__init__(**kwargs)
        self.parts = parts

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        filters_of_part(inputs.shape[-1], self.parts)
        approximations = []
        for kernel in tf.split(inputs, self.parts, axis=-1):
            bases, scales = weight_bases(kernel)
            approximations.append(scales[0] * bases[0])
        return tf.concat(approximations, axis=-1)

    def scales(self, shape: Sequence[int]) -> int:
        """How many scales a kernel of this shape has."""
        return self.parts

    def get_config(self) -> dict:
        return {**super().get_config(), "parts": self.parts}


@register
class ABCSign(lq.quantizers.Quantizer):
    """Input quantizer H_v with a fixed shift: +1 where x ≥ 0.5 − v, else −1, see `shifted_sign`.

    Args:
        shift: v.

    Example:
        >>> ABCSign()(tf.constant([-1.0, 0.25, 0.5])).numpy().tolist()
        [-1.0, -1.0, 1.0]
    """

    precision = 1

    def __init__(self, shift: float = 0.0, **kwargs) -> None:
        super().__init__(**kwargs, autocast=False)
        self.shift = shift

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return shifted_sign(inputs, self.shift)

    def get_config(self) -> dict:
        return {**super().get_config(), "shift": self.shift}


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
        kernel_initializer: as in Keras.
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
        self.kernel = self.add_weight("kernel", shape, initializer=self.kernel_initializer)
        first = keras.initializers.Constant(self.activation_shifts)
        bases = {"shape": [len(self.activation_shifts)], "trainable": self.real_input is None}
        self.shift = self.add_weight("shift", initializer=first, **bases)
        self.scale = self.add_weight("scale", initializer="ones", **bases)
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        kernels, strides = [tf.convert_to_tensor(self.kernel)], self.strides
        if training:
            inputs, strides = pixels_read(inputs, self.kernel.shape, strides)
        if not self.real_kernel:
            bases, scales = weight_bases(*kernels, self.weight_shifts)
            kernels = [scales[number] * base for number, base in enumerate(tf.unstack(bases))]
        if self.real_input:
            signs, factors = [self.real_input(inputs)], [1.0]
        else:
            signs = [shifted_sign(inputs, shift) for shift in tf.unstack(self.shift)]
            factors = tf.unstack(self.scale)
        if training:
            signs = [tf.add_n([f * sign for f, sign in zip(factors, signs, strict=True)])]
            factors, kernels = [1.0], [tf.add_n(kernels)]
        return tf.add_n(
            [
                factor * tf.nn.conv2d(sign, kernel, strides, self.padding.upper())
                for factor, sign in zip(factors, signs, strict=True)
                for kernel in kernels
            ]
        )

    def get_config(self) -> dict:
        keys = ("filters", "kernel_size", "weight_shifts", "activation_shifts", "strides")
        return {
            **super().get_config(),
            **{key: getattr(self, key) for key in (*keys, "padding")},
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
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
    strides: int,
    dilation: int,
    padding: str,
    input_quantizer: lq.quantizers.Quantizer,
    kernel_quantizer: ABCKernel | None,
    **unused: object,
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
        strides=strides,
        real_input=None if isinstance(input_quantizer, ABCSign) else input_quantizer,
        real_kernel=kernel_quantizer is None,
        name=name,
    )


_ABC_NET = Scheme(
    input_quantizer=ABCSign,
    kernel_quantizer=ABCKernel,
    # Ours: the paper's latent kernels are not bounded.
    kernel_constraint=lq.constraints.WeightClip,
    by_layer=True,
    own_sign=True,
)
register_scheme("abc-net", _ABC_NET)
for _bases in INITIAL_SHIFTS:
    if _bases != (1, 1):
        register_scheme(
            "abc-net-{}x{}".format(*_bases),
            dataclasses.replace(
                _ABC_NET, convolution=functools.partial(_convolution, bases=_bases)
            ),
        )
