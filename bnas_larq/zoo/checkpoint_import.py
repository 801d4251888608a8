"""The authors' checkpoints as Keras models of this package.

Layers pad symmetrically, as theirs do. No 1-bit kernel of Larq Compute Engine does so for strided
convolutions: the network predicts as theirs, but those convolutions are converted to float. Latent
kernels stay as in the file; `SignScale` centres and clamps them at every use, as the authors'
program does before it predicts.

The weights are their authors' and are not redistributed with this package.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bnas_larq.backend import keras
from bnas_larq.errors import WeightsError, nearest
from bnas_larq.genotype import PUBLISHED, Genotype
from bnas_larq.networks.network import NetworkConfig, build_network
from bnas_larq.zoo.authors_layout import FULL_PRECISION, head_convolutions, layout, sizes, to_keras
from bnas_larq.zoo.checkpoint_readers import read_checkpoint

#: Images that the papers' networks were trained on, which no tensor's shape tells.
INPUT_SHAPES = {"cifar": (32, 32, 3), "imagenet": (224, 224, 3)}


def import_checkpoint(
    path: str | Path,
    genotype: str | Path | Genotype = "bnas_cifar",
    full_precision: str = "all-binary",
    *,
    input_shape: Sequence[int] | None = None,
    classifier_activation: str | None = None,
    name: str | None = None,
) -> keras.Model:
    """The network of a checkpoint of the authors' program (arXiv 2002.06963).

    Cells, channels and classes follow from the tensors' shapes.

    Args:
        path: a `.npz`, `.safetensors`, `.pth.tar`, `.pth` or `.pt` file. The last three need
            PyTorch: pip install 'bnas-larq[torch]'.
        genotype: the cells it was trained with: a published name (`bnas_cifar` for BNAS-A,
            `bnas_imagenet` for BNAS-D to H), a file, or a Genotype. Its edges must be in the order
            of the authors' listing, by which the tensors are numbered.
        full_precision: `"all-binary"`: every convolution but stem and shortcuts is binary, as in
            the paper; `"head"`: all but the last two convolutions of the last cell, as in the
            authors' evaluation.
        input_shape: (height, width, channels); default (32, 32, 3), or with the ImageNet stem
            (224, 224, 3).
        classifier_activation: None for logits.
        name: the Keras model's name.

    Returns:
        Functional Keras model, normalised float32 images [batch, height, width, channels] →
        [batch, classes].

    Raises:
        WeightsError: the file cannot be read, holds code, or does not fit the genotype.
        GenotypeError: there is no such genotype.
        BnasLarqError: an impossible input shape.

    Example:
        >>> import_checkpoint("theirs.pth.tar")
        Traceback (most recent call last):
            ...
        bnas_larq.errors.WeightsError: A checkpoint must be a file. Received: theirs.pth.tar...
    """
    imported = read_import(path, genotype, full_precision, input_shape=input_shape)
    return imported.load_model(classifier_activation=classifier_activation, name=name)


@dataclasses.dataclass(frozen=True)
class Imported:
    """A checkpoint that fits its genotype; `load_model` builds the network."""

    genotype: Genotype
    config: NetworkConfig
    weights: Mapping[str, Sequence[np.ndarray]]  # by layer, in the order and layout of Keras
    notes: tuple[str, ...]  # what was left out, one sentence each

    def load_model(self, **settings: Any) -> keras.Model:
        """The network with its weights and its top; settings as of `build_network`."""
        model = build_network(self.genotype, self.config, **settings)
        for layer, arrays in self.weights.items():
            model.get_layer(layer).set_weights(arrays)
        return model


def read_import(
    path: str | Path,
    genotype: str | Path | Genotype,
    full_precision: str = "all-binary",
    *,
    input_shape: Sequence[int] | None = None,
) -> Imported:
    """Read a checkpoint and check it against its genotype; arguments as of `import_checkpoint`."""
    if full_precision not in FULL_PRECISION:
        raise WeightsError(
            f"Full precision is one of {', '.join(FULL_PRECISION)}. "
            f"Received: {full_precision!r}; {nearest(str(full_precision), FULL_PRECISION)}"
        )
    if not isinstance(genotype, Genotype):
        genotype = Genotype.load(genotype)
    checkpoint = read_checkpoint(path)
    size = sizes(checkpoint.tensors)
    config = NetworkConfig(
        input_shape=tuple(input_shape or INPUT_SHAPES[size["stem"]]), padding="symmetric", **size
    )
    modules = layout(genotype, config)
    _check(path, checkpoint.tensors, genotype, config)
    if full_precision == "head":
        config = config.replace(full_precision=head_convolutions(genotype, config))
    notes = list(checkpoint.notes)
    dead = sum(len(module.tensors) for module in modules if not module.live)
    if dead:
        notes.append(f"{dead} tensors are in branches that reach no output: left out.")
    weights = {
        module.layer: [to_keras(checkpoint.tensors[name]) for name in module.tensors]
        for module in modules
        if module.live
    }
    return Imported(genotype, config, weights, tuple(notes))


def _check(
    path: str | Path, tensors: Mapping[str, np.ndarray], genotype: Genotype, config: NetworkConfig
) -> None:
    """WeightsError for the first tensor that is missing, superfluous or of another shape."""
    problem = _misfit(tensors, genotype, config)
    if problem:
        published = {name: Genotype.published(name) for name in PUBLISHED if name != "bats"}
        fitting = [name for name, cells in published.items() if not _misfit(tensors, cells, config)]
        way_out = f"It fits {fitting[0]}." if fitting else "Give the one it was trained with."
        raise WeightsError(
            f"A checkpoint must fit its genotype, here {genotype.name or genotype.id} in "
            f"{config.cells} cells with {config.channels} channels. "
            f"Received: {path} with {problem}. {way_out}"
        )
    for name, tensor in tensors.items():
        if name.endswith(".running_var") and tensor.min() < 0:
            raise WeightsError(
                "A variance must not be negative. "
                f"Received: {path} with {float(tensor.min()):.3g} in {name}. Save it again."
            )


def _misfit(tensors: Mapping[str, np.ndarray], genotype: Genotype, config: NetworkConfig) -> str:
    """What does not fit, or nothing."""
    expected: dict[str, tuple[int, ...]] = {}
    for module in layout(genotype, config):
        expected |= module.tensors
    unknown = [name for name in tensors if name not in expected]
    missing = [name for name in expected if name not in tensors]
    if unknown or missing:
        parts = [
            f"{len(names)} tensors {how}, such as {names[0][:80]!r}"
            for names, how in ((unknown, "that the network lacks"), (missing, "missing"))
            if names
        ]
        return " and ".join(parts)
    for name, shape in expected.items():
        if tensors[name].shape != shape:
            return f"{name} of shape {tensors[name].shape} in place of {shape}"
    return ""
