"""Training of final networks: schedules, drop-path, optimizer and loss, and a resumable `fit`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bnas_larq.backend import keras, register, tf
from bnas_larq.checkpoints import Checkpoints
from bnas_larq.fitting.callbacks import Progress
from bnas_larq.fitting.resume import resumable_fit
from bnas_larq.layers.activations import AnnealedSign
from bnas_larq.layers.binary_convolution import compute_in
from bnas_larq.layers.cells import DropPath
from bnas_larq.networks.optimizers import CoupledAdam, CoupledSGD
from bnas_larq.precision import recorded_precision
from bnas_larq.settings import TrainSettings

#: Metrics of the progress line.
SHOWN = ("loss", "accuracy", "val_loss", "val_accuracy")


def _piecewise_linear(step: tf.Tensor, knots: list[tuple[float, float]]) -> tf.Tensor:
    """Linear interpolation of (step, value) knots, constant outside them."""
    step = tf.cast(step, tf.float32)
    value = tf.constant(knots[0][1], tf.float32)
    for (x0, y0), (x1, y1) in zip(knots, knots[1:], strict=False):
        share = tf.clip_by_value((step - x0) / max(x1 - x0, 1.0), 0.0, 1.0)
        value = tf.where(step >= x0, y0 + (y1 - y0) * share, value)
    return value


@register
class OneCycle(keras.optimizers.schedules.LearningRateSchedule):
    """Linear 0.05·peak → peak → 0.05·peak over 90 % of the steps, then down to 0.0005·peak.

    Source: the training of BNAS on CIFAR-10 (arXiv 2002.06963, after Smith, arXiv 1708.07120).

    Example:
        >>> rate = OneCycle(peak=1.0, steps=1000)
        >>> [round(float(rate(step)), 4) for step in (0, 450, 900, 1000)]
        [0.05, 1.0, 0.05, 0.0005]
    """

    def __init__(self, peak: float, steps: int) -> None:
        self.peak, self.steps = peak, steps

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        half, cycle, end = 0.45 * self.steps, 0.9 * self.steps, float(self.steps)
        low, last = 0.05 * self.peak, 0.0005 * self.peak
        return _piecewise_linear(step, [(0.0, low), (half, self.peak), (cycle, low), (end, last)])

    def get_config(self) -> dict:
        return {"peak": self.peak, "steps": self.steps}


@register
class OneCycleMomentum(keras.optimizers.schedules.LearningRateSchedule):
    """Momentum of the one-cycle policy: 0.95 → 0.85 → 0.95 over 90 % of the steps, then 0.95.

    Example:
        >>> momentum = OneCycleMomentum(steps=1000)
        >>> [round(float(momentum(step)), 3) for step in (0, 225, 450, 1000)]
        [0.95, 0.9, 0.85, 0.95]
    """

    def __init__(self, steps: int, high: float = 0.95, low: float = 0.85) -> None:
        self.steps, self.high, self.low = steps, high, low

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        knots = [(0.0, self.high), (0.45 * self.steps, self.low), (0.9 * self.steps, self.high)]
        return _piecewise_linear(step, knots)

    def get_config(self) -> dict:
        return {"steps": self.steps, "high": self.high, "low": self.low}


def learning_rate(
    settings: TrainSettings, steps_per_epoch: int
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """The recipe's schedule over the whole training."""
    steps = settings.epochs * steps_per_epoch
    if settings.schedule == "one-cycle":
        return OneCycle(settings.learning_rate, steps)
    if settings.schedule == "cosine":
        if settings.restart_epochs:
            period = settings.restart_epochs * steps_per_epoch
            return keras.optimizers.schedules.CosineDecayRestarts(
                settings.learning_rate, period, t_mul=1.0, m_mul=1.0
            )
        return keras.optimizers.schedules.CosineDecay(settings.learning_rate, steps)
    return settings.learning_rate


class DropPathSchedule(keras.callbacks.Callback):
    """Raises the rate of all drop-path layers from 0 to `rate` over `steps`.

    Rate and masks follow the optimizer's step counter, also after a resume; masks depend on the
    run's `seed`, too.
    """

    def __init__(self, rate: float, steps: int, seed: int = 0) -> None:
        super().__init__()
        self.rate, self.steps, self.seed = rate, steps, seed

    def on_train_begin(self, logs: dict | None = None) -> None:
        layers = [layer for layer in self.model.layers if isinstance(layer, DropPath)]
        self.controls = list({id(layer.control): layer.control for layer in layers}.values())
        for control in self.controls:
            control.seed.assign(self.seed)

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        step = int(self.model.optimizer.iterations)
        for control in self.controls:
            control.step.assign(step)
            control.rate.assign(self.rate * min(1.0, step / self.steps))


class AnnealingSchedule(keras.callbacks.Callback):
    """Raises the progress of all annealed signs from 0 to 1 over `steps`, see `AnnealedSign`; it
    follows the optimizer's step counter, also after a resume."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def on_train_begin(self, logs: dict | None = None) -> None:
        signs = [getattr(layer, "input_quantizer", None) for layer in self.model.submodules]
        signs = [sign for sign in signs if isinstance(sign, AnnealedSign)]
        self.controls = list({id(sign.control): sign.control for sign in signs}.values())

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        for control in self.controls:
            control.progress.assign(min(1.0, int(self.model.optimizer.iterations) / self.steps))


def make_optimizer(
    settings: TrainSettings,
    steps_per_epoch: int,
    rate_multipliers: Mapping[str, float] | None = None,
) -> keras.optimizers.Optimizer:
    """SGD (with the one-cycle policy's momentum) or Adam, both with coupled L2 decay."""
    rate = learning_rate(settings, steps_per_epoch)
    shared = {
        "l2": settings.weight_decay,
        "clip_norm": settings.clip_norm,
        "rate_multipliers": rate_multipliers,
    }
    if settings.optimizer == "adam":
        return CoupledAdam(rate, **shared)
    schedule = None
    if settings.schedule == "one-cycle":
        schedule = OneCycleMomentum(settings.epochs * steps_per_epoch)
    return CoupledSGD(rate, momentum=settings.momentum, momentum_schedule=schedule, **shared)


def make_loss(settings: TrainSettings, num_classes: int) -> keras.losses.Loss:
    """Cross-entropy of logits and integer labels, with the recipe's label smoothing."""
    if not settings.label_smoothing:
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    smooth = keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=settings.label_smoothing
    )

    def smoothed_cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        return smooth(tf.one_hot(tf.cast(tf.reshape(labels, [-1]), tf.int32), num_classes), logits)

    return smoothed_cross_entropy


def train_network(
    model: keras.Model,
    settings: TrainSettings,
    dataset: Callable[[int], tf.data.Dataset],
    steps_per_epoch: int,
    *,
    validation_data: tf.data.Dataset | None,
    folder: Path,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    title: str = "train",
    checkpoints: Checkpoints | None = None,
    first_epoch: int = 0,
    rate_multipliers: Mapping[str, float] | None = None,
    until: int | None = None,
    seed: int = 0,
) -> None:
    """Train `model` to the last epoch, from the newest checkpoint in `folder` if there is one.

    Args:
        model: built with drop-path layers if the recipe's `drop_path` is above 0.
        dataset: (image, label) batches from the first one of a given epoch on.
        validation_data: evaluated after each epoch; never the test split.
        folder: gets metrics.jsonl, checkpoints/ and, with precision `auto`, precision.json.
        title: of the progress lines.
        checkpoints: default in `folder`.
        first_epoch: number of epochs that another stage trained before those of `settings`.
        rate_multipliers: factors of the learning rate, by a weight's name.
        until: stop after this epoch, without changing the schedules; a later call continues.
        seed: of drop-path's masks.

    Raises:
        TrainingStopped: the loss is not finite.
    """
    epochs = first_epoch + settings.epochs if until is None else until
    steps = settings.epochs * steps_per_epoch
    model.compile(
        optimizer=make_optimizer(settings, steps_per_epoch, rate_multipliers),
        loss=make_loss(settings, model.output_shape[-1]),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
    )
    choice = recorded_precision(folder, settings.mixed_precision)
    with compute_in(model, choice.name):
        resumable_fit(
            model,
            dataset,
            steps_per_epoch=steps_per_epoch,
            epochs=epochs,
            checkpoints=checkpoints or Checkpoints(folder / "checkpoints"),
            log=folder / "metrics.jsonl",
            optimizers={"optimizer": (model.optimizer, model.trainable_variables)},
            validation_data=validation_data,
            first_epoch=first_epoch,
            callbacks=[
                DropPathSchedule(settings.drop_path, steps, seed),
                AnnealingSchedule(steps),
                Progress(title, epochs, steps_per_epoch, SHOWN),
                *callbacks,
            ],
        )
