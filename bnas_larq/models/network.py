"""From a genotype to the network that is trained and deployed: a functional Keras model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from bnas_larq.backend import keras
from bnas_larq.errors import BnasLarqError, nearest
from bnas_larq.genotype import Genotype
from bnas_larq.layers import template
from bnas_larq.layers.cells import DropPathControl, final_cell
from bnas_larq.layers.convolutions import check_padding
from bnas_larq.layers.operations import Context, chain
from bnas_larq.layers.quantizers import get_scheme

#: Inputs of at least this height and width get the ImageNet stem, which halves them three times.
IMAGENET_STEM_FROM = 96


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """Size and template of a network.

    Attributes:
        input_shape: (height, width, channels) of the images.
        num_classes: outputs of the classifier.
        channels: channels of the first cell's nodes (the papers' C).
        cells: number of cells; cells//3 and 2·cells//3 are reduction cells.
        stem: `"cifar"`, `"imagenet"`, or `"auto"`: by the size of the input.
        padding: `"same"` (exports to 1 bit) or `"symmetric"` (for imported weights).
        shortcut: whether each cell's output gets the previous cell's output added.
        scheme: binarisation scheme, a registered name.
        full_precision: patterns of names of convolutions whose kernel stays full precision.
        classifier_activation: activation of the classifier; None for logits.

    Raises:
        BnasLarqError: impossible sizes, unknown stem, padding or scheme.
    """

    input_shape: tuple[int, int, int] = (32, 32, 3)
    num_classes: int = 10
    channels: int = 36
    cells: int = 20
    stem: str = "auto"
    padding: str = "same"
    shortcut: bool = True
    scheme: str = "sign-scale"
    full_precision: tuple[str, ...] = ()
    classifier_activation: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "input_shape", tuple(self.input_shape))
        object.__setattr__(self, "full_precision", tuple(self.full_precision))
        if self.num_classes < 2:
            raise BnasLarqError(
                "A classifier needs at least two classes. "
                f"Received: num_classes={self.num_classes}."
            )
        if len(self.input_shape) != 3 or any(size is None or size < 1 for size in self.input_shape):
            raise BnasLarqError(
                "An input shape is (height, width, channels), all known. "
                f"Received: {self.input_shape}."
            )
        check_padding(self.padding)
        get_scheme(self.scheme)
        if self.stem == "auto":
            large = min(self.input_shape[:2]) >= IMAGENET_STEM_FROM
            object.__setattr__(self, "stem", "imagenet" if large else "cifar")
        template.plan_cells(self.cells, self.channels, self.stem)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able description; `NetworkConfig.from_dict` takes it back."""
        values = dataclasses.asdict(self)
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in values.items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NetworkConfig:
        """The inverse of `to_dict`; BnasLarqError for unknown keys."""
        known = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                raise BnasLarqError(
                    "A network's settings have fixed keys. "
                    f"Received: {key!r}; {nearest(key, known)}"
                )
        return cls(**values)


def build_network(
    genotype: Genotype,
    config: NetworkConfig | None = None,
    *,
    drop_path: bool = False,
    name: str | None = None,
    **settings: Any,
) -> keras.Model:
    """Build the network of a genotype.

    Args:
        genotype: what a search found or a paper published.
        config: size and template; or give its attributes as keywords (`channels=36, cells=20, …`).
        drop_path: add drop-path layers on the edges, for training; they hold no weights, so that
            both forms share weight files. Their rate is 0 until a training callback raises it.
        name: the Keras model's name; default `bnas_` and the genotype's id.

    Returns:
        Functional Keras model, [batch, height, width, channels] → [batch, num_classes], normalised
        float32 images to logits. Every convolution but stem and shortcuts is binary.

    Raises:
        BnasLarqError, GenotypeError: impossible sizes or an unknown operation.
    """
    config = dataclasses.replace(config, **settings) if config else NetworkConfig(**settings)
    context = Context(
        "",
        config.channels,
        padding=config.padding,
        scheme=config.scheme,
        full_precision=config.full_precision,
    )
    control = DropPathControl() if drop_path else None
    inputs = keras.Input(config.input_shape, name="image")
    if config.stem == "imagenet":
        first, second = template.imagenet_stem(config.channels, context)
        older = chain(first, inputs)
        newer = chain(second, older)
    else:
        older = newer = chain(template.cifar_stem(config.channels, context), inputs)
    for plan in template.plan_cells(config.cells, config.channels, config.stem):
        cell = genotype.reduce if plan.reduction else genotype.normal
        output = final_cell(
            cell,
            plan,
            (older, newer),
            stem=config.stem,
            context=context,
            with_shortcut=config.shortcut,
            drop_path=control,
        )
        older, newer = newer, output
    outputs = chain(template.classifier(config.num_classes, config.classifier_activation), newer)
    return keras.Model(inputs, outputs, name=name or f"bnas_{genotype.id.replace('-', '_')}")
