"""The sections of a recipe: what each key means and which values it takes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic

from bnas_larq.errors import nearest
from bnas_larq.searcher_settings import (
    BanditSettings,
    OneShotSettings,
    OperationBounds,
    ProgressiveSettings,
)
from bnas_larq.setting_types import (
    BlockOrder,
    Cells,
    Channels,
    Count,
    Decay,
    FloatStorage,
    Large,
    Natural,
    Nonlinearity,
    NotNegative,
    OptionalShortcut,
    Positive,
    Precision,
    Section,
    Shortcut,
    Transition,
    UserPath,
)
from bnas_larq.train_settings import TrainSettings


class TunerSettings(OperationBounds):
    """Search over discrete genotypes by keras-tuner, for `searcher: tuner`.

    A trial trains the final network (sections `network` and `train`) on the training part for
    `epochs` epochs, and evaluates it on the validation part.

    Attributes:
        oracle: proposes the trials; `evolution` is regularised evolution (arXiv 1802.01548).
        trials: networks to train in all (Hyperband: as many as its brackets need, at most this).
        epochs: of a trial; the maximum of Hyperband, which learning rates are scheduled for.
        population, sample: of evolution: living trials, and those that compete to be the parent.
        hyperband_factor: Hyperband keeps 1/factor of the trials of a round.
        hyperparameters: keys of the section `train` to tune as well, each with a list of choices or
            {min: …, max: …, log: true|false}.
        cost: second axis of the Pareto front, in the papers' convention; None for none. The oracle
            maximises accuracy alone.
        workers: processes that run trials at the same time, besides the chief; only with 1 is the
            search repeatable.
        maximum_ops, minimum_ops: see `OperationBounds`. No network outside of them is trained.
    """

    oracle: Literal["random", "bayesian", "hyperband", "evolution"] = "evolution"
    trials: Count = 50
    epochs: Count = 10
    population: int = pydantic.Field(20, gt=1, le=10**6)
    sample: Count = 5
    hyperband_factor: int = pydantic.Field(3, gt=1, le=10**6)
    hyperparameters: dict[str, list | dict[str, int | float | bool]] = {}
    cost: Literal["ops", "bytes"] | None = "ops"
    workers: Annotated[int, pydantic.Field(gt=0, le=1000)] = 1

    @pydantic.model_validator(mode="after")
    def _children(self) -> TunerSettings:
        if self.oracle == "evolution" and self.population >= self.trials:
            raise ValueError(
                f"evolution needs more trials than its population, which starts at random; "
                f"trials is {self.trials}, population {self.population}"
            )
        return self

    @pydantic.field_validator("hyperparameters")
    @classmethod
    def _tunable(cls, hyperparameters: dict[str, Any]) -> dict[str, Any]:
        """Validated as in the section `train`, so that no trial fails because of its settings."""
        return {key: _tunable_values(key, allowed) for key, allowed in hyperparameters.items()}


def _tunable_values(key: str, allowed: Any) -> Any:
    """Choices or limits of one setting, converted to its type; ValueError for invalid ones."""
    fixed = ("epochs", "on", "accumulate", "checkpoint_minutes", "stages", "teacher")
    known = [name for name in TrainSettings.model_fields if name not in fixed]
    if key not in known:
        hint = nearest(key, known).rstrip("?.")
        raise ValueError(
            f"{key!r} cannot be tuned, only keys of train except {', '.join(fixed)} ({hint})"
        )

    def value(given: Any) -> Any:
        try:
            valid = getattr(TrainSettings.model_validate({key: given}), key)
        except pydantic.ValidationError as error:
            raise ValueError(f"train.{key} cannot be {given!r}") from error
        if isinstance(valid, Section):
            raise ValueError(f"train.{key} is tuned as a number, not as {given!r}")
        return valid

    if isinstance(allowed, list):
        choices = [value(choice) for choice in allowed]
        if not choices or any(choice in choices[:index] for index, choice in enumerate(choices)):
            raise ValueError(f"{key!r} needs choices without repetition")
        return choices
    if not {"min", "max"} <= set(allowed) <= {"min", "max", "log"}:
        raise ValueError(f"{key!r} needs choices or a range {{min: …, max: …, log: true|false}}")
    low, high, log = value(allowed["min"]), value(allowed["max"]), allowed.get("log", False)
    numbers = all(isinstance(limit, (int, float)) for limit in (low, high))
    if not numbers or not low < high or not isinstance(log, bool) or (log and low <= 0):
        raise ValueError(
            f"{key!r} needs numbers with min below max, and min above 0 if log is true"
        )
    return {"min": low, "max": high, "log": log}


class CostTermSettings(Section):
    """A differentiable cost term in the loss of α; see `bnas_larq.costs.expected_cost`.

    Attributes:
        measure: of the network that α describe, in the size of the section `network`.
        target: in the measure's unit (OPs with full-precision shortcuts, bytes, milliseconds). The
            term is 0 up to it.
        weight: factor of the term.
        table: for `latency`, a YAML or JSON file of milliseconds by operation; see
            `bnas_larq.costs.latency_tables`.
    """

    measure: Literal["ops", "bytes", "latency"] = "ops"
    target: float = pydantic.Field(gt=0)
    weight: float = pydantic.Field(0.1, gt=0)
    table: UserPath | None = None


class AlarmSettings(Section):
    """Limits that a search warns about; see `bnas_larq.search.alarms`.

    Attributes:
        action: `warn` and continue, or `stop` the search with the reason.
        zeroise, pooling: largest share of kept edges with Zeroise, or with pooling or identity.
        entropy: least mean entropy, as a share of its maximum, in the first half of the epochs.
        dead_signs: largest share of binarised channels whose sign never changes or passes no
            gradient.
    """

    action: Literal["off", "warn", "stop"] = "warn"
    zeroise: float = pydantic.Field(0.75, gt=0, le=1)
    pooling: float = pydantic.Field(0.75, gt=0, le=1)
    entropy: float = pydantic.Field(0.1, ge=0, lt=1)
    dead_signs: float = pydantic.Field(0.5, gt=0, le=1)


class SearchSettings(Section):
    """The search; defaults are the published settings of BNAS (arXiv 2002.06963).

    Attributes:
        searcher: `gradient` (BNAS, DARTS, SNAS, GDAS and PC-DARTS, by the keys below), `bandit`
            (BNAS-UCB), `progressive` (P-DARTS, BATS), `one-shot` (SPOS: an evolution over the paths
            of a supernet), or `tuner` (keras-tuner).
        cells, channels: of the supernet; with `progressive`, `progressive.cells` has the cells.
        groups: of BATS' candidates, as in the section `network`.
        kernels: of the candidates: `binary`, or `real` behind the signs of activations (BATS).
        optimizer: of the weights, `sgd` or `adam`; `momentum` is SGD's.
        relaxation: `softmax` (DARTS), `gumbel-hard` (GDAS) or `concrete` (SNAS).
        temperature: of `gumbel-hard` and `concrete`, in the first and in the last epoch.
        temperature_decay: between the two. With `bandit`, the temperature and the entropy term
            start with the finish.
        softmax_temperature: T of `softmax`, softmax(α/T), in normal and in reduction cells (BATS).
        order: of the gradient of α, 1 or 2 (DARTS, eq. 7); `single-level` trains α and the other
            weights on the same batch in one backward pass (SNAS).
        alpha_start_epoch: epochs before α start to train.
        channel_proportion: S; 1/S of a node's channels pass the candidates (PC-DARTS), 1 for all.
        edge_normalization: edge weights, learnt beside α (PC-DARTS).
        zeroise_competes: whether Zeroise may be chosen (BNAS); DARTS leaves it out of the arg-max,
            and `one-shot` and `tuner` then never draw it.
        choice: of operations and edges with `gradient`: by the size of `alpha`, or by
            `perturbation` of the trained supernet (DARTS-PT; after the last epoch).
        choice_examples: images of the α half, always the same, that perturbations are measured on;
            None for all.
        cost: a cost term in the loss of α; None for none.
        mixed_precision: type of the candidates' binary convolutions; `auto` takes bfloat16 if a
            short measurement finds it faster.
        stem: of the supernet, as in the section `network`; `auto` by the size of the images.
        shortcut: of its cells, as in the section `network`; None as in the search space.
        select: genotype of the epoch with the supernet's best held-out accuracy, or of the last;
            without a validation part always of the last.
        limit: number of training examples to search on, both halves together; None for all.
            `one-shot` has no halves: all of them train its weights.
        checkpoint_minutes: as in the section `train`; a bandit's draws are saved every 30
            seconds.
    """

    searcher: Literal["gradient", "bandit", "progressive", "one-shot", "tuner"] = "gradient"
    space: str = "bnas"
    cells: Cells = 8
    channels: Channels = 16
    groups: Count = 1
    kernels: Literal["binary", "real"] = "binary"
    stem: Literal["auto", "cifar", "imagenet"] = "auto"
    shortcut: OptionalShortcut = None
    epochs: Count = 50
    batch_size: Count = 64
    optimizer: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = pydantic.Field(0.025, gt=0)
    minimum_learning_rate: float = pydantic.Field(0.001, ge=0)
    momentum: float = pydantic.Field(0.9, ge=0, lt=1)
    weight_decay: float = pydantic.Field(3e-4, ge=0)
    clip_norm: float | None = pydantic.Field(5.0, gt=0)
    alpha_learning_rate: float = pydantic.Field(3e-4, gt=0)
    alpha_betas: tuple[Decay, Decay] = (0.5, 0.999)
    alpha_weight_decay: float = pydantic.Field(1e-3, ge=0)
    entropy_weight: float = pydantic.Field(1.0, ge=0)
    entropy_tau: float = pydantic.Field(7.7, gt=0)
    gamma: float = pydantic.Field(1.0, gt=0)
    scheme: str = "sign-scale"
    relaxation: Literal["softmax", "gumbel-hard", "concrete"] = "softmax"
    temperature: tuple[float, float] = (10.0, 0.1)
    temperature_decay: Literal["linear", "exponential"] = "linear"
    softmax_temperature: tuple[Positive, Positive] = (1.0, 1.0)
    order: Literal[1, 2, "single-level"] = 1
    alpha_start_epoch: Natural = 0
    channel_proportion: Count = 1
    edge_normalization: bool = False
    zeroise_competes: bool = True
    choice: Literal["alpha", "perturbation"] = "alpha"
    choice_examples: Large | None = None
    cost: CostTermSettings | None = None
    alarms: AlarmSettings = AlarmSettings()
    bandit: BanditSettings = BanditSettings()
    progressive: ProgressiveSettings = ProgressiveSettings()
    one_shot: OneShotSettings = OneShotSettings()
    tuner: TunerSettings = TunerSettings()
    select: Literal["best", "final"] = "best"
    limit: int | None = pydantic.Field(None, gt=1, le=10**9)
    mixed_precision: Precision = "float32"
    checkpoint_minutes: NotNegative = 0.0

    @pydantic.model_validator(mode="after")
    def _virtual_step(self) -> SearchSettings:
        if self.order == 2 and self.optimizer == "adam":
            raise ValueError("order 2 follows a step of SGD; optimizer is adam")
        return self

    @pydantic.model_validator(mode="after")
    def _mixture(self) -> SearchSettings:
        if self.choice == "perturbation" and self.relaxation == "gumbel-hard":
            raise ValueError(
                "a perturbation takes one of all candidates away, and gumbel-hard trains paths of "
                "one candidate; choose another relaxation, or choice alpha"
            )
        if self.choice == "perturbation" and self.channel_proportion > 1:
            raise ValueError(
                "a perturbation takes an edge away, and of partial channels most bypass its "
                f"candidates; channel_proportion is {self.channel_proportion}, set it to 1, or "
                "choice to alpha"
            )
        return self


class NetworkSettings(Section):
    """Size of the final network, and how it is binarised. With kind `cells` it is a genotype's, see
    `bnas_larq.networks.network.NetworkConfig`; with `residual` there is nothing to search, see
    `bnas_larq.networks.residual_network.ResidualConfig`, nor with `binary-duo`, see
    `bnas_larq.networks.binary_duo.BinaryDuoConfig`. The keys of one kind are refused with the
    others.
    """

    kind: Literal["cells", "residual", "binary-duo"] = "cells"
    cells: Cells = 20
    channels: Channels = 36
    reductions: list[Natural] | None = None
    stem: Literal["auto", "cifar", "imagenet", "quicknet"] = "auto"
    stem_groups: Count = 1
    groups: Count = 1
    padding: Literal["same", "symmetric"] = "same"
    shortcut: Shortcut = "conv"
    preprocess: Literal["auto", "relu", "linear", "prelu"] = "auto"
    scheme: str = "sign-scale"
    activations: Literal["sign", "relu", "leaky-clip", "clip", "tanh", "ternary"] = "sign"
    kernels: Literal["binary", "real"] = "binary"
    activation_gradient: Literal["ste", "approx", "annealed"] = "ste"
    activation_clip: float = pydantic.Field(1.0, gt=0)
    widths: tuple[Channels, ...] = (32, 64, 128)
    blocks: tuple[Natural, ...] = (2, 3, 3)
    block_convolutions: Literal[1, 2] = 1
    transition: Transition = "pool"
    strided_blocks: bool = False
    block_order: BlockOrder = "sign-conv-act-bn-add"
    nonlinearity: Nonlinearity = "relu"
    pad_values: Literal[0, 1] = 0
    last_width: Channels | None = None


class ExportSettings(Section):
    """Conversion to Larq Compute Engine at the end of a run.

    Attributes:
        parity_images: test images that file and Keras are compared on; as many as the test part has
            give the file's test accuracy.
        float_storage: type of full-precision kernels in the file, which computes in float32 either
            way: `float16` halves them, `int8` (one scale for each output channel) quarters them,
            and a training that is followed by the export ends with kernels rounded so.
    """

    enabled: bool = True
    parity_images: Count = 64
    float_storage: FloatStorage = "float32"
