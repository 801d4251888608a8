"""BinaryDuo: a residual network with ternary activations, and its decoupling into binary ones.

Source: Kim et al., arXiv 2002.06517, and the layout of the authors' program. The coupled network
trains first: its ternary activation mismatches its gradient less than a sign does. `decouple` then
replaces each activation by two binary ones without changing the function, and training continues,
with both copies' weights independent. The widths are those of the usual ResNet-18 divided by √2, so
that the decoupled network has its number of operations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from bnas_larq.backend import keras, unbounded_kernels
from bnas_larq.errors import BnasLarqError
from bnas_larq.layers import residual_blocks
from bnas_larq.layers.batch_norm import BatchNorm2D, batch_norm
from bnas_larq.layers.convolutions import RepeatChannels
from bnas_larq.layers.coupled_activation import ClippedRound, MeanOfCopies, PadChannels
from bnas_larq.layers.residual_blocks import Part
from bnas_larq.networks.residual_network import ResidualConfig, build_residual_network
from bnas_larq.setting_types import MAX_CHANNELS

#: Names of the BatchNorms at which a residual stream begins. Decoupling shifts the copies there;
#: behind them, the identity shortcuts carry the shift.
_STREAM = "stream"


@dataclasses.dataclass(frozen=True)
class BinaryDuoConfig(ResidualConfig):
    """Size of BinaryDuo's network, whose scheme and template are fixed.

    Blocks of one convolution: activation, 3×3 convolution, BatchNorm, sum with the shortcut. Where
    the resolution halves, the shortcut is a 2×2 average pool, a real 1×1 and a BatchNorm; around
    the last convolution it is padded with zeros. A BatchNorm stands between the stem and the first
    block, a ReLU behind the stem and in front of the classifier.

    Attributes:
        input_shape, num_classes, stem, classifier_activation: as of `ResidualConfig`.
        widths, blocks: as of `ResidualConfig`; the first block of a resolution halves it.
        last_width: channels of the last convolution, at least widths[-1], which is the default.
        activations: `sign` for the decoupled network, whose activations are 0 and 1 and whose
            convolutions read two copies of each tensor; `ternary` for the coupled one; or a real
            function of `ResidualConfig`, also without copies.
        kernels: `binary`, ± one scale per layer, or `real`.

    Raises:
        BnasLarqError: impossible sizes.

    Example:
        >>> config = BinaryDuoConfig(widths=(4, 6), blocks=(1, 2), activations="ternary")
        >>> config.decoupled, config.replace(activations="sign").decoupled
        (False, True)
    """

    kind = "binary-duo"

    scheme: str = dataclasses.field(default="binary-duo", init=False)
    full_precision: tuple[str, ...] = dataclasses.field(default=(), init=False)
    activation_gradient: str = dataclasses.field(default="ste", init=False)
    activation_clip: float = dataclasses.field(default=1.0, init=False)
    block_convolutions: int = dataclasses.field(default=1, init=False)
    transition: str = dataclasses.field(default="pool-conv", init=False)
    strided_blocks: bool = dataclasses.field(default=True, init=False)
    block_order: str = dataclasses.field(default="sign-conv-bn-add-act", init=False)
    nonlinearity: str = dataclasses.field(default="none", init=False)
    pad_values: int = dataclasses.field(default=0, init=False)
    last_width: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.widths[-1] <= self._last <= MAX_CHANNELS:
            raise BnasLarqError(
                "The last convolution's shortcut is padded, so it is not narrower than the others. "
                f"Received: last_width={self.last_width}, widths={list(self.widths)}. "
                f"Give at least {self.widths[-1]}, and at most {MAX_CHANNELS:,}."
            )

    @property
    def _last(self) -> int:
        """Channels of the last convolution."""
        return self.widths[-1] if self.last_width is None else self.last_width

    def _weights(self) -> int:
        square, classes = self.widths[-1] ** 2, self.num_classes
        blocks = super()._weights() - 9 * square - self.widths[-1] * classes
        copies = 2 if self.decoupled else 1
        return copies * (blocks + 9 * self.widths[-1] * self._last) + self._last * classes

    @property
    def decoupled(self) -> bool:
        """Whether each activation is two binary ones."""
        return self.activations == "sign"

    @property
    def model_name(self) -> str:
        return "_".join(map(str, ("binary_duo", *self.widths, self._last)))

    @property
    def size(self) -> str:
        kind = "decoupled" if self.decoupled else "coupled"
        last = f", the last of {self.last_width}" if self.last_width else ""
        return f"BinaryDuo's {kind} {super().size}{last}"

    def parts(self) -> list[Part]:
        own = self.context().at("stem", self.widths[0])
        # The published stem has its ReLU in front of the max pool, which is the same.
        first = residual_blocks.stem(self.stem, own).layers
        relu = keras.layers.ReLU(name="stem_relu", autocast=False)
        start = [self._copies(f"{_STREAM}0"), batch_norm(f"{_STREAM}0_bn")]
        built = [Part("stem", [*first, relu, *start])]
        for resolution, blocks in enumerate(self.blocks):
            built += [self._block(resolution, number) for number in range(blocks)]
        return [*built, Part("relu", [keras.layers.ReLU(name="relu", autocast=False)])]

    def _copies(self, place: str) -> RepeatChannels:
        return RepeatChannels(2 if self.decoupled else 1, name=f"{place}_copies")

    def _block(self, resolution: int, number: int) -> Part:
        place, width = f"block{resolution}_{number}", self.widths[resolution]
        halves = resolution > 0 and number == 0
        last = (resolution, number) == (len(self.widths) - 1, self.blocks[-1] - 1)
        context = self.context().at(place, self._last if last else width, 2 if halves else 1)
        layers, shortcut = context.binary_conv(3), []
        if halves or last:
            shortcut.append(MeanOfCopies(2 if self.decoupled else 1, name=f"{place}_mean"))
        if halves:
            own = context.at(f"transition{resolution}", width)
            shortcut += residual_blocks.transition("pool-conv", self.widths[resolution - 1], own)
        if last:
            shortcut.append(PadChannels(self._last, name=f"{place}_pad"))
        else:
            layers.append(self._copies(place))
            shortcut += [self._copies(f"transition{resolution}")] if halves else []
        starts = halves and not last
        layers.append(batch_norm(f"{_STREAM}{resolution}_bn" if starts else f"{place}_bn"))
        return Part(place, layers, shortcut)


def build_binary_duo(
    *,
    decoupled: bool = False,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    num_classes: int = 10,
    widths: Sequence[int] = (64, 90, 180, 360),
    blocks: Sequence[int] = (4, 4, 4, 4),
    last_width: int = 512,
    stem: str = "auto",
    kernels: str = "binary",
    name: str | None = None,
) -> keras.Model:
    """Build BinaryDuo's network, by default the published ResNet-18.

    Args:
        decoupled: with binary activations and each tensor that they read doubled, as `decouple`
            returns it, but with weights of its own.
        input_shape: (height, width, channels) of the images.
        num_classes: outputs of the classifier.
        widths, blocks, last_width, kernels: see `BinaryDuoConfig`.
        stem: `cifar`, `imagenet` or `auto`, see `ResidualConfig`; a ReLU stands behind it.
        name: the Keras model's name.

    Returns:
        Functional Keras model, [batch, height, width, channels] → [batch, num_classes], normalised
        float32 images to logits.

    Raises:
        BnasLarqError: impossible sizes, as `build_residual_network`.

    Example:
        >>> size = {"input_shape": (8, 8, 3), "widths": (4, 6), "blocks": (1, 2), "last_width": 8}
        >>> model = build_binary_duo(**size)
        >>> model.get_layer("block1_1_out").output_shape
        (None, 4, 4, 8)
    """
    config = BinaryDuoConfig(
        input_shape=input_shape,
        num_classes=num_classes,
        stem=stem,
        widths=tuple(widths),
        blocks=tuple(blocks),
        last_width=last_width,
        activations="sign" if decoupled else "ternary",
        kernels=kernels,
    )
    return build_residual_network(config, name=name)


@unbounded_kernels()
def decouple(model: keras.Model) -> keras.Model:
    """The decoupled network of a coupled one, which computes the same function at first.

    Every tensor that a ternary activation reads is doubled, with one copy shifted by −1/4 and the
    other by +1/4, and read by binary activations. Kernels become [W/2, W/2] along their input
    channels. The shift is in the BatchNorms at which a residual stream begins.

    Args:
        model: of `build_binary_duo`, trained or not, also one that was saved and loaded again; it
            is not changed.

    Returns:
        A model like `build_binary_duo(decoupled=True, …)`, not compiled. In inference its outputs
        are those of `model`, up to rounding; trained on, both copies learn on their own.

    Raises:
        BnasLarqError: a model without ternary activations.

    Example:
        >>> size = {"input_shape": (8, 8, 3), "widths": (4, 6), "blocks": (1, 2), "last_width": 8}
        >>> decoupled = decouple(build_binary_duo(**size))
        >>> decoupled.get_layer("block1_1_conv").kernel.shape
        TensorShape([3, 3, 12, 8])
    """
    of_streams = any(layer.name.startswith(_STREAM) for layer in model.layers)
    if not (of_streams and any(map(_is_ternary, model.layers))):
        raise BnasLarqError(
            "Only a network with BinaryDuo's ternary activations is decoupled, once. "
            f"Received: {model.name!r}, which has none. Use one of build_binary_duo()."
        )
    decoupled = keras.models.clone_model(model, clone_function=_decoupled_layer)
    for layer in model.layers:
        copy = decoupled.get_layer(layer.name)
        copy.set_weights(
            [
                _decoupled_weight(weight, copied.shape)
                for weight, copied in zip(layer.get_weights(), copy.weights, strict=True)
            ]
        )
        if isinstance(copy, BatchNorm2D) and copy.name.startswith(_STREAM):
            first, second = np.split(copy.beta.numpy(), 2)
            copy.beta.assign(np.concatenate([first - 0.25, second + 0.25]))
    return decoupled


def _is_ternary(layer: keras.layers.Layer) -> bool:
    quantizer = getattr(layer, "input_quantizer", None)
    return isinstance(quantizer, ClippedRound) and quantizer.levels == 2


def _decoupled_layer(layer: keras.layers.Layer) -> keras.layers.Layer:
    """A new layer without weights."""
    config = layer.get_config()
    if isinstance(layer, RepeatChannels):
        config["times"] = 2
    elif isinstance(layer, MeanOfCopies):
        config["copies"] = 2
    elif _is_ternary(layer):
        config["input_quantizer"] = ClippedRound(1)
    return type(layer).from_config(config)


def _decoupled_weight(weight: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """A weight of the coupled network for a layer in which it has this shape."""
    if weight.shape == tuple(shape):
        return weight
    # BatchNorm's vectors are per channel; a kernel [h, w, in, out] reads each channel's half twice.
    return np.tile(weight, 2) if weight.ndim == 1 else np.concatenate([weight / 2] * 2, axis=2)
