"""The network of a genotype, which is trained and deployed: a functional Keras model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from bnas_larq.backend import keras, tf
from bnas_larq.errors import BnasLarqError, nearest
from bnas_larq.genotype import Genotype
from bnas_larq.layers import template
from bnas_larq.layers.cells import DropPathControl, final_cell
from bnas_larq.layers.convolutions import check_padding
from bnas_larq.layers.operations import Context, build_operation, chain
from bnas_larq.networks.base_config import BaseConfig, functional_model
from bnas_larq.networks.binary_duo import BinaryDuoConfig
from bnas_larq.networks.residual_network import ResidualConfig, build_residual_network
from bnas_larq.spaces import (
    PARAMETER_FREE,
    PREPROCESSINGS,
    ZEROISE,
    has_groups,
    preprocessing_of,
    shortcut_kind,
)


@dataclasses.dataclass(frozen=True)
class NetworkConfig(BaseConfig):
    """Size and template of a network made of a genotype's cells.

    Attributes:
        input_shape: (height, width, channels) of the images.
        num_classes: outputs of the classifier.
        channels: channels of the first cell's nodes (the papers' C).
        cells: number of cells.
        reductions: numbers of the cells, from 0, that halve the resolution and double the channels;
            None for cells//3 and 2·cells//3.
        stem: `"cifar"`, `"imagenet"`, or `"auto"`: by the size of the input, resolved at once and
            again by `replace` with another size. A file keeps the stem that its weights need.
        stem_groups: groups of the ImageNet stem's second and third convolution (BNAS v2).
        padding: `"same"` (exports to 1 bit) or `"symmetric"` (for imported weights).
        shortcut: how the previous cell's output is added to each cell's, one of
            `bnas_larq.spaces.SHORTCUTS`. In a reduction cell it passes `"conv"`: a full-precision
            2×2 convolution (BNAS); `"pool"`: a 2×2 average pool, its channels twice, each times a
            learned scale (no MACs); `"depthwise"`: a full-precision depthwise 2×2 convolution.
            `"none"`: nothing is added.
        preprocess: `"relu"` or `"linear"`, what follows the convolutions that preprocess a cell's
            inputs; `"prelu"`: BATS' template, see `bnas_larq.layers.template.preprocess`, and its
            CIFAR stem; `"auto"`: by the genotype, `linear` if its convolutions have no ReLU.
        groups: of BATS' convolutions, in all cells alike; they divide the channels.
        scheme: binarisation scheme, a registered name.
        activations, kernels, activation_gradient, activation_clip: what is changed about it, see
            `bnas_larq.layers.activations.SchemeOptions`.
        full_precision: name patterns of convolutions whose kernel stays in full precision.
        classifier_activation: activation of the classifier; None for logits.

    Raises:
        BnasLarqError: impossible sizes, unknown stem, padding or scheme.

    Example:
        >>> config = NetworkConfig(input_shape=(32, 32, 3), channels=16, cells=8)
        >>> config.stem
        'cifar'
        >>> config.replace(input_shape=(224, 224, 3)).stem
        'imagenet'
    """

    kind = "cells"

    channels: int = 36
    cells: int = 20
    reductions: tuple[int, ...] | None = None
    stem_groups: int = 1
    padding: str = "same"
    shortcut: str = "conv"
    preprocess: str = "auto"
    groups: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "shortcut", shortcut_kind(self.shortcut))
        check_padding(self.padding)
        if self.preprocess not in (known := ("auto", *PREPROCESSINGS)):
            raise BnasLarqError(
                f"A network's preprocess is one of {', '.join(known)}. "
                f"Received: {self.preprocess!r}; {nearest(str(self.preprocess), known)}"
            )
        if self.reductions is not None:
            object.__setattr__(self, "reductions", tuple(self.reductions))
            template.check_resolution(self.reductions, self.stem, self.input_shape)
        self.plan_cells()
        template.check_stem_groups(self.stem, self.channels, self.stem_groups)
        template.check_groups(self.groups, self.channels)

    @property
    def size(self) -> str:
        """Its size in words."""
        return f"{self.cells} cells of {self.channels} channels"

    def preprocessing(self, operations: Iterable[str]) -> str:
        """What preprocesses the inputs of a network of these operations, one of
        `bnas_larq.spaces.PREPROCESSINGS`. BnasLarqError if it has groups for none of them."""
        operations = frozenset(operations)
        check_operations(self.groups, operations)
        return preprocessing_of(operations) if self.preprocess == "auto" else self.preprocess

    def plan_cells(self) -> list[template.CellPlan]:
        """Place and size of each cell."""
        return template.plan_cells(self.cells, self.channels, self.stem, self.reductions)

    def context(self) -> Context:
        """What all its layers share; `Context.at` adds the name of each."""
        own = {"filters": self.channels, "padding": self.padding, "groups": self.groups}
        return dataclasses.replace(super().context(), **own)


def check_operations(groups: int, operations: Iterable[str]) -> None:
    """Raise BnasLarqError for groups of a network or supernet whose convolutions have none."""
    others = sorted(frozenset(operations) - {ZEROISE, *PARAMETER_FREE})
    if groups > 1 and others and not any(map(has_groups, others)):
        raise BnasLarqError(
            "Only BATS' operations (bin_group_…) have groups. "
            f"Received: groups={groups} with {', '.join(others)}. Give 1."
        )


def check_candidates(config: NetworkConfig, operations: Iterable[str]) -> None:
    """Raise BnasLarqError unless a network of this size and scheme can have each of these
    operations, in all of its cells, and as `NetworkConfig.preprocessing`."""
    operations = frozenset(operations)
    config.preprocessing(operations)
    reduces = any(plan.reduction for plan in config.plan_cells())
    for name in sorted(operations):
        for strides in (1, 2) if reduces else (1,):
            build_operation(name, config.context().at(name, config.channels, strides))


#: The configuration of each kind of network.
KINDS: Mapping[str, type[BaseConfig]] = {
    config.kind: config for config in (NetworkConfig, ResidualConfig, BinaryDuoConfig)
}


def config_of_kind(kind: str, settings: Mapping[str, Any]) -> BaseConfig:
    """The configuration of a kind of network from settings of all kinds, of which it takes its own.
    BnasLarqError for impossible ones."""
    own = KINDS[kind].settings()
    return KINDS[kind](**{key: value for key, value in settings.items() if key in own})


def build_network(
    genotype: Genotype | None,
    config: BaseConfig | None = None,
    *,
    drop_path: bool = False,
    include_top: bool = True,
    pooling: str | None = None,
    input_tensor: tf.Tensor | None = None,
    name: str | None = None,
    **settings: Any,
) -> keras.Model:
    """Build the network of a genotype, or of any other description.

    Args:
        genotype: the result of a search, or a published one; None with a `ResidualConfig`, whose
            network `build_residual_network` builds.
        config: size and template; or give its attributes as keywords (`channels=36, cells=20, …`).
        drop_path: add drop-path layers on the edges, for training. They hold no weights, so both
            forms share weight files; their rate is 0 until a training callback raises it.
        include_top: whether to add the global pool and the classifier.
        pooling: without top: None, `"avg"` or `"max"` (global pool). Ignored with the top, as in
            keras.applications.
        input_tensor: a Keras tensor of images to build upon; its shape is the input shape.
        name: the Keras model's name; default `bnas_` and the genotype's id.
        settings: attributes of `NetworkConfig`, in place of those of `config`.

    Returns:
        Functional Keras model, [batch, height, width, channels] → [batch, num_classes], normalised
        float32 images to logits. Without top the output is the last cell's, [batch, h, w, nodes·C]
        with the C of that cell, or with pooling [batch, nodes·C]. Every convolution but stem and
        shortcuts is binary. Layers have the same names in all these forms.

    Raises:
        BnasLarqError, GenotypeError: impossible sizes or settings, or an unknown operation.

    Example:
        >>> from bnas_larq import Genotype
        >>> genotype = Genotype.published("bnas_cifar")
        >>> model = build_network(genotype, input_shape=(8, 8, 3), channels=4, cells=1)
        >>> model.output_shape
        (None, 10)
    """
    form = {"include_top": include_top, "pooling": pooling, "input_tensor": input_tensor}
    check_genotype(genotype, config)
    if isinstance(config, ResidualConfig):
        return build_residual_network(config, drop_path=drop_path, name=name, **form, **settings)
    template.check_pooling(pooling)
    config = NetworkConfig.resolved(config, settings, input_tensor)
    plans = config.plan_cells()
    template.check_weights(plans, config.num_classes)
    context = config.context()
    control = DropPathControl() if drop_path else None
    preprocessing = config.preprocessing(genotype.operations)

    def body(images: tf.Tensor) -> tf.Tensor:
        if config.stem == "imagenet":
            first, second = template.imagenet_stem(config.channels, context, config.stem_groups)
            older = chain(first, images)
            newer = chain(second, older)
        else:
            stem = template.cifar_stem(config.channels, context, preprocessing)
            older = newer = chain(stem, images)
        for plan in plans:
            cell = genotype.reduce if plan.reduction else genotype.normal
            output = final_cell(
                cell,
                plan,
                (older, newer),
                stem=config.stem,
                context=context,
                shortcut_kind=config.shortcut,
                preprocessing=preprocessing,
                drop_path=control,
            )
            older, newer = newer, output
        return newer

    name = name or f"bnas_{genotype.id.replace('-', '_')}"
    return functional_model(body, config, name=name, **form)


def check_genotype(genotype: Genotype | None, config: BaseConfig | None) -> None:
    """Raise BnasLarqError unless a network of cells has a genotype and another one has none."""
    if (genotype is None) != isinstance(config, ResidualConfig):
        held = "no genotype" if genotype is None else f"genotype {genotype.id}"
        raise BnasLarqError(
            "A network of cells has a genotype, a residual network has none. "
            f"Received: {held} with {type(config or NetworkConfig()).__name__}."
        )
