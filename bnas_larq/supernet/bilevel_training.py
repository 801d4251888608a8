"""How a supernet trains: `compile`, `fit` on batches of both halves of the data, and one step."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from bnas_larq.backend import keras, tf
from bnas_larq.determinism import functions_read_once, uncollected
from bnas_larq.errors import BnasLarqError
from bnas_larq.networks.optimizers import CoupledAdam, CoupledSGD
from bnas_larq.strategies import examples_seen, mean_loss, shares_of_mean
from bnas_larq.supernet.alpha_gradients import (
    AlphaGradient,
    AlphaGradients,
    Batch,
    FirstOrder,
    Losses,
)
from bnas_larq.supernet.architecture import AnnealedEntropy, ArchitectureModel, search_trackers
from bnas_larq.supernet.bilevel_batches import EpochCounter, both_halves, check_halves


class BilevelModel(ArchitectureModel):
    """A network with architecture variables that learns from two halves of the data.

    `fit` takes a dataset of `((x_train, y_train), (x_val, y_val))`; each step first moves the
    architecture variables, then all others on the training half (DARTS, arXiv 1806.09055, alg. 1).
    `evaluate` and `predict` take plain `(x, y)` batches. Under a strategy of `tf.distribute` each
    replica takes a part of both halves' batches, see `bnas_larq.strategies`.
    """

    alpha_start_epoch = 0
    first_epoch = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Untracked: Keras would count the metrics' variables among the model's weights.
        self._untracked.trackers = search_trackers(self.operations)
        self._untracked.alpha_moves = True

    @abc.abstractmethod
    def constant_kernels(self) -> contextlib.AbstractContextManager[None]:
        """Inside, kernels do not change: each is quantised once, on entry."""

    @abc.abstractmethod
    def changing_kernels(self) -> contextlib.AbstractContextManager[None]:
        """Inside, every pass quantises the kernels anew, also within `constant_kernels`."""

    # -- Keras -------------------------------------------------------------------------------------

    def compile(
        self,
        optimizer: Any = None,
        alpha_optimizer: Any = None,
        diversity: AnnealedEntropy | None = None,
        loss: Any = None,
        *,
        cost: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None,
        alpha_gradient: AlphaGradient | None = None,
        alpha_start_epoch: int = 0,
        first_epoch: int = 0,
        **kwargs: Any,
    ) -> None:
        """Configure the search.

        Args:
            optimizer: moves all weights but the architecture's; default the papers' SGD 0.025,
                momentum 0.9, L2 3e-4, clipped at 5.
            alpha_optimizer: moves α and β; default Adam 3e-4, betas (0.5, 0.999), L2 1e-3.
            diversity: annealed entropy term; default λ = 1, τ = 7.7. `AnnealedEntropy(weight=0)`
                switches it off.
            loss: loss on logits; default sparse categorical cross-entropy. Labels are numbers of
                classes, or distributions over them as `CategoricalCrossentropy` takes them.
            cost: a further term of α's loss, a function of the distributions of normal and
                reduction edges, [edges, operations] each, and, where edges have weights, of these
                ([edges], [edges]); to save the model, registered and with `get_config`.
            alpha_gradient: how α's gradient is computed; default first order.
            alpha_start_epoch: the first epoch in which α moves; before it, that half of the step is
                not computed.
            first_epoch: `fit`'s number of the search's first epoch, when other training came
                before. t of the entropy term, the relaxation's epochs and `alpha_start_epoch` count
                from it.
            **kwargs: as for any Keras model; `metrics` are measured on the training half.

        Raises:
            BnasLarqError: a negative epoch.
        """
        if alpha_start_epoch < 0:
            raise BnasLarqError(
                f"α starts to move at epoch 0 or later. Received: {alpha_start_epoch}."
            )
        if first_epoch < 0:
            raise BnasLarqError(
                f"Epochs are numbered from 0 on. Received: first_epoch={first_epoch}. "
                "Give the number of epochs trained before."
            )
        super().compile(
            optimizer=optimizer or CoupledSGD(0.025, momentum=0.9, l2=3e-4, clip_norm=5.0),
            loss=loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            **kwargs,
        )
        if alpha_optimizer is None:
            alpha_optimizer = CoupledAdam(3e-4, beta_1=0.5, beta_2=0.999, epsilon=1e-8, l2=1e-3)
        self.alpha_optimizer = keras.optimizers.get(alpha_optimizer)
        self.diversity = diversity or AnnealedEntropy()
        self.cost = cost
        self.alpha_gradient = alpha_gradient or FirstOrder()
        self.alpha_start_epoch, self.first_epoch = alpha_start_epoch, first_epoch

    def fit(self, *args: Any, callbacks: Any = None, **kwargs: Any) -> keras.callbacks.History:
        """`keras.Model.fit` on batches of both halves, which keeps `epoch` up to date.
        BnasLarqError: other data, or class weights."""
        data = args[0] if args else kwargs.get("x")
        if kwargs.get("class_weight") is not None:
            raise BnasLarqError(
                "A search weighs no classes, as its two halves have different losses. "
                f"Received: class_weight={kwargs['class_weight']}. Weigh them in compile's loss."
            )
        check_halves(data, len(args) > 1 or kwargs.get("y") is not None)
        self._prepare(data)
        counter = EpochCounter()
        counter.set_model(self)
        if isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks.append(counter)
        else:
            callbacks = [counter, *tf.nest.flatten(callbacks or [])]
        with functions_read_once():
            return super().fit(*args, callbacks=callbacks, **kwargs)

    def _prepare(self, data: Any) -> None:
        """Make all variables before the step is traced: a step that makes some is traced twice."""
        if isinstance(data, tf.data.Dataset) and not self.built:
            (images, _), _ = data.element_spec
            self.build(images.shape)
        if self.built and self.optimizer is not None:
            self.build_optimizers()

    def build_optimizers(self) -> None:
        """Make the variables of both optimizers."""
        self.optimizer.build(self.network_variables)
        self.alpha_optimizer.build(self.architecture_variables)

    @property
    def _trackers(self) -> dict[str, keras.metrics.Metric]:
        return self._untracked.trackers

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [*super().metrics, *self._trackers.values()]

    # -- losses ------------------------------------------------------------------------------------

    def training_loss(
        self, inputs: tf.Tensor, labels: tf.Tensor, forward_pass: str = "weights"
    ) -> Losses:
        """L_train; its `objective` adds the losses of layers: regularisers of a user's operations,
        projection losses."""
        logits = self(inputs, training=True, forward_pass=forward_pass)
        task = self._task_loss(labels, logits)
        return Losses(task, tf.add_n([task, *self.losses]), logits)

    def alpha_loss(self, inputs: tf.Tensor, labels: tf.Tensor) -> Losses:
        """L_val, and as `objective` L_val − λ·H(p)·exp(−t/τ) + cost, of a batch."""
        logits = self(inputs, training=True, forward_pass="alpha")
        task = self._task_loss(labels, logits)
        return Losses(task, task + self._architecture_terms(), logits)

    def _architecture_terms(self) -> tf.Tensor:
        """Entropy (BNAS, arXiv 2002.06963, eq. 3) and cost in the loss of α."""
        terms = -self.diversity.coefficient(self.epoch) * self.entropy()
        return terms if self.cost is None else terms + self.cost(*self._cost_arguments())

    def _cost_arguments(self) -> list:
        weights = self.edge_weights()
        return [*self.distributions(), *([weights] if weights else [])]

    def _task_loss(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        # A loss given by name returns one value per example, a Loss object their mean.
        return mean_loss(keras.losses.get(self.loss), labels, logits)

    @contextlib.contextmanager
    def helper_passes(self) -> Iterator[None]:
        """See `alpha_gradients.BilevelProblem`: moving statistics are restored on exit."""
        moving = self.non_trainable_variables
        before = [tf.identity(variable) for variable in moving]
        try:
            with self.changing_kernels():
                yield
        finally:
            for variable, value in zip(moving, before, strict=True):
                variable.assign(value)

    # -- steps -------------------------------------------------------------------------------------

    @tf.autograph.experimental.do_not_convert
    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        train, validation = both_halves(data)
        with uncollected():
            if self.alpha_gradient.joint:
                self._move(train, joint=True)
            else:
                # Both halves of the step see the same kernels, which are quantised once.
                self._move(train, before=lambda: self.alpha_step(train, validation))
        self._trackers["entropy"].update_state(self.entropy())
        self._trackers["diversity_weight"].update_state(self.diversity.coefficient(self.epoch))
        for op, share in self.shares().items():
            self._trackers[f"share_{op}"].update_state(share)
        # `expected` is the cost in its own unit, where it has one.
        costs = {"cost": self.cost, "expected_cost": getattr(self.cost, "expected", None)}
        for name, cost in costs.items():
            if cost is not None:
                self._trackers[name].update_state(cost(*self._cost_arguments()))
        absent = {name for name, cost in costs.items() if cost is None}
        return self._results(name for name in self._trackers if name not in absent)

    @tf.autograph.experimental.do_not_convert
    def weight_step(self, inputs: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """Move all weights but the architecture's on one batch, and return the task's loss before
        it; updates `loss` and `accuracy`."""
        return self._move((inputs, labels))

    @tf.autograph.experimental.do_not_convert
    def alpha_step(self, train: Batch, validation: Batch) -> None:
        """Move α and β as `alpha_gradient` says, given (images, labels) of both halves; updates
        `alpha_loss` and `alpha_accuracy`. Before `alpha_start_epoch` nothing is computed."""
        self._when_alpha_moves(
            lambda: self._apply_alpha(self.alpha_gradient(self, train, validation), validation[1])
        )

    def _move(
        self, batch: Batch, before: Callable[[], None] | None = None, joint: bool = False
    ) -> tf.Tensor:
        """One step of the weights. `before` is called first, with the same kernels; `joint` also
        moves α, by its gradient from the same backward pass."""
        inputs, labels = batch
        variables = self.network_variables
        architecture = self.architecture_variables if joint else []
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([*variables, *architecture])
            with self.constant_kernels():
                if before is not None:
                    with tape.stop_recording():
                        before()
                losses = self.training_loss(inputs, labels)
            objective = losses.objective
            if joint:
                objective += self._architecture_terms()
        gradients = tape.gradient(objective, [*variables, *architecture])
        if joint:
            of_alpha = AlphaGradients(gradients[len(variables) :], losses)
            self._when_alpha_moves(lambda: self._apply_alpha(of_alpha, labels))
        of_weights = shares_of_mean(gradients[: len(variables)])
        self.optimizer.apply_gradients(zip(of_weights, variables, strict=True))
        self._trackers["loss"].update_state(losses.task)
        self._track_accuracy("accuracy", labels, losses.logits)
        self.compiled_metrics.update_state(labels, losses.logits)
        return losses.task

    def _apply_alpha(self, gradients: AlphaGradients, labels: tf.Tensor) -> None:
        values = shares_of_mean(gradients.values)
        pairs = zip(values, self.architecture_variables, strict=True)
        self.alpha_optimizer.apply_gradients(pairs)
        self._trackers["alpha_loss"].update_state(gradients.losses.task)
        self._track_accuracy("alpha_accuracy", labels, gradients.losses.logits)

    def _track_accuracy(self, name: str, labels: tf.Tensor, logits: tf.Tensor) -> None:
        # One-hot, by the rule of Keras' "accuracy".
        if labels.shape.rank == logits.shape.rank and labels.shape[-1] != 1:
            labels = tf.argmax(labels, axis=-1)
        self._trackers[name].update_state(labels, logits)

    def let_alpha_move(self, moves: bool) -> None:
        """Say whether α move in this epoch, for a step under a strategy; `fit` calls it."""
        if tf.distribute.has_strategy() and moves != self._untracked.alpha_moves:
            self._untracked.alpha_moves = moves
            self.train_function = None
            self.make_train_function()

    def _when_alpha_moves(self, step: Callable[[], None]) -> None:
        # Replicas cannot add gradients inside `tf.cond`: they trace a step for each case.
        within = tf.distribute.has_strategy()
        if self._untracked.alpha_moves if within else self.alpha_start_epoch == 0:
            step()
        if within or self.alpha_start_epoch == 0:
            return

        def moved() -> tf.Tensor:
            step()
            return tf.constant(True)

        tf.cond(self.epoch >= float(self.alpha_start_epoch), moved, lambda: tf.constant(False))

    def _results(self, trackers: Iterable[str]) -> dict[str, tf.Tensor]:
        """Results of these trackers and of the metrics given to `compile`."""
        named = {metric.name: metric for metric in self.compiled_metrics.metrics}
        named.update({name: self._trackers[name] for name in trackers})
        return {name: metric.result() for name, metric in named.items()}

    @tf.autograph.experimental.do_not_convert
    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        inputs, labels = data
        with self.constant_kernels():
            logits = self(inputs, training=False)
        loss, seen = self._task_loss(labels, logits), examples_seen(labels)
        self._trackers["loss"].update_state(loss, sample_weight=seen)
        self._track_accuracy("accuracy", labels, logits)
        self.compiled_metrics.update_state(labels, logits)
        return self._results(("loss", "accuracy"))

    # -- serialisation -----------------------------------------------------------------------------

    def get_compile_config(self) -> dict[str, Any] | None:
        """The arguments of `compile`, for `save`; None before it was called."""
        config = super().get_compile_config()
        if config is None:
            return None
        for name in ("alpha_optimizer", "diversity", "cost", "alpha_gradient"):
            config[name] = keras.utils.serialize_keras_object(getattr(self, name))
        epochs = {"alpha_start_epoch": self.alpha_start_epoch, "first_epoch": self.first_epoch}
        return {**config, **epochs}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile as the saved model was, with room for the state of both optimizers."""
        self.compile(
            **{key: keras.utils.deserialize_keras_object(value) for key, value in config.items()}
        )
        if self.built:
            self.build_optimizers()
