"""Residual backbones: chains of binary convolutions with a shortcut around each, or around two,
which need no genotype. QuickNet, Bi-Real Net and ResNets, binary and real, are sizes and block
orders of it.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, get_args

from bnas_larq.backend import keras, tf
from bnas_larq.errors import BnasLarqError, nearest
from bnas_larq.layers import template
from bnas_larq.layers.activations import is_sign
from bnas_larq.layers.cells import DropPath, DropPathControl
from bnas_larq.layers.merging import MixedPrecisionAdd
from bnas_larq.layers.operations import chain
from bnas_larq.layers.quantizers import get_scheme, no_layers
from bnas_larq.layers.residual_blocks import Part, block, stem, transition
from bnas_larq.networks.base_config import BaseConfig, functional_model
from bnas_larq.setting_types import (
    MAX_CELLS,
    MAX_CHANNELS,
    BlockOrder,
    Nonlinearity,
    Transition,
)

#: How often each stem halves the images, as a factor of their sides.
_STEM_STRIDES = {"cifar": 1, "imagenet": 4, "quicknet": 4}
_CHOICES = {
    "stem": tuple(_STEM_STRIDES),
    "transition": get_args(Transition),
    "block_order": get_args(BlockOrder),
    "nonlinearity": get_args(Nonlinearity),
}


@dataclasses.dataclass(frozen=True)
class ResidualConfig(BaseConfig):
    """Size and template of a residual backbone.

    Attributes:
        input_shape, num_classes, scheme, full_precision, classifier_activation: as of
            `NetworkConfig`.
        widths: channels of the blocks at each resolution, which halves from one to the next.
        blocks: number of blocks at each resolution, which may be 0 where the transition is enough.
        block_convolutions: convolutions of a block, 1 or 2 (ResNet-18 and 34).
        transition: from one resolution to the next: `pool` (2×2 average pool, channels repeated),
            `depthwise` (2×2 with stride 2), `pool-conv` (average pool and 1×1), `conv-pool`
            (the other way round; CBCN), `conv` and `binary-conv` (1×1 with stride 2, real or
            binary), `blur-conv` (QuickNet's blur pool and 1×1) or `conv-max-pool` (3×3 and max
            pool; ResNet-9). With `pool` and `depthwise` each width is a multiple of the one before.
        strided_blocks: False: the transition stands between the blocks of two resolutions
            (QuickNet). True: it is the shortcut of the first block behind it, whose convolution
            has stride 2 (Bi-Real Net, ResNet).
        block_order: `sign-conv-bn-add-act` (Bi-Real Net, ReActNet; with real convolutions and ReLU
            a ResNet), `sign-conv-act-bn-add` (QuickNet) or `bn-sign-conv-act-add` (Real-to-Binary).
        nonlinearity: the step `act`: `none`, `relu`, `prelu` or `rprelu` (ReActNet). No sign reads
            a ReLU, behind which it is always +1, unless the scheme shifts it (`react`).
        pad_values: what binary convolutions pad behind the sign, 0 or (QuickNet) 1. With 1 Larq
            Compute Engine computes a ReLU and a BatchNorm behind a convolution together with it.
        stem: `cifar` (3×3), `imagenet` (7×7 with stride 2, max pool) or `quicknet` (3×3, depthwise
            3×3 and 1×1, to a quarter of the resolution), all to widths[0]; or `auto`: by the size
            of the input, see `NetworkConfig`.

    Raises:
        BnasLarqError: impossible sizes, or an unknown name.

    Example:
        >>> config = ResidualConfig(widths=(32, 64), blocks=(2, 3))
        >>> config.size
        'residual blocks 2+3 of 32+64 channels'
    """

    kind = "residual"

    widths: tuple[int, ...] = (32, 64, 128)
    blocks: tuple[int, ...] = (2, 3, 3)
    block_convolutions: int = 1
    transition: str = "pool"
    strided_blocks: bool = False
    block_order: str = "sign-conv-act-bn-add"
    nonlinearity: str = "relu"
    pad_values: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, known in _CHOICES.items():
            if (value := getattr(self, key)) not in known:
                raise BnasLarqError(
                    f"A residual network's {key} is one of {', '.join(known)}. "
                    f"Received: {value!r}; {nearest(str(value), known)}"
                )
        widths, blocks = tuple(self.widths), tuple(self.blocks)
        object.__setattr__(self, "widths", widths)
        object.__setattr__(self, "blocks", blocks)
        received = f"Received: widths={list(widths)}, blocks={list(blocks)}"
        fits = len(widths) == len(blocks) and all(2 <= width <= MAX_CHANNELS for width in widths)
        if not fits or min(blocks, default=-1) < 0 or not 0 < sum(blocks) <= MAX_CELLS:
            raise BnasLarqError(
                "A residual network has as many widths as numbers of blocks: 2 to "
                f"{MAX_CHANNELS:,} channels, and at least one block in all. {received}."
            )
        if self.strided_blocks and not all(blocks[1:]):
            raise BnasLarqError(
                "With strided blocks, the first block of a resolution halves it, so each has one. "
                f"{received}. Add blocks, or set strided_blocks to false."
            )
        if self.stem == "quicknet" and widths[0] % 4:
            raise BnasLarqError(
                f"QuickNet's stem begins with a quarter of the first width. {received}. "
                "Use a multiple of 4."
            )
        if self.block_convolutions not in (1, 2):
            raise BnasLarqError(
                "A residual block has one convolution or two. "
                f"Received: block_convolutions={self.block_convolutions!r}."
            )
        if self.pad_values not in (0, 1):
            raise BnasLarqError(
                f"Binary convolutions pad 0 or 1. Received: pad_values={self.pad_values!r}."
            )
        if self.pad_values and get_scheme(self.scheme).convolution:
            raise BnasLarqError(
                f"The scheme {self.scheme} has convolutions of its own, which pad zeros. "
                f"Received: pad_values={self.pad_values}. Use 0, or another scheme."
            )
        if (weights := self._weights()) > template.MAX_WEIGHTS:
            raise BnasLarqError(
                f"No network of more than {template.MAX_WEIGHTS:,} weights is built. Received: "
                f"about {weights:,} for {self.size}, num_classes={self.num_classes}. "
                "Give a smaller size."
            )
        if self.transition in ("pool", "depthwise"):
            if any(wide % narrow for narrow, wide in itertools.pairwise(widths)):
                raise BnasLarqError(
                    f"The transition {self.transition!r} repeats channels, so each width is a "
                    f"multiple of the one before. {received}. Use pool-conv or blur-conv."
                )
        self._check_sides(received)
        self._check_signs()

    def _weights(self) -> int:
        """About how many weights it has, before anything is allocated."""
        weights = self.block_convolutions * sum(
            9 * width**2 * count for width, count in zip(self.widths, self.blocks, strict=True)
        )
        if self.transition == "conv-max-pool":
            weights += sum(9 * narrow * wide for narrow, wide in itertools.pairwise(self.widths))
        return weights + self.widths[-1] * self.num_classes

    def _check_sides(self, received: str) -> None:
        """Every transition must find something to halve."""
        sides = [-(-side // _STEM_STRIDES[self.stem]) for side in self.input_shape[:2]]
        for _ in self.widths[1:]:
            if min(sides) < 2 or (self.transition == "blur-conv" and any(s % 2 for s in sides)):
                raise BnasLarqError(
                    "Each resolution is half of the one before, which blur-conv halves without "
                    f"remainder. {received} at {self.input_shape}, a side of {min(sides)} to "
                    "halve. Use larger images or fewer resolutions."
                )
            sides = [-(-side // 2) for side in sides]

    def _check_signs(self) -> None:
        """No sign may read what a ReLU returns."""
        if self.nonlinearity != "relu" or not self.block_order.endswith("act"):
            return
        scheme = get_scheme(self.scheme, self._scheme_options())
        if not is_sign(scheme.input_quantizer()) or scheme.in_front is not no_layers:
            return
        # Between the two convolutions of a block there is one, too.
        positive, constant = False, self.block_convolutions == 2
        for resolution, blocks in enumerate(self.blocks):
            if resolution and not self.strided_blocks:
                constant |= positive and self.transition == "binary-conv"
                # The other transitions have a BatchNorm.
                positive &= self.transition == "pool"
            for _ in range(blocks):
                constant |= positive
                positive = True
        if constant:
            raise BnasLarqError(
                "Behind a ReLU every sign is +1, so no sign reads one. Received: block_order="
                f"{self.block_order!r} with nonlinearity='relu', activations='sign', "
                f"scheme={self.scheme!r}. Use prelu or rprelu, or another block order."
            )

    @property
    def model_name(self) -> str:
        """The default name of its Keras model."""
        return "_".join(map(str, ("residual", *self.widths)))

    @property
    def size(self) -> str:
        """Its size in words."""
        blocks, widths = ("+".join(map(str, numbers)) for numbers in (self.blocks, self.widths))
        twice = ", two convolutions each" if self.block_convolutions == 2 else ""
        return f"residual blocks {blocks} of {widths} channels{twice}"

    def parts(self) -> list[Part]:
        """New layers of all parts, from the image to the features that the classifier reads."""
        context = dataclasses.replace(self.context(), pad_values=float(self.pad_values))
        widths = self.widths
        norm_first = self.block_order.startswith("bn-")
        built = [stem(self.stem, context.at("stem", widths[0]), norm_first)]
        for resolution, (width, blocks) in enumerate(zip(widths, self.blocks, strict=True)):
            halving: Sequence[keras.layers.Layer] = ()
            if resolution:
                name = f"transition{resolution}"
                own = context.at(name, width)
                halving = transition(self.transition, widths[resolution - 1], own, norm_first)
                if not self.strided_blocks:
                    built.append(Part(name, halving))
                    halving = ()
            for number in range(blocks):
                strided = self.strided_blocks and resolution > 0 and number == 0
                place = context.at(f"block{resolution}_{number}", width, 2 if strided else 1)
                shortcut = halving if number == 0 else ()
                steps = self.block_order, self.nonlinearity
                built.append(block(*steps, place, shortcut, self.block_convolutions))
        return built


def build_residual_network(
    config: ResidualConfig | None = None,
    *,
    drop_path: bool = False,
    include_top: bool = True,
    pooling: str | None = None,
    input_tensor: tf.Tensor | None = None,
    name: str | None = None,
    **settings: Any,
) -> keras.Model:
    """Build a residual backbone.

    Args:
        config: size and template, also of BinaryDuo's network; or give the attributes of a
            `ResidualConfig` as keywords (`widths=(32, 64), …`).
        drop_path: add drop-path layers in front of the sums (stochastic depth, arXiv 1603.09382),
            see `bnas_larq.build_network`.
        include_top, pooling, input_tensor: as of `bnas_larq.build_network`.
        name: the Keras model's name; default `residual_` and the widths.
        settings: attributes of `ResidualConfig`, in place of those of `config`.

    Returns:
        Functional Keras model, [batch, height, width, channels] → [batch, num_classes], normalised
        float32 images to logits; without top [batch, h, w, c], or with pooling [batch, c], where c
        is widths[-1], or the `last_width` of BinaryDuo's network. The output of block b (from 0) at
        resolution r is that of the layer `block<r>_<b>_out`. The blocks' convolutions are binary,
        unless the settings keep some real; the stem is real, and so are all transitions but
        `binary-conv`.

    Raises:
        BnasLarqError: impossible sizes or settings.

    Example:
        >>> model = build_residual_network(input_shape=(8, 8, 3), widths=(4, 8), blocks=(1, 1))
        >>> model.get_layer("block1_0_out").output_shape
        (None, 4, 4, 8)
    """
    template.check_pooling(pooling)
    config = ResidualConfig.resolved(config, settings, input_tensor)
    control = DropPathControl()

    def body(images: tf.Tensor) -> tf.Tensor:
        features = images
        for number, part in enumerate(config.parts()):
            outputs = chain(part.layers, features)
            if part.shortcut is not None:
                if drop_path:
                    outputs = DropPath(number, control, name=f"{part.name}_drop")(outputs)
                terms = [outputs, chain(part.shortcut, features)]
                outputs = MixedPrecisionAdd(name=part.sum_name)(terms)
            features = chain(part.behind, outputs)
        return features

    return functional_model(
        body,
        config,
        include_top=include_top,
        pooling=pooling,
        input_tensor=input_tensor,
        name=name or config.model_name,
    )
