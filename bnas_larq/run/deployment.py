"""What `bnas-larq export` works on besides run folders, and what it writes for devices."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnas_larq.errors import ExportError

if TYPE_CHECKING:
    import numpy as np

    from bnas_larq.backend import keras
    from bnas_larq.networks.network_files import StoredNetwork
    from bnas_larq.recipe import Recipe
    from bnas_larq.zoo.entries import Entry


#: Images of the comparison with Keras: of a folder, or of noise.
PARITY_IMAGES, NOISE_IMAGES = 64, 16


@dataclasses.dataclass(frozen=True)
class Target:
    """A network to export.

    Attributes:
        name: for messages and cards.
        model: its Keras model, with weights.
        stored: its description, unless it is a user's own model.
        entry: the zoo entry it is.
        class_names, mean, std: known from the description or given by the user, else None.
    """

    name: str
    model: keras.Model
    stored: StoredNetwork | None = None
    entry: Entry | None = None
    class_names: Sequence[str] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def is_run(text: str) -> bool:
    """Whether a target means a run's folder: a path that is no file and no zoo entry."""
    from bnas_larq.zoo.entry_format import ENTRY

    path = Path(text)
    if path.is_dir():
        return not (path / ENTRY).exists()
    return not path.exists() and len(path.parts) > 1 and not is_saved_model(text)


def is_saved_model(text: str) -> bool:
    """Whether a target means a file of a user's own."""
    return Path(text).is_file() or Path(text).suffix in (".h5", ".hdf5", ".keras")


def load_target(
    text: str,
    labels: Path | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Target:
    """Load the network of a run's folder, a zoo entry or a saved Keras model.

    Args:
        text: folder, file or the entry's name.
        labels, mean, std: what a saved Keras model does not tell.

    Raises:
        BnasLarqError: there is no such thing, or it is damaged.
    """
    from bnas_larq.data import Normalization
    from bnas_larq.networks.network_files import StoredNetwork
    from bnas_larq.networks.saved_models import load_saved_model
    from bnas_larq.zoo.registry import resolve_entry

    path, entry = Path(text), None
    if is_saved_model(text):
        model = load_saved_model(path)
        names = None if labels is None else _read_labels(labels)
        return Target(path.name, model, class_names=names, mean=mean, std=std)
    if is_run(text):
        stored = StoredNetwork.load(path)
    else:
        entry = resolve_entry(text)
        stored = StoredNetwork.load(entry.fetch())
    known = stored.normalization and Normalization.from_dict(stored.normalization)
    return Target(
        entry.name if entry else path.resolve().name,
        stored.load_model(),
        stored,
        entry,
        stored.class_names,
        known.mean if known else None,
        known.std if known else None,
    )


def _read_labels(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(
            f"Labels are a text file with one class on each line. Received: {path} "
            f"({type(error).__name__}). Check the path."
        ) from error


def parity_images(target: Target, folder: Path | None) -> tuple[np.ndarray, str]:
    """Images for the comparison with Keras, preprocessed, and what they are.

    Raises:
        ExportError: the folder holds no image, or the network takes no fixed image.
        DataError: an image cannot be read.
    """
    import numpy as np

    from bnas_larq.data import Normalization
    from bnas_larq.data.images import is_image_name, read_image_file
    from bnas_larq.export.converter import image_shape

    height, width, channels = image_shape(target.model)
    if folder is None:
        pixels = np.random.default_rng(0).integers(
            0, 256, (NOISE_IMAGES, height, width, channels), np.uint8
        )
        what = "pictures of random noise"
    else:
        paths = sorted(
            path for path in folder.rglob("*") if is_image_name(path.relative_to(folder))
        )[:PARITY_IMAGES]
        if not paths or channels != 3:
            raise ExportError(
                "The comparison needs at least one image file, and a network for three channels. "
                f"Received: {len(paths)} images in {folder}, {channels} channels. "
                "Leave --images away to compare on noise."
            )
        pixels = np.stack([read_image_file(path, (height, width)) for path in paths])
        what = f"images of {folder.name}"
    if channels != 3:  # no normalisation is known for them
        return (pixels / np.float32(255)).astype(np.float32), what
    normalization = Normalization(target.mean or (0, 0, 0), target.std or (1, 1, 1))
    return np.asarray(normalization.apply(pixels)), what


def bundle(
    folder: Path,
    target: Target,
    tflite: bytes,
    report: Mapping[str, Any],
    *,
    run: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the deploy bundle of an exported network.

    Args:
        run: what is known of the run: its `recipe`, and metrics on the `test` split.
        report: of the export; `parity_images` tells what was compared.

    Raises:
        ExportError: labels or normalisation are not known, or the folder exists.
    """
    from bnas_larq.export.bundle import Preprocessing, output_kind, write_bundle
    from bnas_larq.export.converter import image_shape

    check_describes(target)
    height, width, _ = image_shape(target.model)
    return write_bundle(
        folder,
        tflite,
        labels=target.class_names,
        preprocessing=Preprocessing(
            height, width, target.mean, target.std, output_kind(target.model)
        ),
        card=target.entry.card if target.entry else _card(target, run or {}),
        report=report,
        overwrite=overwrite,
    )


def check_describes(target: Target) -> None:
    """Raise ExportError unless all is known that a bundle tells."""
    if target.class_names is None or target.mean is None or target.std is None:
        raise ExportError(
            "A bundle tells the classes and how images are prepared, which a saved Keras model "
            f"does not. Received: {target.name} without all of --labels, --mean and --std. "
            "Give them (mean 0 0 0, std 1 1 1 if the model takes pixels / 255)."
        )
    shape, output = tuple(target.model.inputs[0].shape), tuple(target.model.outputs[0].shape)
    if len(output) != 2 or output[1] != len(target.class_names) or shape[-1] != 3:
        raise ExportError(
            "A bundle holds a classifier of colour images with one label for each output. "
            f"Received: {target.name} with {len(target.class_names)} labels, input "
            f"{shape[1:]} and output {output[1:]}. Correct --labels."
        )


def _card(target: Target, run: Mapping[str, Any]) -> str:
    from bnas_larq.costs.accounting import count_costs
    from bnas_larq.export.bundle import deployment_card

    stored, recipe = target.stored, run.get("recipe")
    data = stored.data if stored else {}
    sizes = data.get("sizes") or {}
    facts = {
        "Genotype": stored and stored.genotype.id,
        "Size": stored and f"{stored.config.cells} cells, {stored.config.channels} channels",
        "Data": _data_name(data, recipe),
        "Training": recipe
        and f"{_epochs(recipe)} of {sizes.get('train', '?')} images, "
        f"recipe {recipe.name}, seed {recipe.seed}",
        "Begun with": recipe and recipe.finetune and recipe.finetune.entry,
    }
    return deployment_card(
        recipe.name if recipe else target.name,
        costs=count_costs(target.model),
        input_shape=tuple(target.model.inputs[0].shape[1:]),
        classes=len(target.class_names),
        test=run.get("test"),
        facts=facts,
        terms=terms(target, recipe),
    )


def _data_name(data: Mapping[str, Any], recipe: Recipe | None) -> str | None:
    """The data set's name; for a folder of images its own."""
    name = data.get("name")
    folder = recipe.data.data_dir if recipe and name == "folder" else None
    return f"images of the folder {Path(folder).name}" if folder else name


def _epochs(recipe: Recipe) -> str:
    """`10 epochs`, or `3 epochs of a new head and 10 of everything`."""
    if recipe.finetune is None:
        return f"{recipe.train.epochs} epochs"
    return (
        f"{recipe.finetune.head_epochs} epochs of a new head and {recipe.train.epochs} of "
        "everything"
    )


def terms(target: Target, recipe: Recipe | None = None) -> str | None:
    """The licence of weights that may not be given to others; None for all else.

    Args:
        recipe: of a run; what it began with may bind it.
    """
    from bnas_larq.zoo.published_run import license_of, origins

    if target.entry is not None:
        return None if target.entry.redistributable else target.entry.license
    license, free = license_of(origins(recipe), "") if recipe else ("", True)
    return None if free else license
