"""The architecture variables of a supernet: what is drawn from them, what they mean, pruning."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import types
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bnas_larq.backend import keras, tf
from bnas_larq.discretize import ArgmaxDiscretizer
from bnas_larq.errors import BnasLarqError, WeightsError
from bnas_larq.genotype import Genotype
from bnas_larq.spaces import SearchSpace, edges_of_cell
from bnas_larq.supernet.diversity import edge_entropy
from bnas_larq.supernet.relaxations import Draw, Mixture, Relaxation, SampledPath

#: α of pruned candidates: a softmax of it is 0, and its gradient too.
PRUNED = -1e9

KINDS = ("normal", "reduce")
#: Forward passes of one step that draw on their own.
_PASSES = ("weights", "alpha", "virtual")


class ArchitectureModel(keras.Model):
    """A model with architecture variables: α, and β of edges.

    Args:
        space: candidates on the edges.
        relaxation: what is made of α.
        seed: of the relaxation's draws, from 0.

    Attributes:
        alphas_normal, alphas_reduce: α [edges, operations].
        betas_normal, betas_reduce: β [edges], where edges have weights.

    Raises:
        BnasLarqError: a negative seed.
    """

    def __init__(
        self, space: SearchSpace, relaxation: Relaxation, seed: int, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if seed < 0:
            raise BnasLarqError(f"A seed is a whole number from 0 on. Received: {seed}.")
        self.space = space
        self.relaxation = relaxation
        self.seed = seed
        # In a plain object, where Keras tracks nothing.
        self._untracked = types.SimpleNamespace(passing="weights")

    def add_architecture(self, edge_normalization: bool) -> None:
        """Make α, β if edges shall have weights, and the epoch, which draws may depend on."""
        rows = len(self.space.edges)

        def small(name: str, *shape: int) -> tf.Variable:
            # As DARTS' program: 1e-3·N(0, 1).
            initializer = keras.initializers.RandomNormal(stddev=1e-3)
            return self.add_weight(name=name, shape=shape, initializer=initializer)

        self.alphas_normal = small("alphas_normal", rows, len(self.space.normal))
        self.alphas_reduce = small("alphas_reduce", rows, len(self.space.reduce))
        self._has_betas = edge_normalization
        if edge_normalization:
            self.betas_normal = small("betas_normal", rows)
            self.betas_reduce = small("betas_reduce", rows)
        self._edge_normalization = EdgeNormalization(self.space.nodes)
        self.epoch = self.add_weight(name="epoch", shape=(), trainable=False, initializer="zeros")
        self._untracked.alive = self._all_alive()

    @property
    def operations(self) -> tuple[str, ...]:
        """All candidates, those of normal edges first."""
        return tuple(dict.fromkeys(self.space.normal + self.space.reduce))

    @property
    def alphas(self) -> list[tf.Variable]:
        """α [edges, operations] of normal and reduction cells, before the relaxation."""
        return [self.alphas_normal, self.alphas_reduce]

    @property
    def betas(self) -> list[tf.Variable]:
        """β [edges] of normal and reduction cells, before the softmax; none if edges have no
        weights."""
        return [self.betas_normal, self.betas_reduce] if self._has_betas else []

    @property
    def architecture_variables(self) -> list[tf.Variable]:
        """α, and β of edges where they are learnt."""
        return [*self.alphas, *self.betas]

    @property
    def network_variables(self) -> list[tf.Variable]:
        """All trainable variables but those of the architecture."""
        others = {id(variable) for variable in self.architecture_variables}
        return [variable for variable in self.trainable_variables if id(variable) not in others]

    def mixtures(self, training: bool) -> list[Mixture | SampledPath]:
        """What normal and reduction cells evaluate in this pass."""
        optimizer = getattr(self, "optimizer", None)
        step = 0 if optimizer is None else tf.cast(optimizer.iterations, tf.int32)
        epoch, passing = tf.convert_to_tensor(self.epoch), self._untracked.passing
        edge_weights = self.edge_weights()
        found = []
        for number, (kind, alphas) in enumerate(zip(KINDS, self.live_alphas(), strict=True)):
            place = [self.seed, number, _PASSES.index(passing)]
            key = np.random.SeedSequence(place).generate_state(1).astype(np.int32)[0]
            draw = Draw(kind, epoch, tf.stack([key, step]), training)
            mixture = self.relaxation.mixture(alphas, draw)
            if edge_weights is not None:
                mixture = dataclasses.replace(mixture, edge_weights=edge_weights[number])
            found.append(mixture)
        return found

    @contextlib.contextmanager
    def passing(self, name: str) -> Iterator[None]:
        """Names the forward passes inside, so that each has draws of its own."""
        before, self._untracked.passing = self._untracked.passing, name
        try:
            yield
        finally:
            self._untracked.passing = before

    def _all_alive(self) -> list[np.ndarray]:
        return [np.ones(tuple(alpha.shape), bool) for alpha in self.alphas]

    @property
    def alive(self) -> list[np.ndarray]:
        """Booleans [edges, operations] of normal and reduction cells: candidates not pruned."""
        return [kept.copy() for kept in self._untracked.alive]

    def live_alphas(self) -> list[tf.Tensor]:
        """α of normal and reduction cells, with pruned candidates so far down that no relaxation
        gives them a share, [edges, operations] each."""
        return [
            alpha if kept.all() else tf.where(kept, alpha, PRUNED)
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

    def distributions(self) -> list[tf.Tensor]:
        """Each edge's distribution over its candidates, [edges, operations], of normal and
        reduction cells."""
        return [self.relaxation(alphas) for alphas in self.live_alphas()]

    def edge_weights(self) -> tuple[tf.Tensor, tf.Tensor] | None:
        """softmax(β) over the edges of each node, [edges], of both kinds; None without β."""
        return tuple(self._edge_normalization(betas) for betas in self.betas) or None

    def entropy(self) -> tf.Tensor:
        """Mean entropy in nats over all edges of both cells."""
        return mean_entropy(self.distributions())

    def shares(self) -> dict[str, tf.Tensor]:
        """Mean share of each operation over all edges of both cells that offer it."""
        return mean_shares(self.distributions(), (self.space.normal, self.space.reduce))

    def genotype(
        self,
        gamma: float = 1.0,
        name: str | None = None,
        provenance: dict | None = None,
        zeroise_competes: bool = True,
    ) -> Genotype:
        """The genotype of the present α and β, see `bnas_larq.discretize.ArgmaxDiscretizer`."""
        normal, reduce = (tf.convert_to_tensor(alpha).numpy() for alpha in self.live_alphas())
        discretizer = ArgmaxDiscretizer(gamma, zeroise_competes=zeroise_competes)
        betas = tuple(beta.numpy() for beta in self.betas) or None
        return discretizer(normal, reduce, self.space, name, provenance, betas=betas)


class EdgeNormalization:
    """β of the edges of a cell as weights: softmax over the edges that enter the same node.

    With partial channels α alone fluctuate, because other channels are mixed at each step; β are
    shared by all of them. Source: PC-DARTS, arXiv 1907.05737, eq. 3.

    Args:
        nodes: of the cell.

    Call arguments:
        betas: β [edges], rows in the order of `bnas_larq.spaces.edges_of_cell`.

    Output: [edges]; those of one node sum to 1.
    """

    def __init__(self, nodes: int) -> None:
        # The edges are ordered node by node.
        owners = itertools.groupby(edges_of_cell(nodes), key=lambda edge: edge[0])
        self._sizes = [len(list(edges)) for _, edges in owners]

    def __call__(self, betas: tf.Tensor) -> tf.Tensor:
        return tf.concat([tf.nn.softmax(part) for part in tf.split(betas, self._sizes)], axis=0)


def search_trackers(operations: Sequence[str]) -> dict[str, keras.metrics.Metric]:
    """Metrics of a supernet's steps, by name."""
    names = ("loss", "alpha_loss", "entropy", "diversity_weight", "cost", "expected_cost")
    trackers = {
        name: keras.metrics.Mean(name=name)
        for name in (*names, *(f"share_{operation}" for operation in operations))
    }
    for name in ("accuracy", "alpha_accuracy"):
        trackers[name] = keras.metrics.SparseCategoricalAccuracy(name=name)
    return trackers


def mean_entropy(distributions: Sequence[tf.Tensor]) -> tf.Tensor:
    """Mean entropy in nats over all edges of [edges, operations] each."""
    entropies = [edge_entropy(probabilities) for probabilities in distributions]
    return tf.reduce_mean(tf.concat(entropies, axis=0))


def mean_shares(
    distributions: Sequence[tf.Tensor], operations: Sequence[Sequence[str]]
) -> dict[str, tf.Tensor]:
    """Mean share of each operation over all edges that offer it.

    Args:
        distributions: [edges, operations] of each kind of cell.
        operations: names of the columns of each.
    """
    result = {}
    for name in dict.fromkeys(name for names in operations for name in names):
        columns = [
            probabilities[:, names.index(name)]
            for probabilities, names in zip(distributions, operations, strict=True)
            if name in names
        ]
        result[name] = tf.reduce_mean(tf.concat(columns, axis=0))
    return result
