"""A trained network in a folder, as runs and zoo entries hold it.

`network.json` (size, class names, normalisation, data), the `genotype.json` of a network of cells,
and `weights.h5` suffice to build the network again and to prepare images for it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pydantic

from bnas_larq.backend import keras, tf
from bnas_larq.data.geometry import Geometry
from bnas_larq.errors import RunError
from bnas_larq.files import read_model, write_json
from bnas_larq.genotype import Genotype
from bnas_larq.layers.template import is_activation
from bnas_larq.networks.base_config import BaseConfig
from bnas_larq.networks.network import build_network, config_of_kind
from bnas_larq.networks.weight_files import load_weights
from bnas_larq.run_folder import RunFolder
from bnas_larq.setting_types import Channels, ColorValue, Natural
from bnas_larq.settings import NetworkSettings

NETWORK, GENOTYPE, WEIGHTS = "network.json", "genotype.json", "weights.h5"


class _Config(NetworkSettings):
    """A network's configuration of any kind as it is stored, where numbers are numbers."""

    model_config = pydantic.ConfigDict(strict=True)
    # Lists, which strict validators of Python values do not take for tuples.
    input_shape: list[int] = pydantic.Field([32, 32, 3], min_length=3, max_length=3)
    num_classes: int = 10
    widths: list[Channels] = [32, 64, 128]
    blocks: list[Natural] = [2, 3, 3]
    full_precision: list[str] = []
    classifier_activation: str | None = None
    #: Files without the key are from releases that always had ReLU.
    preprocess: Literal["auto", "relu", "linear", "prelu"] = "relu"

    @pydantic.field_validator("classifier_activation")
    @classmethod
    def _known(cls, activation: str | None) -> str | None:
        if not is_activation(activation):
            raise ValueError("an activation that Keras knows, or null")
        return activation


class _Data(pydantic.BaseModel):
    """The data set, as it described itself; releases before centre crops name no evaluation."""

    model_config = pydantic.ConfigDict(extra="allow")
    evaluation: Literal["resize", "center-crop"] = pydantic.Field(
        "resize", description="'resize' or 'center-crop'"
    )
    crop_share: float = pydantic.Field(
        0.875, gt=0, le=1, description="a number above 0 and at most 1"
    )
    background: list[ColorValue] = pydantic.Field(
        [255, 255, 255], min_length=3, max_length=3, description="red, green and blue, 0 to 255"
    )


class _Description(pydantic.BaseModel):
    """All of network.json; keys of later releases are ignored."""

    model_config = pydantic.ConfigDict(strict=True)
    config: _Config = pydantic.Field(description="an object")
    genotype: str | None = None
    class_names: list[str] = pydantic.Field(description="a list of names")
    normalization: dict[str, list[float]] | None = pydantic.Field(
        None, description="an object of lists of numbers"
    )
    data: _Data | None = pydantic.Field(None, description="an object")

    @pydantic.model_validator(mode="after")
    def _names_every_class(self) -> _Description:
        if len(self.class_names) != self.config.num_classes:
            names, classes = len(self.class_names), self.config.num_classes
            raise ValueError(f"a description that names all {classes} classes, not {names}")
        return self


@dataclasses.dataclass(frozen=True)
class StoredNetwork:
    """A trained network in a folder; `load_model` builds it."""

    folder: Path
    genotype: Genotype | None  # None unless it is made of cells
    config: BaseConfig
    class_names: tuple[str, ...]  # one per output
    normalization: Mapping[str, Sequence[float]]  # see `bnas_larq.data.Normalization`
    data: Mapping[str, Any]  # description of the data set it was trained on; may be empty

    @property
    def weights(self) -> Path:
        """The weight file."""
        return self.folder / WEIGHTS

    @property
    def body(self) -> str:
        """What it is made of, in words."""
        return f"genotype {self.genotype.id}" if self.genotype else self.config.size

    @property
    def genotype_id(self) -> str | None:
        """The genotype's id; None without one."""
        return self.genotype and self.genotype.id

    @property
    def geometry(self) -> Geometry:
        """How pictures of other sizes become its input."""
        return Geometry.described(self.config.input_shape[:2], self.data)

    @classmethod
    def load(cls, folder: str | Path) -> StoredNetwork:
        """Read the description of a folder's network; the weights stay on disk.

        Raises:
            RunError: the folder holds no network, or those of a study, or network.json is damaged.
            GenotypeError: genotype.json is damaged.
            BnasLarqError: impossible sizes.
        """
        path = Path(folder) / NETWORK
        if not path.is_file():
            RunFolder(folder).check_single()
            raise _untrained(f"{folder} without them")
        described = read_model(
            path, _Description, _Config, _Data, subject=f"A {NETWORK}", remedy="Restore it."
        )
        config = config_of_kind(described.config.kind, described.config.model_dump())
        genotype = Genotype.load(Path(folder) / GENOTYPE) if config.kind == "cells" else None
        if genotype and described.genotype not in (None, genotype.id):
            raise RunError(
                f"{NETWORK} and {GENOTYPE} must belong together. Received: {described.genotype} "
                f"and {genotype.id} in {folder}. Restore the files."
            )
        names, normalization = tuple(described.class_names), described.normalization or {}
        data = described.data.model_dump(exclude_unset=True) if described.data else {}
        return cls(Path(folder), genotype, config, names, normalization, data)

    def save(self) -> None:
        """Write network.json and, of a network of cells, genotype.json to `folder`; no weights."""
        description = {
            "config": {"kind": self.config.kind, **self.config.to_dict()},
            "genotype": self.genotype_id,
            "class_names": list(self.class_names),
            "normalization": dict(self.normalization),
            "data": dict(self.data),
        }
        write_json(self.folder / NETWORK, description)
        if self.genotype is not None:
            self.genotype.save(self.folder / GENOTYPE)

    def load_model(self, *, new_top: bool = False, **settings: Any) -> keras.Model:
        """Build the network and load its weights.

        Args:
            new_top: give it a freshly initialised classifier, of `num_classes` if that is named.
            settings: as of `build_network`, such as `name`, `include_top` or `input_tensor`.

        Raises:
            BnasLarqError: impossible settings.
            RunError: there is no weight file.
            WeightsError: it is damaged or does not fit.
        """
        if not self.weights.is_file():
            raise _untrained(f"{self.folder} without weights")
        model = build_network(self.genotype, self.config, **settings)
        tensor = settings.get("input_tensor")
        return load_weights(
            model,
            self.weights,
            without_top=new_top or not settings.get("include_top", True),
            foreign=[] if tensor is None else layers_behind(tensor),
        )


def _untrained(received: str) -> RunError:
    return RunError(
        f"A trained network needs {NETWORK} and {WEIGHTS}. Received: {received}. "
        "Train it first: bnas-larq train, or bnas-larq run --resume."
    )


def layers_behind(tensor: tf.Tensor) -> list[str]:
    """Names of the layers that made a Keras tensor."""
    sources = keras.utils.get_source_inputs(tensor)
    return [layer.name for layer in keras.Model(sources, tensor).layers]
