"""The trained networks that stages of a training start from."""

from __future__ import annotations

import tempfile
from pathlib import Path

from bnas_larq.backend import keras
from bnas_larq.errors import RunError, WeightsError
from bnas_larq.files import sha256
from bnas_larq.networks.saved_models import load_saved_model
from bnas_larq.networks.weight_files import load_weights, save_weights
from bnas_larq.run.targets import START_KINDS, START_TAKER, Kind, Target, find_target
from bnas_larq.train_settings import TrainStage


def pinned(text: str, digest: str | None) -> tuple[str, str]:
    """A target, and the SHA-256 of its weights: `digest`, or that of what is there now.

    Raises:
        ZooError, RunError: there is no such network, or it has no weights.
    """
    target = find_target(text, START_KINDS, START_TAKER)
    return text, digest or sha256(_weight_file(target))


def load_start(stage: TrainStage, model: keras.Model) -> None:
    """Load the weights that a stage starts from into its network, by layer name. The classifier
    keeps its own if there are other classes.

    Raises:
        ZooError, RunError: there is no such network.
        WeightsError: its weights are not those that the stage names, or do not fit.
    """
    target = find_target(stage.start, START_KINDS, START_TAKER)
    path = _weight_file(target)
    digest = sha256(path)
    if stage.start_sha256 not in (None, digest):
        raise WeightsError(
            "A stage starts from the weights its recipe names. Received: "
            f"{path} of SHA-256 {digest[:12]}…, not {stage.start_sha256[:12]}…. "
            "Restore that file, or start a new run."
        )
    classes = model.output_shape[-1]
    if target.kind is not Kind.SAVED_MODEL:
        load_weights(model, path, without_top=target.network().config.num_classes != classes)
        return
    saved = load_saved_model(path)
    with tempfile.TemporaryDirectory() as folder:
        weights = save_weights(saved, Path(folder) / "weights.h5")
        load_weights(model, weights, without_top=saved.output_shape[-1] != classes)


def _weight_file(target: Target) -> Path:
    if target.kind is Kind.SAVED_MODEL:
        path = target.path
    else:
        path = target.trained_network().weights
    if not path.is_file():
        raise RunError(
            f"A stage starts from trained weights. Received: {target.text} without {path.name}. "
            "Train it first: bnas-larq run --resume."
        )
    return path
