"""The parts of residual backbones: stems, transitions between resolutions, and blocks of one or two
convolutions with a shortcut around them.

Sources: Bi-Real Net (arXiv 1808.00278), QuickNet (arXiv 2011.09398) as in larq_zoo.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from bnas_larq.backend import keras, register
from bnas_larq.layers import convolutions
from bnas_larq.layers.batch_norm import batch_norm
from bnas_larq.layers.context import Context
from bnas_larq.layers.convolutions import RepeatChannels
from bnas_larq.layers.fixed_settings import FixedSettings
from bnas_larq.layers.prelu import PReLU2D, RPReLU


@register
class BlurPool2D(FixedSettings, keras.layers.DepthwiseConv2D):
    """Every second pixel of an image blurred by the fixed kernel [1, 2, 1]ᵀ[1, 2, 1] / 16 (arXiv
    1904.11486). The kernel never trains, whatever `trainable` is.

    Args:
        **kwargs: of `DepthwiseConv2D` those that say nothing of the kernel, its strides, padding
            and bias: `activation`, `activity_regularizer`, and those of any layer.

    Input shape: [batch, height, width, channels]. Output shape: [batch, ⌈height/2⌉, ⌈width/2⌉,
    channels].

    Raises:
        BnasLarqError: another setting.

    Example:
        >>> BlurPool2D()(np.ones([1, 5, 5, 1], np.float32)).numpy()[0, 1, 1].tolist()
        [1.0]
    """

    fixed = {
        **{"kernel_size": 3, "strides": 2, "padding": "same", "data_format": "channels_last"},
        **{"dilation_rate": 1, "groups": 1, "depth_multiplier": 1, "use_bias": False},
        **{f"depthwise_{part}": None for part in ("initializer", "regularizer", "constraint")},
    }

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)

    def build(self, input_shape) -> None:
        row = np.array([1.0, 2.0, 1.0], np.float32) / 4
        kernel = np.broadcast_to(np.outer(row, row)[..., None, None], (3, 3, input_shape[-1], 1))
        self.depthwise_kernel = self.add_weight(
            "depthwise_kernel",
            kernel.shape,
            initializer=keras.initializers.Constant(kernel),
            trainable=False,
        )
        self.bias, self.built = None, True


@dataclasses.dataclass(frozen=True)
class Part:
    """A piece of a backbone, from the tensor in front of it to the one behind it.

    Attributes:
        name: prefix of its layers' names.
        layers: one after the other.
        shortcut: layers around them, whose output is added; empty for the identity, None for none.
        behind: layers behind the sum.
    """

    name: str
    layers: Sequence[keras.layers.Layer]
    shortcut: Sequence[keras.layers.Layer] | None = None
    behind: Sequence[keras.layers.Layer] = ()

    @property
    def sum_name(self) -> str:
        """Name of the layer that adds; the last layer of a block is always `<name>_out`."""
        return f"{self.name}_add" if self.behind else f"{self.name}_out"


def stem(kind: str, context: Context, norm_first: bool = False) -> Part:
    """From the image to the first block's channels, in full precision. None ends with ReLU in front
    of a block's sign, which would always be +1.

    `cifar`: 3×3 convolution, BatchNorm. `imagenet`: 7×7 with stride 2, BatchNorm, a ReLU if
    `norm_first` (ResNet), 3×3 max pool with stride 2 (Bi-Real Net). `quicknet`: 3×3 with stride 2
    to a quarter of the channels, BatchNorm, ReLU, depthwise 3×3 with stride 2, BatchNorm without
    scale and offset, 1×1, BatchNorm.
    """
    channels = context.filters
    if kind == "quicknet":
        first, last = context.at("stem0", channels // 4, 2), context.at("stem2", channels)
        depthwise = convolutions.depthwise(
            channels // 4, 3, name="stem1_conv", strides=2, input_scheme=None, kernel_scheme=None
        )
        layers = [first.float_conv(3), first.batch_norm(), first.relu()]
        layers += [depthwise, batch_norm("stem1_bn", affine=False)]
        return Part("stem", [*layers, last.float_conv(1), last.batch_norm()])
    own = context.at("stem", channels, 1 if kind == "cifar" else 2)
    layers = [own.float_conv(3 if kind == "cifar" else 7), own.batch_norm()]
    if kind == "imagenet":
        layers += [own.relu()] if norm_first else []
        layers.append(convolutions.pooling("max", 2, "same", "stem_pool"))
    return Part("stem", layers)


def transition(
    kind: str, channels: int, context: Context, norm_first: bool = False
) -> list[keras.layers.Layer]:
    """Layers from `channels` to the context's filters at half of the resolution, in full precision
    but for `binary-conv`.

    `pool`: 2×2 average pool, its channels concatenated with themselves. `depthwise`: 2×2 with
    stride 2 and several filters for each channel, BatchNorm. `pool-conv`: 2×2 average pool, 1×1,
    BatchNorm (Bi-Real Net). `conv-pool`: 1×1, BatchNorm, 2×2 average pool (CBCN, arXiv 1910.10853),
    at four times the MACs. `conv`: 1×1 with stride 2, BatchNorm (ResNet). `binary-conv`: the same
    with a binary 1×1, as binary ResNets are usually counted (arXiv 2003.11535, table 1), and
    another BatchNorm in front of its sign if `norm_first`, as blocks then have. `blur-conv`: ReLU,
    2×2 max pool without strides, blur pool, 1×1, BatchNorm (QuickNet). `conv-max-pool`: ReLU, 3×3,
    2×2 max pool, BatchNorm (ResNet-9; arXiv 2404.00498). For the first two the filters are a
    multiple of the channels.
    """
    name, times = context.name, context.filters // channels
    if kind in ("conv", "binary-conv"):
        strided = context.at(name, context.filters, 2)
        conv = [strided.float_conv(1)] if kind == "conv" else strided.binary_conv(1)
        if kind == "binary-conv" and norm_first:
            conv = [context.at(f"{name}_in", channels).batch_norm(), *conv]
        return [*conv, context.batch_norm()]
    if kind == "conv-pool":
        pool = keras.layers.AveragePooling2D(2, padding="same", name=f"{name}_pool", autocast=False)
        return [context.float_conv(1), context.batch_norm(), pool]
    if kind == "conv-max-pool":
        pool = keras.layers.MaxPooling2D(2, padding="same", name=f"{name}_pool", autocast=False)
        return [context.relu(), context.float_conv(3), pool, context.batch_norm()]
    if kind == "depthwise":
        conv = keras.layers.DepthwiseConv2D(
            2,
            strides=2,
            padding="same",
            depth_multiplier=times,
            use_bias=False,
            # Keras derives the fan-in from all channels, of which each filter reads one.
            depthwise_initializer=convolutions.initializer(channels),
            name=context.conv_name,
        )
        return [conv, context.batch_norm()]
    if kind == "blur-conv":
        pool = keras.layers.MaxPooling2D(2, 1, name=f"{name}_pool", autocast=False)
        layers = [context.relu(), pool, BlurPool2D(name=f"{name}_blur")]
    else:
        pool = keras.layers.AveragePooling2D(2, padding="same", name=f"{name}_pool", autocast=False)
        layers = [pool]
    if kind == "pool":
        return [*layers, RepeatChannels(times, name=f"{name}_repeat")] if times > 1 else layers
    return [*layers, context.float_conv(1), context.batch_norm()]


def block(
    order: str,
    nonlinearity: str,
    context: Context,
    shortcut: Sequence[keras.layers.Layer] = (),
    convolutions: int = 1,
) -> Part:
    """3×3 convolutions, binary unless the scheme or a pattern says otherwise, and a shortcut.

    Args:
        order: the steps, such as `sign-conv-bn-add-act`; the convolution itself takes the sign.
        nonlinearity: the step `act`: `none`, `relu`, `prelu` (slope 0.25 at first, one per channel)
            or `rprelu`.
        context: with stride 2, the shortcut has to halve the resolution, too.
        convolutions: with 2, another one with all its steps but the sum goes first.
    """

    def steps(order: str, context: Context) -> list[keras.layers.Layer]:
        makers = {
            "bn": lambda: [context.batch_norm()],
            "conv": lambda: context.binary_conv(3),
            "act": lambda: activation(nonlinearity, f"{context.name}_act"),
        }
        return [layer for step in order.split("-") if step in makers for layer in makers[step]()]

    before, _, behind = order.partition("add")
    layers, last_context = [], context
    if convolutions == 2:
        first = context.at(f"{context.name}_first", context.filters, context.strides)
        layers, last_context = steps(order, first), context.at(context.name, context.filters)
    layers += steps(before, last_context)
    last = activation(nonlinearity, f"{context.name}_out") if behind else []
    return Part(context.name, layers, shortcut, last)


def activation(nonlinearity: str, name: str) -> list[keras.layers.Layer]:
    """The layer of a nonlinearity; see `block`."""
    if nonlinearity == "relu":
        return [keras.layers.ReLU(name=name, autocast=False)]
    if nonlinearity == "prelu":
        return [PReLU2D(name=name)]
    return [RPReLU(name=name)] if nonlinearity == "rprelu" else []
