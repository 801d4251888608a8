"""ABC-Net: kernels and activations as linear combinations of several binary bases.

Source: Lin et al., "Towards Accurate Binary Convolutional Neural Network", arXiv 1711.11294. A
kernel W becomes Σ α_m·B_m, an activation R becomes Σ β_n·A_n, and a convolution of both the sum

    O = Σ_m Σ_n α_m·β_n·conv(B_m, A_n)

of M·N binary ones: `bnas_larq.layers.abc_convolution`. The scheme `abc-net` is the case M = N = 1
in any larq layer: `ABCKernel` and `ABCSign`. There the shift v of the activations stays 0 and their
scale β stays 1 (ours): real stages of the same network then have equal weights, and the offset of a
BatchNorm in front of the sign is a v, the scale of one behind the convolution a β, for each
channel.

Each mean and scale is of the whole kernel, so a depthwise kernel, whose filters have one input
channel each, is not zeroed by its centring: all its filters share one mean and one scale (ours).
"""

from __future__ import annotations

from collections.abc import Sequence

from bnas_larq.backend import lq, register, tf
from bnas_larq.layers.projection import filters_of_part
from bnas_larq.layers.quantizers import Scheme, register_scheme

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


register_scheme(
    "abc-net",
    Scheme(
        input_quantizer=ABCSign,
        kernel_quantizer=ABCKernel,
        # Ours: the paper's latent kernels are not bounded.
        kernel_constraint=lq.constraints.WeightClip,
        by_layer=True,
        own_sign=True,
    ),
)
