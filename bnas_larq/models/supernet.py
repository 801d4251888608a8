"""The supernet: a Keras model that holds every candidate network, and its bilevel step."""

from __future__ import annotations

import json
import types
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from bnas_larq.backend import keras, register, tf
from bnas_larq.discretize import ArgmaxDiscretizer
from bnas_larq.errors import BnasLarqError, WeightsError
from bnas_larq.genotype import Genotype
from bnas_larq.layers import template
from bnas_larq.layers.binary_mixture import BinaryConvolution, BinaryMixer
from bnas_larq.layers.channel_sampling import PartialChannels
from bnas_larq.layers.convolutions import check_padding
from bnas_larq.layers.mixed import MixedCell, check_alive
from bnas_larq.layers.operations import Context, build_chain, chain
from bnas_larq.layers.quantizers import get_scheme
from bnas_larq.layers.relaxations import Relaxation, Softmax
from bnas_larq.models.diversity import AnnealedEntropy, edge_entropy
from bnas_larq.models.optimizers import CoupledAdam, CoupledSGD
from bnas_larq.spaces import SearchSpace

#: α of pruned candidates: a softmax of it is 0, and its gradient too.
_PRUNED = -1e9


class _EpochCounter(keras.callbacks.Callback):
    """Keeps the supernet's `epoch` equal to Keras', also in resumed runs (`initial_epoch`)."""

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.model.epoch.assign(float(epoch))


@register
class SuperNet(keras.Model):
    """Supernet of a cell search with a first-order bilevel `train_step`.

    Args:
        space: candidates on the edges and the cell template.
        num_classes: outputs of the classifier (logits).
        cells: number of cells; cells//3 and 2·cells//3 are reduction cells.
        channels: channels of the first cell's nodes.
        stem: `"cifar"` or `"imagenet"`.
        padding: `"same"`, or `"symmetric"` for weights of the authors' program.
        scheme: binarisation scheme of the candidate convolutions.
        relaxation: what is made of α; default the softmax of DARTS.
        full_precision: patterns of names of candidate convolutions whose kernel stays full
            precision.
        channel_sampling: which channels pass through the candidates; None for all of them.
        mixed_precision: `"float32"`, or `"bfloat16"` for the candidates' convolutions and their
            sums; statistics, everything else of a cell, loss and optimizers stay float32.
        alive: booleans [edges, operations] of normal and reduction cells, see `prune`; None for all
            candidates.
        input_shape: (height, width, channels); when given, the weights exist after construction.

    Input shape: [batch, height, width, 3], normalised float32. Output shape: [batch, num_classes],
    logits.

    `fit` takes a dataset of `((x_train, y_train), (x_val, y_val))`; each step first moves α on the
    validation half, then all other weights on the training half (first-order DARTS, arXiv
    1806.09055, with the search loss of BNAS, arXiv 2002.06963, eq. 3). `evaluate` and `predict`
    take plain `(x, y)` batches.

    Raises:
        BnasLarqError: impossible sizes, unknown stem, padding or scheme.
    """

    def __init__(
        self,
        space: SearchSpace,
        num_classes: int,
        cells: int = 8,
        channels: int = 16,
        *,
        stem: str = "cifar",
        padding: str = "same",
        scheme: str = "sign-scale",
        relaxation: Relaxation | None = None,
        full_precision: Sequence[str] = (),
        channel_sampling: PartialChannels | None = None,
        mixed_precision: str = "float32",
        alive: tuple[np.ndarray, np.ndarray] | None = None,
        input_shape: tuple[int, int, int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_padding(padding)
        get_scheme(scheme)
        if num_classes < 2:
            raise BnasLarqError(
                f"A classifier needs at least two classes. Received: num_classes={num_classes}."
            )
        self.space = space
        self.relaxation = relaxation or Softmax()
        # As text: Keras wraps the lists of a dictionary, which JSON then does not know.
        self._config = json.dumps(
            {
                "space": space.to_dict(),
                "num_classes": num_classes,
                "cells": cells,
                "channels": channels,
                "stem": stem,
                "padding": padding,
                "scheme": scheme,
                "full_precision": list(full_precision),
                "channel_sampling": channel_sampling and channel_sampling.proportion,
                "mixed_precision": mixed_precision,
                "input_shape": None if input_shape is None else list(input_shape),
            }
        )
        context = Context(
            "",
            channels,
            padding=padding,
            supernet=True,
            scheme=scheme,
            full_precision=tuple(full_precision),
        )
        if stem == "imagenet":
            self.stem, self.second_stem = template.imagenet_stem(channels, context)
        else:
            self.stem, self.second_stem = template.cifar_stem(channels, context), []
        if mixed_precision not in ("float32", "bfloat16"):
            raise BnasLarqError(
                "A supernet computes in 'float32' or 'bfloat16' (`choose_precision` of "
                f"bnas_larq.precision resolves 'auto'). Received: {mixed_precision!r}."
            )
        self._mixer = mixer = BinaryMixer(mixed_precision)
        self.cells = [
            MixedCell(space, plan, stem, context, mixer, channel_sampling)
            for plan in template.plan_cells(cells, channels, stem)
        ]
        self.classifier = template.classifier(num_classes)

        rows = len(space.edges)
        self.alphas_normal, self.alphas_reduce = (
            self.add_weight(
                name=f"alphas_{kind}",
                shape=(rows, len(operations)),
                initializer=keras.initializers.RandomNormal(stddev=1e-3),
            )
            for kind, operations in (("normal", space.normal), ("reduce", space.reduce))
        )
        self.epoch = self.add_weight(name="epoch", shape=(), trainable=False, initializer="zeros")
        trackers = {
            name: keras.metrics.Mean(name=name)
            for name in ("loss", "alpha_loss", "entropy", "diversity_weight")
            + tuple(f"share_{op}" for op in self.operations)
        }
        trackers["accuracy"] = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
        trackers["alpha_accuracy"] = keras.metrics.SparseCategoricalAccuracy(name="alpha_accuracy")
        # In a plain object: Keras would count the variables of metrics among the model's weights.
        self._untracked = types.SimpleNamespace(trackers=trackers, alive=self._all_alive())
        if alive is not None:
            self.prune(*alive)
        if input_shape is not None:
            self.build((None, *input_shape))

    # -- the network -------------------------------------------------------------------------------

    def build(self, input_shape) -> None:
        """Make all weights, layer by layer: Keras would trace the whole network for it."""
        older = build_chain(self.stem, input_shape)
        newer = build_chain(self.second_stem, older)
        for cell in self.cells:
            with keras.backend.name_scope(cell.name):
                cell.build((older, newer))
            older, newer = newer, cell.compute_output_shape((older, newer))
        build_chain(self.classifier, newer)
        self._build_input_shape = input_shape
        self.built = True

    # Nothing in here needs conversion by AutoGraph, which takes most of the time to trace a step.
    @tf.autograph.experimental.do_not_convert
    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        normal, reduce = (self.relaxation.mixture(alpha) for alpha in self._live_alphas())
        mixtures = {False: normal, True: reduce}
        older = chain(self.stem, inputs, training)
        newer = chain(self.second_stem, older, training)
        for cell in self.cells:
            older, newer = newer, cell(
                (older, newer), mixtures[cell.plan.reduction], training=training
            )
        return chain(self.classifier, newer, training)

    # -- α and genotype ----------------------------------------------------------------------------

    @property
    def operations(self) -> tuple[str, ...]:
        """All candidates, those of normal edges first."""
        return tuple(dict.fromkeys(self.space.normal + self.space.reduce))

    @property
    def alphas(self) -> list[tf.Variable]:
        """α [edges, operations] of normal and reduction cells, before the relaxation."""
        return [self.alphas_normal, self.alphas_reduce]

    @property
    def network_variables(self) -> list[tf.Variable]:
        """All trainable variables but α."""
        ours = {id(alpha) for alpha in self.alphas}
        return [variable for variable in self.trainable_variables if id(variable) not in ours]

    def _all_alive(self) -> list[np.ndarray]:
        return [np.ones(tuple(alpha.shape), bool) for alpha in self.alphas]

    @property
    def alive(self) -> list[np.ndarray]:
        """Booleans [edges, operations] of normal and reduction cells: candidates not pruned."""
        return [kept.copy() for kept in self._untracked.alive]

    def prune(self, normal: np.ndarray, reduce: np.ndarray) -> None:
        """Compute only some candidates from now on, and let only them compete.

        Their weights stay, so that a checkpoint fits before and after. The next step is traced
        anew.

        Args:
            normal, reduce: booleans [edges, operations], what stays alive.

        Raises:
            BnasLarqError: another shape, or an edge without any candidate.
        """
        kept = [np.array(values, bool) for values in (normal, reduce)]
        # First all checks, so that a refusal changes nothing.
        for alpha, values in zip(self.alphas, kept, strict=True):
            check_alive(values, tuple(alpha.shape))
        for cell in self.cells:
            cell.keep_alive(kept[cell.plan.reduction])
        self._untracked.alive = kept
        self.train_function = self.test_function = self.predict_function = None

    def _live_alphas(self) -> list[tf.Tensor]:
        """α with pruned candidates so far down that no relaxation gives them a share."""
        return [
            alpha if kept.all() else tf.where(kept, alpha, _PRUNED)
            for alpha, kept in zip(self.alphas, self._untracked.alive, strict=True)
        ]

    def set_alphas(self, normal: np.ndarray, reduce: np.ndarray) -> None:
        """Assign both architecture weights; WeightsError when a shape differs."""
        for variable, value in zip(self.alphas, (normal, reduce), strict=True):
            if tuple(np.shape(value)) != tuple(variable.shape):
                raise WeightsError(
                    "Architecture weights must have the shape "
                    f"{tuple(variable.shape)} of this search space. "
                    f"Received: {tuple(np.shape(value))}."
                )
        for variable, value in zip(self.alphas, (normal, reduce), strict=True):
            variable.assign(value)

    def genotype(
        self, gamma: float = 1.0, name: str | None = None, provenance: dict | None = None
    ) -> Genotype:
        """The genotype of the present α, see `bnas_larq.discretize.ArgmaxDiscretizer`."""
        normal, reduce = (tf.convert_to_tensor(alpha).numpy() for alpha in self._live_alphas())
        return ArgmaxDiscretizer(gamma)(normal, reduce, self.space, name, provenance)

    # -- Keras training ----------------------------------------------------------------------------

    def compile(
        self,
        optimizer: Any = None,
        alpha_optimizer: Any = None,
        diversity: AnnealedEntropy | None = None,
        loss: Any = None,
        **kwargs: Any,
    ) -> None:
        """Configure the search.

        Args:
            optimizer: moves all weights but α; default the papers' SGD 0.025, momentum 0.9, L2
                3e-4, clipped at 5.
            alpha_optimizer: moves α; default Adam 3e-4, betas (0.5, 0.999), L2 1e-3.
            diversity: annealed entropy term; default λ = 1, τ = 7.7. `AnnealedEntropy(weight=0)`
                switches it off.
            loss: loss on logits; default sparse categorical cross-entropy.
            **kwargs: as for any Keras model; `metrics` are measured on the training half.
        """
        super().compile(
            optimizer=optimizer or CoupledSGD(0.025, momentum=0.9, l2=3e-4, clip_norm=5.0),
            loss=loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            **kwargs,
        )
        if alpha_optimizer is None:
            alpha_optimizer = CoupledAdam(3e-4, beta_1=0.5, beta_2=0.999, epsilon=1e-8, l2=1e-3)
        self.alpha_optimizer = keras.optimizers.get(alpha_optimizer)
        self.diversity = diversity or AnnealedEntropy()

    def fit(self, *args: Any, callbacks: Any = None, **kwargs: Any) -> keras.callbacks.History:
        """`keras.Model.fit` on bilevel batches; t of the entropy term follows the epochs."""
        if args or kwargs.get("x") is not None:
            self._prepare(args[0] if args else kwargs["x"])
        counter = _EpochCounter()
        counter.set_model(self)
        if isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks.append(counter)
        else:
            callbacks = [counter, *tf.nest.flatten(callbacks or [])]
        return super().fit(*args, callbacks=callbacks, **kwargs)

    def _prepare(self, data: Any) -> None:
        """Check the bilevel structure; make all variables before the step is traced.

        A step that made variables would be traced twice.
        """
        if isinstance(data, tf.data.Dataset):
            try:
                (images, _), (_, _) = data.element_spec
                shape = images.shape
            except (TypeError, ValueError, AttributeError) as error:
                raise BnasLarqError(
                    "A search needs batches of both halves: ((images, labels), (images, labels)), "
                    "of which the second moves α. "
                    f"Received: {data.element_spec}. Zip two data sets (tf.data.Dataset.zip)."
                ) from error
            if not self.built:
                self.build(shape)
        if self.built and self.optimizer is not None:
            self.optimizer.build(self.network_variables)
            self.alpha_optimizer.build(self.alphas)

    @property
    def _trackers(self) -> dict[str, keras.metrics.Metric]:
        return self._untracked.trackers

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [*super().metrics, *self._trackers.values()]

    def entropy(self) -> tf.Tensor:
        """Mean entropy in nats over all edges of both cells."""
        return tf.reduce_mean(
            tf.concat(
                [edge_entropy(self.relaxation(alpha)) for alpha in self._live_alphas()], axis=0
            )
        )

    def shares(self) -> dict[str, tf.Tensor]:
        """Mean mixture weight of each operation over all edges of both cells."""
        normal, reduce = (self.relaxation(alpha) for alpha in self._live_alphas())
        result = {}
        for op in self.operations:
            columns = [
                probabilities[:, names.index(op)]
                for probabilities, names in (
                    (normal, self.space.normal),
                    (reduce, self.space.reduce),
                )
                if op in names
            ]
            result[op] = tf.reduce_mean(tf.concat(columns, axis=0))
        return result

    def alpha_loss(
        self, inputs: tf.Tensor, labels: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """(L_val, L_val − λ·H(p)·exp(−t/τ), logits) on a batch of the validation half."""
        logits = self(inputs, training=True)
        task = self._task_loss(labels, logits)
        return task, task - self.diversity.coefficient(self.epoch) * self.entropy(), logits

    def _task_loss(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        # A loss given by name is a function of one value per example, a Loss object a mean.
        return tf.reduce_mean(keras.losses.get(self.loss)(labels, logits))

    @tf.autograph.experimental.do_not_convert
    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        (x_train, y_train), (x_val, y_val) = data

        variables = self.network_variables
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            # Both halves of the step see the same kernels, which are quantised once.
            with self._mixer.shared_kernels(self._binary_convolutions()):
                with tape.stop_recording():
                    self._alpha_step(x_val, y_val)
                logits = self(x_train, training=True)
            loss = self._task_loss(y_train, logits)
            # Losses of layers: regularisers of a user's operations, projection losses.
            objective = tf.add_n([loss, *self.losses])
        self.optimizer.apply_gradients(
            zip(tape.gradient(objective, variables), variables, strict=True)
        )
        self._trackers["loss"].update_state(loss)
        self._trackers["accuracy"].update_state(y_train, logits)
        self.compiled_metrics.update_state(y_train, logits)

        self._trackers["entropy"].update_state(self.entropy())
        self._trackers["diversity_weight"].update_state(self.diversity.coefficient(self.epoch))
        for op, share in self.shares().items():
            self._trackers[f"share_{op}"].update_state(share)
        return self._results(self._trackers)

    def _alpha_step(self, inputs: tf.Tensor, labels: tf.Tensor) -> None:
        """Move α on a batch of the validation half."""
        # Only α is watched, so no kernel gradients are computed in this half of the step.
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(self.alphas)
            task, objective, logits = self.alpha_loss(inputs, labels)
        self.alpha_optimizer.apply_gradients(
            zip(tape.gradient(objective, self.alphas), self.alphas, strict=True)
        )
        self._trackers["alpha_loss"].update_state(task)
        self._trackers["alpha_accuracy"].update_state(labels, logits)

    def _binary_convolutions(self) -> list[BinaryConvolution]:
        return [
            convolution
            for cell in self.cells
            for mixed in cell.mixed_states
            for convolution in mixed.convolutions()
        ]

    def _results(self, trackers: Iterable[str]) -> dict[str, tf.Tensor]:
        """Results of our own trackers and of the metrics given to `compile`."""
        named = {metric.name: metric for metric in self.compiled_metrics.metrics}
        named.update({name: self._trackers[name] for name in trackers})
        return {name: metric.result() for name, metric in named.items()}

    @tf.autograph.experimental.do_not_convert
    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        inputs, labels = data
        logits = self(inputs, training=False)
        self._trackers["loss"].update_state(self._task_loss(labels, logits))
        self._trackers["accuracy"].update_state(labels, logits)
        self.compiled_metrics.update_state(labels, logits)
        return self._results(("loss", "accuracy"))

    # -- serialisation -----------------------------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        relaxation = keras.utils.serialize_keras_object(self.relaxation)
        alive = [kept.tolist() for kept in self._untracked.alive]
        return {
            **json.loads(self._config),
            "relaxation": relaxation,
            "alive": alive,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict | None = None) -> SuperNet:
        config = dict(config)
        config["space"] = SearchSpace.from_dict(config["space"])
        config["relaxation"] = keras.utils.deserialize_keras_object(
            config["relaxation"], custom_objects
        )
        if config["channel_sampling"] is not None:
            config["channel_sampling"] = PartialChannels(config["channel_sampling"])
        return cls(**config)

    def get_compile_config(self) -> dict[str, Any] | None:
        """What `compile` was called with, for `save`; None before it was."""
        config = super().get_compile_config()
        if config is None:
            return None
        for name in ("alpha_optimizer", "diversity"):
            config[name] = keras.utils.serialize_keras_object(getattr(self, name))
        return config

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile as the saved model was, with room for the state of both optimizers."""
        self.compile(
            **{key: keras.utils.deserialize_keras_object(value) for key, value in config.items()}
        )
        if self.built:
            self.optimizer.build(self.network_variables)
            self.alpha_optimizer.build(self.alphas)
