"""Export of a run, a zoo entry or a saved Keras model: a checked .tflite, a deploy bundle, lint."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnas_larq.console import say
from bnas_larq.errors import ExportError
from bnas_larq.files import read_record
from bnas_larq.run.creation import recipe_of
from bnas_larq.run.targets import Kind, Target
from bnas_larq.run_folder import RunFolder
from bnas_larq.run_records import Export
from bnas_larq.text_files import read_text

if TYPE_CHECKING:
    import numpy as np

    from bnas_larq.backend import keras
    from bnas_larq.export.lint import Lint
    from bnas_larq.networks.network_files import StoredNetwork
    from bnas_larq.recipe import Recipe
    from bnas_larq.zoo.entries import Entry

#: What can be exported.
EXPORTABLE = (Kind.RUN, Kind.ENTRY, Kind.SAVED_MODEL)
#: Images of the comparison with Keras: of a folder, or of noise.
PARITY_IMAGES, NOISE_IMAGES = 64, 16


def lint_target(target: Target) -> Lint:
    """What the .tflite of a target would hold; nothing is written."""
    from bnas_larq.export.lint import lint

    network = _load(target)
    stored = network.stored
    return lint(network.model, *((stored.genotype, stored.config) if stored else ()))


def export_target(
    target: Target,
    *,
    out: Path | None = None,
    bundle: Path | None = None,
    images: Path | None = None,
    data_dir: str | None = None,
    float_storage: str | None = None,
    overwrite: bool = False,
    **facts: Any,
) -> tuple[dict[str, Any], list[Path]]:
    """Write the .tflite of a target, compared with Keras, and its deploy bundle.

    Args:
        target: of one of the kinds `EXPORTABLE`.
        out: the file. A run without `out` and `images` does its stage `export` instead.
        bundle: folder of the deploy bundle.
        images: folder of images to compare on; None: noise.
        data_dir: where a run's images are now, if they were moved.
        float_storage: type of full-precision kernels in the file; None: as a run's recipe says, or
            that of the file that an entry's card describes, else float32.
        overwrite: convert again, and replace earlier files.
        facts: what a saved Keras model does not tell: `labels`, a text file with one class on each
            line; `mean` and `std` of red, green and blue, scaled to [0, 1].

    Returns:
        The report of `bnas_larq.export.exporter.export_network`, with `parity_images`, what was
        compared; and the paths that were written.

    Raises:
        ExportError: a file exists, was changed, or disagrees with Keras; a bundle lacks facts.
        BnasLarqError: the target is damaged.
    """
    from bnas_larq.export.bundle import check_bundle

    if bundle is not None:
        check_bundle(bundle, overwrite=overwrite)
    if target.kind is Kind.RUN and out is None and images is None:
        out = target.path / "model.tflite"
        tflite, report = _export_run(target.path, overwrite, data_dir, float_storage)
        network = _load(target) if bundle else None
    else:
        network = _load(target, **facts)
        if bundle is not None:
            network.check_described()
        tflite, report = _convert(network, out, images, overwrite, float_storage)
    if bundle is not None:
        _write_bundle(bundle, network, tflite, report, overwrite)
        if license := network.restriction:
            say(f"These weights must not be redistributed: {license}")
    return report, [path for path in (out, bundle) if path is not None]


@dataclasses.dataclass(frozen=True)
class _Network:
    """A network to export.

    Attributes:
        name: for messages and cards.
        model: its Keras model, with weights.
        class_names, mean, std: None where nobody told them.
        stored: its description, unless it is a saved Keras model.
        entry: the zoo entry it is.
        recipe, test: of a run, and its metrics on the test split, if it was evaluated.
    """

    name: str
    model: keras.Model
    class_names: Sequence[str] | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    stored: StoredNetwork | None = None
    entry: Entry | None = None
    recipe: Recipe | None = None
    test: Mapping[str, Any] | None = None

    def check_described(self) -> None:
        """Raise ExportError unless everything is known that a bundle tells."""
        if self.class_names is None or self.mean is None or self.std is None:
            raise ExportError(
                "A bundle names the classes and says how images are prepared, which a saved Keras "
                f"model does not. Received: {self.name} without all of --labels, --mean and --std. "
                "Give them (mean 0 0 0, std 1 1 1 if the model takes pixels / 255)."
            )
        shape, output = tuple(self.model.inputs[0].shape), tuple(self.model.outputs[0].shape)
        if len(output) != 2 or output[1] != len(self.class_names) or shape[-1] != 3:
            raise ExportError(
                "A bundle holds a classifier of colour images with one label for each output. "
                f"Received: {self.name} with {len(self.class_names)} labels, input "
                f"{shape[1:]} and output {output[1:]}. Correct --labels."
            )

    @property
    def float_storage(self) -> str:
        """Type of full-precision kernels in its file, if nobody asks for another."""
        from bnas_larq.costs.float_kernels import FLOAT32

        if self.recipe:
            return self.recipe.export.float_storage
        return (self.entry.deployed if self.entry else {}).get("float_storage", FLOAT32)

    @property
    def restriction(self) -> str | None:
        """The licence of weights that must not be redistributed, also of those that a fine-tuning
        started from; None for all others.
        """
        from bnas_larq.zoo.published_run import license_of, origins

        if self.entry is not None:
            return None if self.entry.redistributable else self.entry.license
        license, free = license_of(origins(self.recipe), "") if self.recipe else ("", True)
        return None if free else license


def _load(
    target: Target,
    labels: Path | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> _Network:
    """The network of a target, with its weights."""
    if target.kind is Kind.SAVED_MODEL:
        from bnas_larq.networks.saved_models import load_saved_model

        model = load_saved_model(target.path)
        return _Network(target.name, model, labels and _read_labels(labels), mean, std)
    stored = target.trained_network()
    if stored.normalization:
        from bnas_larq.data import Normalization

        normalization = Normalization.from_dict(stored.normalization)
        mean, std = normalization.mean, normalization.std
    origin: dict[str, Any] = {"stored": stored, "entry": target.entry}
    if target.kind is Kind.RUN and (target.path / "recipe.yaml").is_file():
        folder = RunFolder(target.path)
        origin |= {"recipe": recipe_of(folder), "test": folder.facts("evaluate").get("test")}
    return _Network(target.name, stored.load_model(), stored.class_names, mean, std, **origin)


def _read_labels(path: Path) -> list[str]:
    try:
        return read_text(path).splitlines()
    except (OSError, ValueError) as error:
        raise ExportError(
            f"Labels are a text file with one class on each line. Received: {path} "
            f"({type(error).__name__}). Check the path."
        ) from error


def _export_run(
    folder: Path, overwrite: bool, data_dir: str | None, float_storage: str | None
) -> tuple[bytes, dict[str, Any]]:
    """Do the run's stage `export`, on test images, unless it is done."""
    from bnas_larq.run.recipe_run import Run

    with Run.open(folder) as run:
        run.inputs.data_dir = data_dir
        run.export(again=overwrite, float_storage=float_storage)
        run.report()
        tflite, report = exported_file(run.folder.path)
        report.setdefault("parity_images", "test images")
        return tflite, report


def exported_file(folder: Path) -> tuple[bytes, dict[str, Any]]:
    """A run's model.tflite and its report; ExportError if there is none, or it was changed."""
    path = folder / "model.tflite"
    if not path.is_file():
        raise ExportError(
            f"A run's file is used once there is one. Received: {folder} without {path.name}. "
            f"Export it first: bnas-larq export {folder}."
        )
    tflite, report = path.read_bytes(), read_record(folder / "export.json", Export)
    if hashlib.sha256(tflite).hexdigest() != report["sha256"]:
        raise ExportError(
            "A run's model.tflite must be the one that its export.json describes. "
            f"Received: {path}, which was changed since. Convert it again: bnas-larq export "
            f"{folder} --overwrite."
        )
    return tflite, report


def _convert(
    network: _Network,
    out: Path | None,
    images: Path | None,
    overwrite: bool,
    float_storage: str | None,
) -> tuple[bytes, dict[str, Any]]:
    """Convert a network outside its run."""
    from bnas_larq.export.exporter import export_network

    batch, source = _parity_images(network, images)
    storage = float_storage or network.float_storage
    with tempfile.TemporaryDirectory() as folder:
        path = out or Path(folder) / "model.tflite"
        report = export_network(
            network.model, path, batch, float_storage=storage, overwrite=overwrite
        )
        tflite = path.read_bytes()
    report["parity_images"] = source
    parity = report["parity"]
    say(
        f"export: {len(tflite)} bytes, {report['binary_convolutions']} convolutions in 1 bit, "
        f"{report['float_convolutions']} not (kernels stored as {storage}); "
        f"{parity['equal_predictions']:.2%} of {parity['images']} {source} predicted as by Keras, "
        f"largest difference {parity['max_abs_difference']:.2g}"
    )
    return tflite, report


def _parity_images(network: _Network, folder: Path | None) -> tuple[np.ndarray, str]:
    """Preprocessed images for the comparison with Keras, and what they are."""
    import numpy as np

    from bnas_larq.data import Normalization
    from bnas_larq.data.geometry import Geometry
    from bnas_larq.data.images import image_header, list_files, read_image_file
    from bnas_larq.export.converter import image_shape

    height, width, channels = image_shape(network.model)
    if folder is None:
        shape = (NOISE_IMAGES, height, width, channels)
        pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        source = "pictures of random noise"
    else:
        files, _ = list_files(folder)
        paths = list(itertools.islice(filter(image_header, files), PARITY_IMAGES))
        if not paths or channels != 3:
            raise ExportError(
                "The comparison needs at least one image file, and a network for three channels. "
                f"Received: {len(paths)} images in {folder}, {channels} channels. "
                "Omit --images to compare on noise."
            )
        geometry = network.stored.geometry if network.stored else Geometry((height, width))
        pixels = np.stack([read_image_file(path, geometry) for path in paths])
        source = f"images of {folder.name}"
    if channels != 3:  # no normalisation is known for them
        return (pixels / np.float32(255)).astype(np.float32), source
    normalization = Normalization(network.mean or (0, 0, 0), network.std or (1, 1, 1))
    return np.asarray(normalization.apply(pixels)), source


def _write_bundle(
    folder: Path, network: _Network, tflite: bytes, report: Mapping[str, Any], overwrite: bool
) -> None:
    from bnas_larq.export.bundle import Preprocessing, output_kind, write_bundle
    from bnas_larq.export.converter import image_shape

    network.check_described()
    height, width, _ = image_shape(network.model)
    facts = {"output": output_kind(network.model)}
    if stored := network.stored:
        facts |= stored.geometry.describe()
    write_bundle(
        folder,
        tflite,
        labels=network.class_names,
        preprocessing=Preprocessing(height, width, network.mean, network.std, **facts),
        card=network.entry.card if network.entry else _card(network),
        report=report,
        overwrite=overwrite,
    )


def _card(network: _Network) -> str:
    from bnas_larq.costs.accounting import count_costs
    from bnas_larq.export.bundle import deployment_card
    from bnas_larq.zoo.published_run import origins

    facts, recipe = {}, network.recipe
    if stored := network.stored:
        data, config = stored.data, stored.config
        facts["Genotype"] = stored.genotype_id
        facts["Size"] = config.size
        facts["Data"] = data.get("name")
        if recipe is not None:
            if facts["Data"] == "folder" and recipe.data.data_dir:
                facts["Data"] = f"images of the folder {Path(recipe.data.data_dir).name}"
            images = (data.get("sizes") or {}).get("train", "?")
            seed = f"recipe {recipe.name}, seed {recipe.seed}"
            facts["Training"] = f"{_epochs(recipe)} of {images} images, {seed}"
            facts["Starting point"] = ", ".join(origin.name for origin in origins(recipe))
    return deployment_card(
        recipe.name if recipe else network.name,
        costs=count_costs(network.model),
        input_shape=tuple(network.model.inputs[0].shape[1:]),
        classes=len(network.class_names),
        test=network.test,
        facts=facts,
        terms=network.restriction,
    )


def _epochs(recipe: Recipe) -> str:
    """`10 epochs`, or `3 epochs of a new head and 10 of the whole network`."""
    tuning = recipe.finetune
    if tuning is None:
        return " and ".join(f"{stage.epochs} epochs" for stage in recipe.plan)
    epochs = recipe.train.epochs
    return f"{tuning.head_epochs} epochs of a new head and {epochs} of the whole network"
