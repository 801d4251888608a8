"""Evaluation of a run or a zoo entry on its test split, and of its exported file."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from bnas_larq.console import say
from bnas_larq.data import EVALUATION_BATCH, Normalization, evaluation_dataset, load_described
from bnas_larq.data.sources import load_moved
from bnas_larq.errors import ZooError
from bnas_larq.export.file_network import FileNetwork
from bnas_larq.recipe import load_recipe
from bnas_larq.run.deployment import export_target, exported_file
from bnas_larq.run.recipe_run import Run
from bnas_larq.run.targets import Kind, Target
from bnas_larq.training import evaluate_network
from bnas_larq.zoo.entries import Entry
from bnas_larq.zoo.published_run import RECIPE


def evaluate_target(
    target: Target, data_dir: str | None = None, *, tflite: bool = False
) -> dict[str, Any]:
    """Metrics of a network on its test split.

    Args:
        target: a run, which is evaluated once and then answers with its stored result, or a zoo
            entry, which is evaluated each time.
        data_dir: where the images are, if not where the recipe says; a run's own, also if it was
            evaluated before.
        tflite: evaluate the file, too: a run's model.tflite, or the one that an entry's card
            describes.

    Returns:
        `accuracy`, `top5_accuracy` (with more than five classes), `loss`, `examples`; with `tflite`
        under that key the same of the file, and its `bytes`.

    Raises:
        ZooError, RunError: an entry without a recipe; a damaged target.
        DataError: its images cannot be read, or others were a run's test images.
        ExportError: a run without model.tflite, or with a changed one; a network that cannot be
            converted.
    """
    if target.kind is Kind.RUN:
        with Run.open(target.path) as run:
            run.folder.check_single()
            content = exported_file(run.folder.path)[0] if tflite else b""
            run.inputs.load_moved(data_dir)
            run.evaluate()
            run.report()
            metrics = dict(run.folder.facts("evaluate")["test"])
            if tflite:
                images = run.inputs.batches(run.inputs.data.test)
                metrics["tflite"] = _of_file(content, images)
        return metrics
    images = _entry_images(target.entry, data_dir)
    metrics = evaluate_network(target.trained_network().load_model(), images).metrics()
    if tflite:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.tflite"
            export_target(target, out=path)
            metrics["tflite"] = _of_file(path.read_bytes(), images)
    return metrics


def _of_file(content: bytes, images: Any) -> dict[str, Any]:
    return {**evaluate_network(FileNetwork(content), images).metrics(), "bytes": len(content)}


def _entry_images(entry: Entry, data_dir: str | None) -> Any:
    """The test images that an entry's recipe names, in batches."""
    stored = entry.network
    if RECIPE not in entry.files or stored.normalization is None:
        raise ZooError(
            "An entry is evaluated on the images that its recipe names. "
            f"Received: {entry.name}, {entry.source} without a recipe. Use it in Python instead."
        )
    recipe = load_recipe(entry.checked_file(RECIPE))
    if data_dir is None:
        data = load_described(recipe.data, recipe.seed)
    else:
        data = load_moved(recipe.data, recipe.seed, data_dir, {})
    published = (stored.data.get("fingerprints") or {}).get("test")
    if published not in (None, data.test.fingerprint()):
        say(f"evaluate: these are not the images that the card of {entry.name} was measured on")
    normalization = Normalization.from_dict(stored.normalization)
    return evaluation_dataset(data.test, EVALUATION_BATCH, normalization)
