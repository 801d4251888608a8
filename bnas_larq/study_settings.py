"""The sections of a recipe that make it a study of several networks."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic

from bnas_larq.setting_types import Channels, Count, NotNegative, PlainName, Section


class LayerStudySettings(Section):
    """Networks of one kind of layer alone (BNAS, arXiv 2002.06963).

    Each is trained with the sections `network` and `train`; the row decides `network.scheme`.

    Attributes:
        layers: the table's columns; any registered operation is allowed, too.
        precisions: the table's rows. `binary` is the papers' Sign+Scale, which centres latent
            kernels over their input channels. A depthwise kernel has one, and becomes 0:
            `uncentred`, for separable layers only, leaves depthwise kernels as they are.
    """

    layers: tuple[str, ...] = ("conv_3x3", "conv_5x5", "dil_3x3", "dil_5x5", "sep_3x3", "sep_5x5")
    precisions: tuple[Literal["full", "binary", "uncentred"], ...] = ("full", "binary", "uncentred")


class AblationRow(Section):
    """A network of an ablation, as changes of the network before it.

    Attributes:
        changes: sections and keys of a recipe, such as `{train: {drop_path: 0.0}}`; lists are
            replaced as a whole.
        operations: operations of the genotype to replace by others.
    """

    name: PlainName
    changes: dict[str, Any] = {}
    operations: dict[str, str] = {}


class AblationSettings(Section):
    """Networks that are changed step by step, each trained with every seed.

    Attributes:
        rows: the first one is usually the recipe itself; each keeps the changes of those before.
        seeds: of each network, in place of the recipe's.
        tolerance: rows other than the first get the `network.channels`, or widths in the same
            proportions, whose operations, counted honestly, differ least from the first's, and at
            most by this share; None leaves sizes as they are.
    """

    rows: list[AblationRow] = pydantic.Field(min_length=2, max_length=100)
    seeds: list[Annotated[int, pydantic.Field(ge=0, lt=2**32)]] = pydantic.Field(
        [0, 1], min_length=1, max_length=100
    )
    tolerance: float | None = pydantic.Field(0.03, gt=0, lt=1)

    @pydantic.model_validator(mode="after")
    def _named_once(self) -> AblationSettings:
        for kind, values in (("rows", [row.name for row in self.rows]), ("seeds", self.seeds)):
            if len(set(values)) != len(values):
                raise ValueError(f"each of the {kind} is named once")
        return self


class FacesSettings(Section):
    """A binary embedding network and its full-precision twin, trained to tell some people apart and
    verified on pairs of others; `data` is a folder with one folder per person.

    Attributes:
        train_people: how many people train, the first in natural order of the folders' names.
        features: length of an embedding.
        head: margin of the training head, see `bnas_larq.layers.margin_head`.
        scale: s of its logits; 64 as published, less for small data sets (ours).
        margin: m; as published 0.5 of ArcFace and 0.4 of CosFace, less for small data sets (ours).
        center_weight: λ of the centre loss; 0 for none.
        folds: parts of the other people, of which each is judged by the threshold of the others.
        flip: embed images together with their mirror images.
    """

    train_people: Count = 20
    features: Channels = 128
    head: Literal["arcface", "cosface"] = "arcface"
    scale: float = pydantic.Field(30.0, gt=0)
    margin: float = pydantic.Field(0.3, ge=0, lt=3.14)
    center_weight: NotNegative = 0.0
    folds: int = pydantic.Field(10, ge=2, le=1000)
    flip: bool = True
