"""The architecture variables of a supernet, α and β: their distributions and entropy, what is drawn
from them, pruning, and the genotype they stand for."""

from __future__ import annotations

import dataclasses
import itertools
import types
from collections.abc import Sequence
from typing import Any

import numpy as np

from bnas_larq.backend import keras, register, tf
from bnas_larq.discretize import ArgmaxDiscretizer
from bnas_larq.errors import BnasLarqError, WeightsError
from bnas_larq.genotype import Genotype
from bnas_larq.spaces import KINDS, SearchSpace, edges_of_cell
from bnas_larq.supernet.relaxations import Choice, Draw, Relaxation

#: α of pruned candidates: a softmax of it is 0, and its gradient too.
PRUNED = -1e9

#: Forward passes of a step, each with draws of its own: of the weights' half, of α's half, and of
#: the virtual steps of a second-order gradient.
PASSES = ("weights", "alpha", "virtual")


class ArchitectureModel(keras.Model):
    """A model with architecture variables: `alphas_normal` and `alphas_reduce`, α [edges,
    operations], and, where edges have weights, `betas_normal` and `betas_reduce`, β [edges].

    `relaxation` makes choices of α; its draws depend on `seed`, from 0, else BnasLarqError.
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
        # A plain object, in which Keras tracks nothing.
        self._untracked = types.SimpleNamespace()

    def add_architecture(self, edge_normalization: bool) -> None:
        """Make α, β if edges have weights, and the epoch, which draws may depend on."""
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
        self._untracked.alive = [np.ones(tuple(alpha.shape), bool) for alpha in self.alphas]

    # -- variables ---------------------------------------------------------------------------------

    @property
    def alphas(self) -> list[tf.Variable]:
        """α [edges, operations] of normal and reduction cells, before the relaxation."""
        return [self.alphas_normal, self.alphas_reduce]

    @property
    def betas(self) -> list[tf.Variable]:
        """β [edges] of normal and reduction cells, before the softmax; empty without β."""
        return [self.betas_normal, self.betas_reduce] if self._has_betas else []

    @property
    def architecture_variables(self) -> list[tf.Variable]:
        """α, and β of edges where they are learnt."""
        return [*self.alphas, *self.betas]

    @property
    def network_variables(self) -> list[tf.Variable]:
        """All trainable variables but those of the architecture."""
        architecture = {id(variable) for variable in self.architecture_variables}
        return [v for v in self.trainable_variables if id(v) not in architecture]

    def set_alphas(self, normal: np.ndarray, reduce: np.ndarray) -> None:
        """Assign α of both kinds of cells; WeightsError when a shape differs."""
        for variable, value in zip(self.alphas, (normal, reduce), strict=True):
            if np.shape(value) != (shape := tuple(variable.shape)):
                raise WeightsError(
                    f"Architecture weights must have the shape {shape} of this search space. "
                    f"Received: {np.shape(value)}."
                )
        for variable, value in zip(self.alphas, (normal, reduce), strict=True):
            variable.assign(value)

    @property
    def alive(self) -> list[np.ndarray]:
        """Booleans [edges, operations] of normal and reduction cells: candidates not pruned."""
        return [kept.copy() for kept in self._untracked.alive]

    def live_alphas(self) -> list[tf.Tensor]:
        """α [edges, operations]; of pruned candidates so low that their share is 0."""
        return [
            alpha if kept.all() else tf.where(kept, alpha, PRUNED)
            for alpha, kept in zip(self.alphas, self._untracked.alive, strict=True)
        ]

    # -- what is made of them ----------------------------------------------------------------------

    def choices(self, training: bool, forward_pass: str = "weights") -> list[Choice]:
        """What normal and reduction cells evaluate in one forward pass, one of `PASSES`. Passes of
        one step with the same name see the same draws."""
        optimizer = getattr(self, "optimizer", None)
        step = 0 if optimizer is None else tf.cast(optimizer.iterations, tf.int32)
        epoch = tf.convert_to_tensor(self.epoch)
        edge_weights = self.edge_weights()
        choices = []
        for number, (kind, alphas) in enumerate(zip(KINDS, self.live_alphas(), strict=True)):
            entropy = [self.seed, number, PASSES.index(forward_pass)]
            key = np.random.SeedSequence(entropy).generate_state(1).astype(np.int32)[0]
            draw = Draw(kind, epoch, tf.stack([key, step]), training)
            choice = self.relaxation.choose(alphas, draw)
            if edge_weights is not None:
                choice = dataclasses.replace(choice, edge_weights=edge_weights[number])
            choices.append(choice)
        return choices

    def distributions(self) -> list[tf.Tensor]:
        """Each edge's distribution over its candidates, [edges, operations]."""
        live = zip(self.live_alphas(), KINDS, strict=True)
        return [self.relaxation(alphas, kind) for alphas, kind in live]

    def logits(self) -> list[tf.Tensor]:
        """What the distributions are softmaxes of, [edges, operations]: `live_alphas`, by their
        temperature if the relaxation has one."""
        live = zip(self.live_alphas(), KINDS, strict=True)
        return [tf.convert_to_tensor(self.relaxation.logits(*pair)) for pair in live]

    def edge_weights(self) -> tuple[tf.Tensor, tf.Tensor] | None:
        """softmax(β) over the edges of each node, [edges], of both kinds; None without β."""
        return tuple(self._edge_normalization(betas) for betas in self.betas) or None

    def entropy(self) -> tf.Tensor:
        """Mean entropy in nats over all edges of both cells."""
        entropies = [edge_entropy(probabilities) for probabilities in self.distributions()]
        return tf.reduce_mean(tf.concat(entropies, axis=0))

    @property
    def operations(self) -> tuple[str, ...]:
        """All candidates, those of normal edges first."""
        return tuple(dict.fromkeys(self.space.normal + self.space.reduce))

    def shares(self) -> dict[str, tf.Tensor]:
        """Mean share of each operation over all edges of both cells that offer it."""
        offers = list(zip(self.distributions(), self.space.candidates, strict=True))
        shares = {}
        for name in self.operations:
            columns = [shares_of[:, ops.index(name)] for shares_of, ops in offers if name in ops]
            shares[name] = tf.reduce_mean(tf.concat(columns, axis=0))
        return shares

    def genotype(
        self,
        gamma: float = 1.0,
        name: str | None = None,
        provenance: dict | None = None,
        zeroise_competes: bool = True,
    ) -> Genotype:
        """The genotype of the present α and β, see `bnas_larq.discretize.ArgmaxDiscretizer`."""
        normal, reduce = (logits.numpy() for logits in self.logits())
        discretizer = ArgmaxDiscretizer(gamma, zeroise_competes=zeroise_competes)
        betas = tuple(beta.numpy() for beta in self.betas) or None
        return discretizer(normal, reduce, self.space, name, provenance, betas=betas)


class EdgeNormalization:
    """β of the edges of a cell as weights: softmax over the edges that enter the same node.

    With partial channels α are learnt from few channels and fluctuate; β steady the choice of
    edges. Source: PC-DARTS, arXiv 1907.05737, eq. 3. Input and output: [edges], in the order of
    `bnas_larq.spaces.edges_of_cell`; weights of one node sum to 1.
    """

    def __init__(self, nodes: int) -> None:
        # The edges are ordered node by node.
        by_node = itertools.groupby(edges_of_cell(nodes), key=lambda edge: edge[0])
        self._sizes = [len(list(edges)) for _, edges in by_node]

    def __call__(self, betas: tf.Tensor) -> tf.Tensor:
        return tf.concat([tf.nn.softmax(part) for part in tf.split(betas, self._sizes)], axis=0)


def edge_entropy(probabilities: tf.Tensor) -> tf.Tensor:
    """Entropy in nats of each edge's distribution, [edges, operations] → [edges]; 0·log 0 is 0."""
    return -tf.reduce_sum(tf.math.xlogy(probabilities, probabilities), axis=-1)


@register
class AnnealedEntropy:
    """λ·exp(−t/τ), the weight of the entropy H(p) in L_search = L_val − λ·H(p)·exp(−t/τ).

    The term keeps undertrained convolutions from losing to pooling early in a search. Source: BNAS,
    arXiv 2002.06963, eq. 3; t is the epoch, H the mean entropy over all edges.

    Args:
        weight: λ; 0 switches the term off.
        tau: τ in epochs.

    Raises:
        BnasLarqError: a negative weight, or τ that is not positive.

    Example:
        >>> term = AnnealedEntropy(weight=1.0, tau=7.7)
        >>> [round(float(term.coefficient(epoch)), 3) for epoch in (0, 7.7, 50)]
        [1.0, 0.368, 0.002]
    """

    def __init__(self, weight: float = 1.0, tau: float = 7.7) -> None:
        if weight < 0 or tau <= 0:
            raise BnasLarqError(
                f"The entropy term needs λ >= 0 and τ > 0. Received: weight={weight}, tau={tau}. "
                "Use weight=0 to switch it off."
            )
        self.weight, self.tau = weight, tau

    def coefficient(self, epoch: tf.Tensor | float) -> tf.Tensor:
        """λ·exp(−t/τ) at epoch t."""
        return self.weight * tf.exp(-tf.cast(epoch, tf.float32) / self.tau)

    def get_config(self) -> dict:
        return {"weight": self.weight, "tau": self.tau}

    @classmethod
    def from_config(cls, config: dict) -> AnnealedEntropy:
        return cls(**config)


def search_trackers(operations: Sequence[str]) -> dict[str, keras.metrics.Metric]:
    """Metrics of a supernet's steps, by name."""
    names = ["loss", "alpha_loss", "entropy", "diversity_weight", "cost", "expected_cost"]
    names += [f"share_{operation}" for operation in operations]
    trackers = {name: keras.metrics.Mean(name=name) for name in names}
    for name in ("accuracy", "alpha_accuracy"):
        trackers[name] = keras.metrics.SparseCategoricalAccuracy(name=name)
    return trackers
