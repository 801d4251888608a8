"""Training of one stage: drop-path, optimizer and loss, and a resumable `fit`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from bnas_larq.backend import keras, tf
from bnas_larq.checkpoints import Checkpoints
from bnas_larq.costs.float_kernels import FLOAT32
from bnas_larq.data import EvaluationPipeline
from bnas_larq.fitting.batch_norm_statistics import reestimate
from bnas_larq.fitting.callbacks import AfterLastStep, Progress
from bnas_larq.fitting.resume import resumable_fit
from bnas_larq.fitting.rounded_kernels import round_to_int8
from bnas_larq.layers.activations import AnnealedSign
from bnas_larq.layers.cells import drop_path_controls
from bnas_larq.networks.fast_training import fast_training
from bnas_larq.networks.optimizers import CoupledAdam, CoupledSGD, latent_kernels, weight_kinds
from bnas_larq.precision import recorded_precision
from bnas_larq.strategies import mean_loss
from bnas_larq.train_settings import StageSettings, WeightDecay
from bnas_larq.training.accumulation import accumulated
from bnas_larq.training.schedules import OneCycleMomentum, learning_rate
from bnas_larq.training.teachers import Distilled, Teacher

#: Metrics of the progress line.
SHOWN = ("loss", "accuracy", "val_loss", "val_accuracy")


class _StepSchedule(keras.callbacks.Callback):
    """A schedule of the optimizer's step counter, also after a resume. It is read once and then
    counted along: reading it in every step would wait for an accelerator."""

    _supports_tf_logs = True  # reads no metrics, for which Keras would wait, too

    def on_train_begin(self, logs: dict | None = None) -> None:
        self._step = int(self.model.optimizer.iterations.numpy())

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        self.set_step(self._step)
        self._step += 1

    def set_step(self, step: int) -> None:
        """Make all variables those of a step."""
        raise NotImplementedError


class DropPathSchedule(_StepSchedule):
    """Raises the rate of all drop-path layers from 0 to `rate` over `steps`.

    Rate and masks follow the optimizer's step counter, also after a resume; masks depend on the
    run's `seed`, too.
    """

    def __init__(self, rate: float, steps: int, seed: int = 0) -> None:
        super().__init__()
        self.rate, self.steps, self.seed = rate, steps, seed

    def on_train_begin(self, logs: dict | None = None) -> None:
        super().on_train_begin(logs)
        self.controls = drop_path_controls(self.model)
        for control in self.controls:
            control.seed.assign(self.seed)

    def set_step(self, step: int) -> None:
        for control in self.controls:
            control.step.assign(step)
            control.rate.assign(self.rate * min(1.0, step / self.steps))


class AnnealingSchedule(_StepSchedule):
    """Raises the progress of all annealed signs from 0 to 1 over `steps`, see `AnnealedSign`; it
    follows the optimizer's step counter, also after a resume."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def on_train_begin(self, logs: dict | None = None) -> None:
        super().on_train_begin(logs)
        signs = [getattr(layer, "input_quantizer", None) for layer in self.model.submodules]
        signs = [sign for sign in signs if isinstance(sign, AnnealedSign)]
        self.controls = list({id(sign.control): sign.control for sign in signs}.values())

    def set_step(self, step: int) -> None:
        for control in self.controls:
            control.progress.assign(min(1.0, step / self.steps))


def make_optimizer(
    settings: StageSettings, steps_per_epoch: int, model: keras.Model
) -> keras.optimizers.Optimizer:
    """SGD (with the one-cycle policy's momentum) or Adam, both with coupled L2 decay."""
    rate, decay, multipliers = learning_rate(settings, steps_per_epoch), settings.weight_decay, {}
    if isinstance(decay, WeightDecay):
        decay = {name: getattr(decay, kind) for name, kind in weight_kinds(model).items()}
    if settings.binary_multiplier != 1:
        multipliers = {k.name: settings.binary_multiplier for k in latent_kernels(model)}
    shared = {"l2": decay, "clip_norm": settings.clip_norm, "rate_multipliers": multipliers}
    if settings.optimizer == "adam":
        return CoupledAdam(rate, **shared)
    schedule = None
    if settings.schedule == "one-cycle":
        schedule = OneCycleMomentum(settings.epochs * steps_per_epoch)
    return CoupledSGD(rate, momentum=settings.momentum, momentum_schedule=schedule, **shared)


def make_loss(settings: StageSettings, num_classes: int) -> keras.losses.Loss:
    """Cross-entropy of logits and labels, integers or mixup's shares of classes [batch, classes],
    with the recipe's label smoothing."""
    if not settings.label_smoothing and not settings.mixup:
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    smooth = keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=settings.label_smoothing
    )

    def smoothed_cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        if not _are_shares(labels):
            labels = tf.one_hot(tf.cast(tf.reshape(labels, [-1]), tf.int32), num_classes)
        return mean_loss(smooth, labels, logits)

    return smoothed_cross_entropy


def make_accuracy(settings: StageSettings) -> keras.metrics.Metric:
    """Share of images whose largest logit is that of the label, after mixup of its larger part."""
    if not settings.mixup:
        return keras.metrics.SparseCategoricalAccuracy(name="accuracy")

    def matches(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        if _are_shares(labels):
            return keras.metrics.categorical_accuracy(labels, logits)
        return keras.metrics.sparse_categorical_accuracy(labels, logits)

    return keras.metrics.MeanMetricWrapper(matches, name="accuracy")


def _are_shares(labels: tf.Tensor) -> bool:
    return labels.shape.rank == 2 and labels.shape[1] != 1


def train_network(
    model: keras.Model,
    settings: StageSettings,
    dataset: Callable[..., tf.data.Dataset],
    steps_per_epoch: int,
    *,
    validation_data: tf.data.Dataset | EvaluationPipeline | None,
    folder: Path,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    title: str = "train",
    checkpoints: Checkpoints | None = None,
    first_epoch: int = 0,
    stage: str | None = None,
    teacher: Teacher | None = None,
    until: int | None = None,
    seed: int = 0,
    float_storage: str = FLOAT32,
) -> None:
    """Train `model` to the last epoch, from the newest checkpoint in `folder` if there is one.

    Args:
        model: built with drop-path layers if the recipe's `drop_path` is above 0.
        dataset: (image, label) batches from a step (default: the first) of a given epoch on; see
            `resumable_fit`.
        validation_data: evaluated after each epoch; never the test split.
        folder: gets metrics.jsonl, checkpoints/ and, with precision `auto`, precision.json.
        title: of the progress lines.
        checkpoints: default in `folder`.
        first_epoch: number of epochs that another stage trained before those of `settings`.
        stage: its name in metrics.jsonl, if there are others.
        teacher: what `settings.teacher` names.
        until: stop after this epoch, without changing the schedules; a later call continues.
        seed: of drop-path's masks.
        float_storage: of full-precision kernels in the deployed file; those that it rounds to int8
            are rounded after the last step, before BatchNorm's statistics are estimated again.

    Trains under the present strategy, see `bnas_larq.strategies`.

    Raises:
        TrainingStopped: the loss is not finite.
    """
    epochs = first_epoch + settings.epochs if until is None else until
    steps = settings.epochs * steps_per_epoch
    network, loss = model, make_loss(settings, model.output_shape[-1])
    if teacher is not None:
        model = Distilled(model, teacher, loss)
    model.compile(
        optimizer=make_optimizer(settings, steps_per_epoch, model),
        loss=loss,
        metrics=[make_accuracy(settings)],
    )
    last = first_epoch + settings.epochs - 1, steps_per_epoch - 1

    def finish() -> None:
        if float_storage == "int8":
            round_to_int8(network)
        if settings.reestimate_batch_norm:
            # Of the size that training takes the statistics of.
            images = dataset(last[0] + 1)
            if settings.accumulate > 1:
                images = images.rebatch(settings.batch_size // settings.accumulate)
            reestimate(model, images.take(settings.reestimate_batch_norm * settings.accumulate))

    choice = recorded_precision(folder, settings.mixed_precision)
    with fast_training(model, choice.name), accumulated(model, settings.accumulate):
        resumable_fit(
            model,
            dataset,
            steps_per_epoch=steps_per_epoch,
            epochs=epochs,
            checkpoints=checkpoints or Checkpoints(folder / "checkpoints"),
            log=folder / "metrics.jsonl",
            facts={"stage": stage} if stage else {},
            optimizers={"optimizer": (model.optimizer, model.trainable_variables)},
            validation_data=validation_data,
            first_epoch=first_epoch,
            checkpoint_minutes=settings.checkpoint_minutes,
            callbacks=[
                DropPathSchedule(settings.drop_path, steps, seed),
                AnnealingSchedule(steps),
                AfterLastStep(finish, *last),
                Progress(title, epochs, steps_per_epoch, SHOWN),
                *callbacks,
            ],
        )
