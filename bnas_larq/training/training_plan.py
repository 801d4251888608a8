"""A training plan: stages one after the other, with weights that pass from each to the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from bnas_larq.backend import keras
from bnas_larq.checkpoints import Checkpoints
from bnas_larq.costs.float_kernels import FLOAT32
from bnas_larq.data import EpochPipeline, EvaluationPipeline
from bnas_larq.errors import RecipeError
from bnas_larq.networks.binary_duo import decouple
from bnas_larq.networks.network_files import WEIGHTS
from bnas_larq.networks.weight_files import load_weights, save_weights
from bnas_larq.teacher_settings import PREVIOUS
from bnas_larq.train_settings import DECOUPLED, TrainStage
from bnas_larq.training.teachers import Teacher, paired_layers
from bnas_larq.training.trainer import train_network


def train_plan(
    plan: Sequence[TrainStage],
    network: Callable[[TrainStage], keras.Model],
    batches: Callable[[TrainStage], EpochPipeline],
    teacher: Callable[[TrainStage], Teacher | None] = lambda stage: None,
    *,
    validation: Callable[[TrainStage], EvaluationPipeline | None] = lambda stage: None,
    folder: Path,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    seed: int = 0,
    float_storage: str = FLOAT32,
) -> keras.Model:
    """Train all stages, from the newest checkpoint if there is one; returns the last one's network,
    all of it trainable.

    Epochs count through the stages. Checkpoints of the last stage lie in `folder`/checkpoints,
    those of the others and their weights in a folder of their name below it.

    Args:
        plan: stages with all their keys, as `bnas_larq.train_settings.training_plan` makes them.
        network: a stage's network, at random or with the weights that it starts from outside the
            plan; with drop-path layers if it has a rate.
        batches: a stage's training data.
        teacher: what a stage learns from, if it does.
        validation: a stage's validation data, if it has any; never the test split.
        folder, callbacks: as of `train_network`, where the errors are listed, too.
        seed: of drop-path's masks, and of random weights in later stages; the caller has seeded
            those of the first.
        float_storage: as of `train_network`, of the last stage's network.

    Raises:
        RecipeError: as of `freeze` and `paired_layers`, before anything is trained.
    """
    whole = Checkpoints(folder / "checkpoints")
    places = [*(Checkpoints(stage_weights(folder, stage).parent) for stage in plan[:-1]), whole]
    # A checkpoint includes all that earlier stages did.
    begun = [n for n, place in enumerate(places) if any(place.folder.glob("epoch-*"))]
    first = begun[-1] if begun else 0
    # A mistake in a later stage shows at once.
    doubtful = [s for s in plan[first + 1 :] if s.freeze or s.starts_elsewhere or _attends(s)]
    check_networks(plan, doubtful, lambda stage: network(stage).layers, teacher)
    for number in range(first, len(plan)):
        stage, place, decoupled = plan[number], places[number], None
        begins = number > first or not begun
        if begins and stage.start == DECOUPLED:
            coupled = load_weights(network(plan[number - 1]), places[number - 1].folder / WEIGHTS)
            decoupled = decouple(coupled)
        if number or doubtful:
            # Whatever networks this process has built before.
            keras.utils.set_random_seed(seed)
        model = network(stage)
        if begins and stage.start == PREVIOUS:
            load_weights(model, places[number - 1].folder / WEIGHTS)
        for layer in model.layers if decoupled else ():
            if layer.weights:
                layer.set_weights(decoupled.get_layer(layer.name).get_weights())
        freeze(model.layers, stage)
        pipeline = batches(stage)
        train_network(
            model,
            stage,
            pipeline.dataset,
            pipeline.steps_per_epoch,
            validation_data=validation(stage),
            folder=folder,
            callbacks=callbacks,
            title=stage.name,
            checkpoints=place,
            first_epoch=sum(earlier.epochs for earlier in plan[:number]),
            stage=stage.name if len(plan) > 1 else None,
            teacher=teacher(stage),
            seed=seed,
            float_storage=float_storage if place is whole else FLOAT32,
        )
        if place is not whole:
            save_weights(model, place.folder / WEIGHTS)
    for layer in model.layers:
        layer.trainable = True
    return model


def check_networks(
    plan: Sequence[TrainStage],
    stages: Sequence[TrainStage],
    layers: Callable[[TrainStage], Sequence[keras.layers.Layer]],
    teacher: Callable[[TrainStage], Teacher | None],
) -> None:
    """Check what some stages of a plan freeze and attend to.

    Args:
        layers: those of a stage's network.
        teacher: as of `train_plan`.

    Raises:
        RecipeError: as of `freeze` and `paired_layers`.
    """
    for stage in stages:
        own = layers(stage)
        freeze(own, stage)
        if _attends(stage):
            before = plan[plan.index(stage) - 1]
            known = teacher(stage).model.layers if stage.learns_elsewhere else layers(before)
            paired_layers(own, known, stage.teacher.layers)


def _attends(stage: TrainStage) -> bool:
    return stage.teacher is not None and stage.teacher.attention > 0


def stage_weights(folder: Path, stage: TrainStage) -> Path:
    """The weights of a stage other than the last, once it is trained; `folder` as of
    `train_plan`."""
    return folder / "checkpoints" / stage.name / WEIGHTS


def freeze(layers: Sequence[keras.layers.Layer], stage: TrainStage) -> None:
    """Freeze those layers of a network that the stage names, their BatchNorm in inference mode.

    Raises:
        RecipeError: a pattern that names no layer, or patterns that leave nothing to train.
    """
    for pattern in stage.freeze:
        chosen = [x for x in layers if fnmatchcase(x.name, pattern.removeprefix("!"))]
        if not chosen:
            raise RecipeError(
                "A pattern of layers to freeze names some. "
                f"Received: {pattern!r} in the stage {stage.name!r}, which names none. "
                "`model.summary()` of the network lists its layers."
            )
        for layer in chosen:
            layer.trainable = pattern.startswith("!")
    if not any(layer.trainable_weights for layer in layers):
        raise RecipeError(
            "A stage trains some layers. "
            f"Received: freeze {list(stage.freeze)} in the stage {stage.name!r}, which is all of "
            "them. Make an exception, such as '!classifier'."
        )
