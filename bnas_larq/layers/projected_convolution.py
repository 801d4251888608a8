"""PCNN's convolution with several projections of one latent kernel.

Source: Gu et al., arXiv 1811.12755, as its authors' group tells it again: each of a layer's J
projections gives its own binary kernels Ĉ_j of the same latent ones, and the J outputs are
concatenated along the channels. Formulas and gradients are those of `bnas_larq.layers.projection`.
"""

from __future__ import annotations

import functools

from bnas_larq.backend import lq, register, tf
from bnas_larq.errors import BnasLarqError
from bnas_larq.layers.convolutions import check_own_convolution, initializer
from bnas_larq.layers.fixed_settings import FixedSettings, check_fixed
from bnas_larq.layers.projection import HeldProjection, PCNNProjection, ProjectionLoss
from bnas_larq.layers.quantizers import Scheme, register_scheme


@register
class ProjectedConv2D(FixedSettings, lq.layers.QuantConv2D):
    """A binary convolution whose filters are J projections of each latent one.

    Costs count the convolution that runs, and memory for the latent signs and J scales. A `.tflite`
    file holds the J binary kernels.

    Args:
        planes: latent filters; output channels are planes·projections, the projection changing
            slowest.
        kernel_size: as of `QuantConv2D`.
        projections: J.
        held: real kernels, of a stage before the binary ones: all J are the latent kernel, and the
            projections wait.
        **kwargs: as of `QuantConv2D`, except `kernel_quantizer`, `use_bias`, `groups` and
            `data_format`.

    Input shape: [batch, height, width, channels]. Output shape: [batch, height', width',
    planes·projections].

    Raises:
        BnasLarqError: fewer than one projection, or a setting that is not in `kwargs`.

    Example:
        >>> layer = ProjectedConv2D(2, 3, projections=3, input_quantizer="ste_sign")
        >>> layer(tf.zeros([1, 8, 8, 4])).shape, layer.kernel.shape
        (TensorShape([1, 6, 6, 6]), TensorShape([3, 3, 4, 2]))
    """

    fixed = {"use_bias": False, "groups": 1, "data_format": "channels_last"}

    def __init__(
        self,
        planes: int,
        kernel_size: int | tuple[int, int],
        projections: int = 4,
        held: bool = False,
        **kwargs,
    ) -> None:
        quantizer = (HeldProjection if held else PCNNProjection)(projections=projections)
        own = {"kernel_quantizer": quantizer}
        check_fixed(type(self).__name__, kwargs, own)
        super().__init__(planes * projections, kernel_size, **{**kwargs, **own})
        self.planes, self.projections, self.held = planes, projections, held

    @property
    def kernel_uses(self) -> int:
        """How many products each weight takes part in at one position; read by the cost count."""
        return self.projections

    def build(self, input_shape) -> None:
        with lq.utils.patch_object(self, "filters", self.planes):
            super().build(input_shape)

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return super().convolution_op(inputs, tf.convert_to_tensor(kernel))

    def get_config(self) -> dict:
        config = super().get_config()
        del config["filters"], config["kernel_quantizer"]
        own = {key: getattr(self, key) for key in ("planes", "projections", "held")}
        return {**config, **own}


def _convolution(
    filters: int,
    kernel_size: int,
    *,
    dilation: int,
    padding: str,
    kernel_quantizer: PCNNProjection | None,
    projections: int,
    **settings: object,
) -> ProjectedConv2D:
    """A convolution of a scheme with several projections."""
    check_own_convolution(f"pcnn-{projections}", settings["name"], padding)
    if filters % projections:
        raise BnasLarqError(
            "A convolution has J filters for each of its latent ones. "
            f"Received: {filters} filters of {settings['name']}, J={projections}. "
            f"Give a multiple of {projections}."
        )
    settings |= {"padding": "same", "dilation_rate": dilation, "kernel_initializer": initializer()}
    held = not kernel_quantizer or isinstance(kernel_quantizer, HeldProjection)
    return ProjectedConv2D(filters // projections, kernel_size, projections, held=held, **settings)


register_scheme(
    "pcnn-4",
    Scheme(
        input_quantizer=lq.quantizers.SteSign,
        kernel_quantizer=PCNNProjection,
        kernel_constraint=functools.partial(lq.constraints.WeightClip, 1.0),
        kernel_regularizer=ProjectionLoss,
        by_layer=True,
        real_kernel_quantizer=HeldProjection,
        convolution=functools.partial(_convolution, projections=4),
        channel_multiple=4,
    ),
)
