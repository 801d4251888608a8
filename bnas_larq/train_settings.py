"""The sections `train` and `finetune` of a recipe, and the plan of stages that they describe."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import pydantic

from bnas_larq.data_settings import AugmentationSettings
from bnas_larq.setting_types import (
    Count,
    Natural,
    NotNegative,
    PlainName,
    Precision,
    Section,
    Sha256,
    Side,
    UserPath,
)
from bnas_larq.teacher_settings import PREVIOUS, TeacherSettings

#: What a stage starts from, unless it is the previous one or names a trained network.
RANDOM = "random"
#: BinaryDuo's step from ternary to binary activations: the previous stage's network, decoupled.
DECOUPLED = "decoupled"


class WeightDecay(Section):
    """L2 decay by kind of weight; see `bnas_larq.networks.optimizers.weight_kinds`.

    Attributes:
        binary: latent kernels of binary convolutions; a stage whose kernels are real has none.
        kernels: all other kernels but the classifier's.
        batch_norm: scales and offsets of BatchNorm.
        head: kernel and bias of the classifier.
        other: biases, scales and slopes.
    """

    binary: NotNegative = 0.0
    kernels: NotNegative = 0.0
    batch_norm: NotNegative = 0.0
    head: NotNegative = 0.0
    other: NotNegative = 0.0


class StageSettings(Section):
    """How one stage trains; defaults are BNAS' CIFAR-10 settings.

    Attributes:
        batch_size: images of an update of the weights.
        accumulate: equal parts of a batch that are worked on one after the other, to save memory;
            their gradients are averaged before the update. BatchNorm has the statistics of each
            part.
        schedule: of the learning rate over the stage; `cosine` and `linear` end at 0.
        warmup: share of the steps in which the rate first rises linearly from 0; the schedule spans
            the others. One-cycle has its own.
        restart_epochs: epochs from one restart of `cosine` to the next; None for none.
        momentum: of `sgd`; one-cycle moves it between 0.85 and 0.95 instead.
        binary_multiplier: learning rate of latent binary kernels, as a share of `learning_rate`.
        weight_decay: of all weights alike, or by kind: those that are not named have none.
        mixup: a of mixup's Beta(a, a) (arXiv 1710.09412); 0 for none.
        reestimate_batch_norm: batches from which BatchNorm's statistics are estimated again with
            the stage's last weights; 0 for none.
        teacher: a trained network to learn from; None for the labels alone.
        mixed_precision: type of activations, convolutions and their gradients while training;
            `auto` takes bfloat16 if a short measurement finds it faster. The trained network is a
            float32 one either way.
        checkpoint_minutes: from one checkpoint to the next inside long epochs; 0: only behind each
            epoch.
    """

    epochs: Count = 600
    batch_size: Count = 256
    accumulate: Count = 1
    optimizer: Literal["sgd", "adam"] = "sgd"
    schedule: Literal["one-cycle", "cosine", "linear", "constant"] = "one-cycle"
    warmup: float = pydantic.Field(0.0, ge=0, lt=1)
    restart_epochs: Count | None = None
    learning_rate: float = pydantic.Field(0.05, gt=0)
    momentum: float = pydantic.Field(0.9, ge=0, lt=1)
    binary_multiplier: NotNegative = 1.0
    weight_decay: NotNegative | WeightDecay = 3e-6
    clip_norm: float | None = pydantic.Field(None, gt=0)
    drop_path: float = pydantic.Field(0.2, ge=0, lt=1)
    label_smoothing: float = pydantic.Field(0.0, ge=0, lt=1)
    mixup: NotNegative = 0.0
    reestimate_batch_norm: Natural = 0
    teacher: TeacherSettings | None = None
    mixed_precision: Precision = "float32"
    checkpoint_minutes: NotNegative = 0.0


class TrainStage(StageSettings):
    """One stage of a training plan: what differs from the section `train`.

    Weights pass from stage to stage by layer name; the optimizer starts anew. The last stage trains
    the network that is stored.

    Attributes:
        name: of metrics and checkpoints; default `stage1`, `stage2`, …
        activations, kernels: as in the section `network`, None for the network's own.
        start: `random`; `previous`, the default from the second stage on; `decoupled`, the
            previous one of BinaryDuo with its ternary activations turned into binary ones (see
            `bnas_larq.decouple`); or a run's folder, a zoo entry or a saved Keras model. Its
            classifier stays if it has as many classes.
        start_sha256: of the weight file that `start` names; a run records it.
        freeze: patterns of names of layers that are not trained, their BatchNorm in inference mode;
            `!` in front makes an exception of what earlier patterns name.
        augmentation: in place of `data.augmentation`; None for that one.
        crop_size: side of random square crops of the images, and of central ones for validation,
            on which it trains: a part of a training costs less on smaller images. None for whole
            images, on which the last stage trains.

    Example:
        >>> from bnas_larq import TrainStage
        >>> TrainStage(kernels="real", epochs=5).model_dump()
        {'epochs': 5, 'kernels': 'real'}
    """

    name: PlainName | None = None
    activations: Literal["sign", "relu", "leaky-clip", "clip", "tanh", "ternary"] | None = None
    kernels: Literal["binary", "real"] | None = None
    start: UserPath | None = None
    start_sha256: Sha256 | None = None
    freeze: tuple[str, ...] = ()
    augmentation: AugmentationSettings | None = None
    crop_size: Side | None = None

    @pydantic.field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str | None) -> str | None:
        if name is not None and re.fullmatch(r"(?!epoch-)\w[\w-]*", name, re.ASCII) is None:
            raise ValueError("a name of letters, digits, - and _ that does not begin with epoch-")
        return name

    @pydantic.model_serializer(mode="wrap")
    def _own_keys(self, serialize: Any) -> dict[str, Any]:
        """Only what was set: the rest is the section's."""
        return {key: value for key, value in serialize(self).items() if key in self.own_keys}

    @property
    def own_keys(self) -> set[str]:
        """The keys that were set."""
        return self.model_fields_set

    @property
    def network_settings(self) -> dict[str, str]:
        """What its network has of its own, for `NetworkConfig.replace`."""
        settings = {"activations": self.activations, "kernels": self.kernels}
        return {key: value for key, value in settings.items() if value is not None}

    @property
    def starts_elsewhere(self) -> bool:
        """Whether it starts from a trained network outside the plan."""
        return self.start not in (None, RANDOM, PREVIOUS, DECOUPLED)

    @property
    def learns_elsewhere(self) -> bool:
        """Whether it learns from a trained network outside the plan."""
        return self.teacher is not None and not self.teacher.is_previous


class TrainSettings(StageSettings):
    """Training of the final network: what all stages share, and the stages.

    Attributes:
        on: the training part, or `all`: the images that `data.validation_fraction` held out too,
            once the search has chosen; no validation accuracy is measured then.
        stages: none for a training in one stage.
    """

    on: Literal["train", "all"] = "train"
    stages: tuple[TrainStage, ...] = pydantic.Field((), max_length=100)

    @pydantic.field_validator("stages")
    @classmethod
    def _make_a_plan(cls, stages: tuple[TrainStage, ...]) -> tuple[TrainStage, ...]:
        if stages and stages[0].start in (PREVIOUS, DECOUPLED):
            raise ValueError("the first stage has none before it and starts otherwise")
        names = [stage.name or f"stage{number}" for number, stage in enumerate(stages, 1)]
        if len(set(names)) < len(names):
            raise ValueError("each stage needs a name of its own")
        return stages

    @pydantic.model_validator(mode="after")
    def _has_equal_parts(self) -> TrainSettings:
        for stage in training_plan(self):
            if stage.batch_size % stage.accumulate:
                raise ValueError(
                    f"accumulate divides the batch into equal parts; {stage.name} has a batch_size "
                    f"of {stage.batch_size} and accumulate {stage.accumulate}"
                )
        return self

    @pydantic.model_validator(mode="after")
    def _has_a_teacher(self) -> TrainSettings:
        own = self.stages and "teacher" in self.stages[0].own_keys
        first = self.stages[0].teacher if own else self.teacher
        if first is not None and first.is_previous:
            raise ValueError("the first stage has none before it that could teach")
        return self


class FineTuneSettings(Section):
    """Fine-tuning of another network's weights: a plan of two stages.

    The new head is trained alone, because gradients of an untrained head would destroy what was
    learned; then the whole network for `train.epochs` more.

    Attributes:
        entry: the source: a zoo entry's name, or a folder of an entry or a run.
        sha256: of the source's weight file; other weights are refused. None takes what is there,
            and a run records its hash.
        head_epochs: epochs of the new head alone, before `train.epochs`; 0 for none.
        head_learning_rate: Adam's rate in them.
        binary_multiplier: learning rate of latent binary kernels, as a share of
            `train.learning_rate`. Below 1 fewer signs flip at once; the only measurement here, on a
            source of five epochs, preferred 1 (docs/measurements.md).
    """

    entry: UserPath
    sha256: Sha256 | None = None
    head_epochs: Natural = 3
    head_learning_rate: float = pydantic.Field(0.005, gt=0)
    binary_multiplier: NotNegative = 1.0

    @property
    def stages(self) -> tuple[TrainStage, ...]:
        """The plan, as differences from the section `train`."""
        source = {"start": self.entry, "start_sha256": self.sha256}
        whole = {"name": "train", "binary_multiplier": self.binary_multiplier}
        if not self.head_epochs:
            return (TrainStage(**whole, **source),)
        head = TrainStage(
            name="head",
            # `bnas_larq.layers.template.CLASSIFIER`.
            freeze=("*", "!classifier"),
            # For a linear classifier on fixed features, Adam at a constant rate is enough.
            optimizer="adam",
            schedule="constant",
            warmup=0.0,
            drop_path=0.0,
            reestimate_batch_norm=0,
            teacher=None,
            epochs=self.head_epochs,
            learning_rate=self.head_learning_rate,
            **source,
        )
        return head, TrainStage(**whole)


#: Defaults of the section `train` for fine-tuning: Adam, because its steps do not depend on the
#: scale of a latent kernel's gradient, with a rate that decays to 0.
FINE_TUNING: Mapping[str, Any] = {
    "epochs": 10,
    "batch_size": 32,
    "optimizer": "adam",
    "schedule": "cosine",
    "learning_rate": 0.001,
    "weight_decay": 0.0,
    "drop_path": 0.0,
}


def training_plan(
    train: TrainSettings, finetune: FineTuneSettings | None = None
) -> tuple[TrainStage, ...]:
    """The stages of a training, each with all its keys.

    Example:
        >>> train = TrainSettings(epochs=9, stages=[{"kernels": "real", "epochs": 3}, {}])
        >>> [(stage.name, stage.start, stage.epochs) for stage in training_plan(train)]
        [('stage1', 'random', 3), ('stage2', 'previous', 9)]
    """
    shared = {key: getattr(train, key) for key in StageSettings.model_fields}
    stages = finetune.stages if finetune else train.stages
    plan = []
    for number, stage in enumerate(stages or (TrainStage(name="train"),)):
        values = {key: getattr(stage, key) for key in TrainStage.model_fields}
        values |= {key: value for key, value in shared.items() if key not in stage.own_keys}
        values["name"] = stage.name or f"stage{number + 1}"
        values["start"] = stage.start or (PREVIOUS if number else RANDOM)
        plan.append(stage.model_copy(update=values))
    return tuple(plan)


def with_sources(
    train: TrainSettings,
    change: Callable[[str, str | None], tuple[str, str | None]],
    cache: Callable[[str], str | None],
) -> TrainSettings:
    """The settings with every trained network that stages start or learn from changed, by its name
    and SHA-256, and every cache of a teacher's outputs."""

    def changed(settings: StageSettings) -> StageSettings:
        update: dict[str, Any] = {}
        if isinstance(settings, TrainStage) and settings.starts_elsewhere:
            update["start"], update["start_sha256"] = change(settings.start, settings.start_sha256)
        if (teacher := settings.teacher) and not teacher.is_previous:
            model, digest = change(teacher.model, teacher.sha256)
            folder = teacher.cache and cache(teacher.cache)
            own = {"model": model, "sha256": digest, "cache": folder}
            update["teacher"] = teacher.model_copy(update=own)
        return settings.model_copy(update=update)

    return changed(train).model_copy(update={"stages": tuple(map(changed, train.stages))})


#: Keys of a stage that some stages do not read: when, and what to do instead.
UNREAD_IN_STAGE = {
    "momentum": (
        lambda stage: stage.optimizer == "adam" or stage.schedule == "one-cycle",
        "Adam has none and one-cycle sets its own. Remove it, or use sgd with another schedule",
    ),
    "restart_epochs": (
        lambda stage: stage.schedule != "cosine",
        "Only the schedule cosine restarts. Remove it, or set schedule to cosine",
    ),
    "warmup": (
        lambda stage: stage.schedule == "one-cycle",
        "One-cycle begins with a rise of its own. Remove it, or choose another schedule",
    ),
    "label_smoothing": (
        lambda stage: stage.teacher is not None and not stage.teacher.cross_entropy,
        "The labels do not count. Remove it, or set teacher.cross_entropy",
    ),
    "binary_multiplier": (
        lambda stage: stage.kernels == "real",
        "No kernel of the stage is binary. Remove it",
    ),
    "start_sha256": (
        lambda stage: not stage.starts_elsewhere,
        "The stage starts from no other network. Remove it, or set start",
    ),
}
