"""Export of a run, a zoo entry or a saved Keras model: a checked .tflite, a deploy bundle, lint."""

from __future__ import annotations

import hashlib
import itertools
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnas_larq.console import say
from bnas_larq.errors import ExportError
from bnas_larq.files import read_record
from bnas_larq.run.deployable import Deployable, load_deployable
from bnas_larq.run.targets import Kind, Target
from bnas_larq.run_folder import RunFolder
from bnas_larq.run_records import Export

if TYPE_CHECKING:
    import numpy as np

    from bnas_larq.export.lint import Lint

#: What can be exported.
EXPORTABLE = (Kind.RUN, Kind.ENTRY, Kind.SAVED_MODEL)
#: Images of the comparison with Keras: of a folder, or of noise.
PARITY_IMAGES, NOISE_IMAGES = 64, 16


def lint_target(target: Target) -> Lint:
    """What the .tflite of a target would hold; nothing is written."""
    from bnas_larq.export.lint import lint

    network = load_deployable(target)
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
    from bnas_larq.run.deploy_bundle import bundle_network

    if bundle is not None:
        check_bundle(bundle, overwrite=overwrite)
    if target.kind is Kind.RUN and out is None and images is None:
        out = target.path / "model.tflite"
        tflite, report = _export_run(target.path, overwrite, data_dir, float_storage)
        network = load_deployable(target) if bundle else None
    else:
        network = load_deployable(target, **facts)
        if bundle is not None:
            network.check_described()
        tflite, report = _convert(network, out, images, overwrite, float_storage)
    if bundle is not None:
        bundle_network(bundle, network, tflite, report, overwrite)
        if terms := network.restriction:
            say(f"These weights must not be redistributed: {terms}")
    return report, [path for path in (out, bundle) if path is not None]


def _export_run(
    folder: Path, overwrite: bool, data_dir: str | None, float_storage: str | None
) -> tuple[bytes, dict[str, Any]]:
    """Do the run's stage `export`, on test images, unless it is done."""
    from bnas_larq.run.recipe_run import Run

    with Run.open(folder) as run:
        run.inputs.load_moved(data_dir)
        run.export(again=overwrite, float_storage=float_storage)
        run.report()
        tflite, report = exported_file(run.folder.path)
        report.setdefault("parity_images", "test images")
        return tflite, report


def exported_file(folder: Path) -> tuple[bytes, dict[str, Any]]:
    """A run's model.tflite and its report; ExportError if there is none, its export was killed, or
    it was changed."""
    path = folder / "model.tflite"
    if not path.is_file() or not RunFolder(folder).stage_done("export"):
        state = f"whose {path.name} is not finished" if path.is_file() else f"without {path.name}"
        raise ExportError(
            f"A run's file is used once there is one. Received: {folder} {state}. "
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
    network: Deployable,
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


def _parity_images(network: Deployable, folder: Path | None) -> tuple[np.ndarray, str]:
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
