"""A trained network in a folder: what run folders and zoo entries have in common.

`network.json` (size, class names, normalisation, data), `genotype.json` and `weights.h5` are all
that it takes to build a network again and to prepare images for it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bnas_larq.backend import keras, tf
from bnas_larq.errors import RunError, one_line
from bnas_larq.files import read_json, write_json
from bnas_larq.genotype import Genotype
from bnas_larq.networks.network import NetworkConfig, build_network
from bnas_larq.networks.weight_files import load_weights

NETWORK, GENOTYPE, WEIGHTS = "network.json", "genotype.json", "weights.h5"


@dataclasses.dataclass(frozen=True)
class StoredNetwork:
    """A trained network as it lies in a folder; building it is left to `load_model`.

    Attributes:
        folder: where it is.
        genotype: its cells.
        config: its size and template.
        class_names: one name per output.
        normalization: `mean` and `std`, see `bnas_larq.data.Normalization`.
        data: what the data set said of itself when the network was trained; may be empty.
    """

    folder: Path
    genotype: Genotype
    config: NetworkConfig
    class_names: tuple[str, ...]
    normalization: Mapping[str, Sequence[float]]
    data: Mapping[str, Any]

    @property
    def weights(self) -> Path:
        """The weight file."""
        return self.folder / WEIGHTS

    @classmethod
    def load(cls, folder: str | Path) -> StoredNetwork:
        """Read the description of a folder's network; the weights stay on disk.

        Raises:
            RunError: the folder holds no network, or network.json is damaged.
            GenotypeError: genotype.json is damaged.
            BnasLarqError: impossible sizes.
        """
        path = Path(folder) / NETWORK
        if not path.is_file():
            raise RunError(
                f"A trained network needs {NETWORK} and {WEIGHTS}. "
                f"Received: {folder} without them. "
                "Train it first: bnas-larq train, or bnas-larq run --resume."
            )
        described = read_json(path)
        if not isinstance(described, dict) or not isinstance(described.get("config"), dict):
            raise RunError(f"A {NETWORK} must hold its config. Received: {path}. Restore it.")
        try:
            config = NetworkConfig.from_dict(described["config"])
            keras.activations.get(config.classifier_activation)
            if not all(isinstance(pattern, str) for pattern in config.full_precision):
                raise TypeError("full_precision holds names")
        except (TypeError, ValueError, AttributeError) as error:  # such as numbers as text
            raise RunError(
                f"A {NETWORK} must describe a network. Received: {path} ({one_line(error)[:120]}). "
                "Restore it."
            ) from error
        genotype = Genotype.load(Path(folder) / GENOTYPE)
        if described.get("genotype", genotype.id) != genotype.id:
            raise RunError(
                f"{NETWORK} and {GENOTYPE} must belong together. Received: {described['genotype']} "
                f"and {genotype.id} in {folder}. Restore the files."
            )
        names = described.get("class_names")
        if not isinstance(names, list) or len(names) != config.num_classes:
            raise RunError(
                f"A {NETWORK} must name every class. Received: {path} with "
                f"{len(names) if isinstance(names, list) else 'no'} names for "
                f"{config.num_classes} classes. Restore it."
            )
        for key in ("normalization", "data"):
            if not isinstance(described.get(key) or {}, dict):
                raise RunError(
                    f"A {NETWORK} holds objects as normalization and data. "
                    f"Received: {path} with another {key}. Restore it."
                )
        return cls(
            Path(folder),
            genotype,
            config,
            tuple(map(str, names)),
            described.get("normalization") or {},
            described.get("data") or {},
        )

    def save(self) -> None:
        """Write network.json and genotype.json to `folder`; weights are saved apart."""
        write_json(
            self.folder / NETWORK,
            {
                "config": self.config.to_dict(),
                "genotype": self.genotype.id,
                "class_names": list(self.class_names),
                "normalization": dict(self.normalization),
                "data": dict(self.data),
            },
        )
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
            raise RunError(
                f"A trained network needs {NETWORK} and {WEIGHTS}. "
                f"Received: {self.folder} without weights. "
                "Train it first: bnas-larq train, or bnas-larq run --resume."
            )
        model = build_network(self.genotype, self.config, **settings)
        tensor = settings.get("input_tensor")
        return load_weights(
            model,
            self.weights,
            without_top=new_top or not settings.get("include_top", True),
            foreign=[] if tensor is None else layers_behind(tensor),
        )


def layers_behind(tensor: tf.Tensor) -> list[str]:
    """Names of the layers that made a Keras tensor."""
    sources = keras.utils.get_source_inputs(tensor)
    return [layer.name for layer in keras.Model(sources, tensor).layers]
