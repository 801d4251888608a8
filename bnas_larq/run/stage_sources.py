"""The trained networks that stages of a training start and learn from."""

from __future__ import annotations

import tempfile
from pathlib import Path

from bnas_larq.backend import keras
from bnas_larq.data import ImageDataset, Normalization
from bnas_larq.errors import RecipeError, RunError, WeightsError
from bnas_larq.files import sha256
from bnas_larq.networks.saved_models import load_saved_model
from bnas_larq.networks.weight_files import load_weights, save_weights
from bnas_larq.run.targets import STAGE, WEIGHT_KINDS, Kind, Target, find_target
from bnas_larq.teacher_settings import TeacherSettings
from bnas_larq.train_settings import TrainStage
from bnas_larq.training import Teacher


def pinned(text: str, digest: str | None) -> tuple[str, str]:
    """A target, and the SHA-256 of its weights: `digest`, or that of what is there now.

    Raises:
        ZooError, RunError: there is no such network, or it has no weights.
    """
    return text, digest or sha256(_weight_file(find_target(text, WEIGHT_KINDS, STAGE)))


def load_start(stage: TrainStage, model: keras.Model) -> None:
    """Load the weights that a stage starts from into its network, by layer name. The classifier
    keeps its own if there are other classes.

    Raises:
        ZooError, RunError: there is no such network.
        WeightsError: its weights are not those that the stage names, or do not fit.
    """
    target, path = _verified(stage.start, stage.start_sha256)
    classes = model.output_shape[-1]
    if target.kind is not Kind.SAVED_MODEL:
        load_weights(model, path, without_top=target.network().config.num_classes != classes)
        return
    saved = load_saved_model(path)
    with tempfile.TemporaryDirectory() as folder:
        weights = save_weights(saved, Path(folder) / "weights.h5")
        load_weights(model, weights, without_top=saved.output_shape[-1] != classes)


def load_teacher(settings: TeacherSettings, shared: Normalization, data: ImageDataset) -> Teacher:
    """A teacher with its weights, for images that are normalised as `shared` says.

    Raises:
        ZooError, RunError: there is no such network.
        WeightsError: its weights are not those that the recipe names, or do not fit.
        RecipeError: it is made for other images or classes than those of `data`.
    """
    target, path = _verified(settings.model, settings.sha256)
    names, own = None, shared
    if target.kind is Kind.SAVED_MODEL:
        model = load_saved_model(path)
        if settings.mean is not None:
            own = Normalization(settings.mean, settings.std)
    else:
        stored = target.trained_network()
        model, names = stored.load_model(), stored.class_names
        if stored.normalization:
            own = Normalization.from_dict(stored.normalization)
        if settings.mean is not None:
            raise RecipeError(
                "A run or an entry knows how its images are normalised. "
                f"Received: teacher.mean and teacher.std for {settings.model!r}. Remove them."
            )
    shapes = [tuple(part.shape[1:]) for part in (*model.inputs, *model.outputs)]
    # A side that is None takes any.
    sides = [wanted or side for wanted, side in zip(shapes[0], data.image_shape, strict=False)]
    if [tuple(sides), *shapes[1:]] != [data.image_shape, (data.num_classes,)]:
        raise RecipeError(
            "A teacher takes the images of the run and knows their classes. Received: "
            f"{settings.model!r} with {shapes}, and images of {data.image_shape} in "
            f"{data.num_classes} classes. Choose another teacher, or its data.image_size."
        )
    if names not in (None, data.class_names):
        raise RecipeError(
            "A teacher has the classes of the run, in their order. "
            f"Received: {settings.model!r} with {', '.join(names[:3])}, … and images with "
            f"{', '.join(data.class_names[:3])}, …. Choose a teacher of the same data."
        )
    model.trainable = False
    return Teacher(model, settings, own, shared)


def _verified(text: str, digest: str | None) -> tuple[Target, Path]:
    """A target and its weight file, whose SHA-256 must be `digest` unless that is None."""
    target = find_target(text, WEIGHT_KINDS, STAGE)
    path = _weight_file(target)
    held = sha256(path)
    if digest not in (None, held):
        raise WeightsError(
            "A stage starts and learns from the weights its recipe names. Received: "
            f"{path} of SHA-256 {held[:12]}…, not {digest[:12]}…. "
            "Restore that file, or start a new run."
        )
    return target, path


def _weight_file(target: Target) -> Path:
    saved = target.kind is Kind.SAVED_MODEL
    path = target.path if saved else target.trained_network().weights
    if not path.is_file():
        raise RunError(
            f"A stage needs trained weights. Received: {target.text} without {path.name}. "
            "Train it first: bnas-larq run --resume."
        )
    return path
