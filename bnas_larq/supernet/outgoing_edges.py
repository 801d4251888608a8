"""All candidates on all edges that leave one state of a supernet's cell.

What the edges have in common is computed once: BatchNorm and sign of the state, each pool, and the
convolutions of one kind as one convolution with edges·C output channels (scale and centring of a
binary kernel belong to one output channel, so the results are the same).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np

from bnas_larq.backend import keras, tf
from bnas_larq.layers.batch_norm import PlainBatchNormalization
from bnas_larq.layers.operations import (
    Chain,
    Context,
    build_chain,
    build_operation,
    chain,
    layers_of,
    sharing_of,
)
from bnas_larq.layers.template import CellPlan
from bnas_larq.spaces import ZEROISE
from bnas_larq.supernet.candidate_switch import Branch, convolution_branch, switch
from bnas_larq.supernet.compute_cache import BinaryConvolution, ComputeCache
from bnas_larq.supernet.edge_channels import picked, spread, weighted
from bnas_larq.supernet.fused_candidates import FusedCandidate, InputChains, fused_sum
from bnas_larq.supernet.relaxations import Choice, SampledPath


@dataclasses.dataclass
class _Candidate:
    """One operation on all edges that leave one state.

    Attributes:
        column: its column of α.
        sharing: how it is shared, see `bnas_larq.layers.operations.SHARINGS`.
        chains: its layers: one chain for each edge with sharing `edge`, else a single one.
        convolution: the binary convolution that ends its chain; None for other candidates.
        depth: how many layers stand before the convolution.
    """

    column: int
    sharing: str
    chains: list[Chain]
    convolution: BinaryConvolution | None = None
    depth: int = 0


def flat(chains: Iterable[Chain]) -> list[keras.layers.Layer]:
    """All layers of some chains once, in order.

    Keras' savers (`.keras`, `.weights.h5`) look into a layer's lists, but not into lists of lists
    or our dataclass: without such a list they would silently leave weights out.
    """
    return list(dict.fromkeys(layer for layers in chains for layer in layers_of(layers)))


def input_layers(candidate: _Candidate) -> list[keras.layers.Layer] | None:
    """The layers in front of a candidate's binary convolution, or all of a pool's, if `fused_sum`
    can evaluate the candidate, else None.

    Other states share them, so only BatchNorms without scale and offset may have weights. The
    backward pass computes them again, so none may draw or depend on `training`.
    """
    if candidate.convolution is not None:
        layers = candidate.chains[0][: candidate.depth]
        tail = candidate.convolution.tail
        read = [*layers, *tail.added] if tail else layers
    elif candidate.sharing == "state":
        layers = read = candidate.chains[0]
    else:
        return None
    repeatable = all(
        type(layer) is PlainBatchNormalization or not (layer.weights or layer._expects_training_arg)
        for layer in read
    )
    return layers if repeatable else None


def _keeps_full_precision(operation: str, context: Context) -> bool:
    """Whether a pattern keeps a convolution of the operation in full precision."""
    if not context.full_precision:
        return False
    layers = layers_of(build_operation(operation, dataclasses.replace(context, shared=None)))
    return any(context.keeps_full_precision(layer.name) for layer in layers)


class OutgoingEdges(keras.layers.Layer):
    """All candidates on all edges that leave one state, number `state` of the cell.

    `operations` are in the order of α's columns; `rows` are the edges' rows of α. The context's
    `filters` are the channels of the state and of each edge's output.

    Attributes:
        alive: booleans [edges of this state, operations]: the candidates that are computed; others
            add nothing, whatever their weight. A traced function does not see a later change.

    Call arguments:
        inputs: the state, [batch, height, width, filters].
        choice: for all edges of the cell.

    Output: list of tensors [batch, height/strides, width/strides, edges·filters], float32, whose
    sum holds the edges' outputs, one after the other.
    """

    def __init__(
        self,
        operations: tuple[str, ...],
        rows: list[int],
        plan: CellPlan,
        state: int,
        context: Context,
        cache: ComputeCache,
        **kwargs,
    ) -> None:
        super().__init__(name=f"{plan.name}_state{state}", **kwargs)
        self.rows = rows
        self.filters = context.filters
        self.strides = 2 if plan.reduction and state < 2 else 1
        self.alive = np.ones((len(rows), len(operations)), bool)
        self._cache = cache
        shared: dict = {}
        self.candidates = []
        for column, name in enumerate(operations):
            if name == ZEROISE:
                # Zeroise adds nothing to a sum, whatever its weight: it needs no layer.
                continue
            contexts = [
                context.at(f"{plan.name}_edge{row}_{name}", self.filters, self.strides, shared)
                for row in rows
            ]
            sharing = sharing_of(name, self.strides)
            # Edges whose kernels differ in precision cannot be one convolution.
            if sharing == "channels" and any(_keeps_full_precision(name, c) for c in contexts):
                sharing = "edge"
            if sharing != "edge":
                edges = len(rows) if sharing == "channels" else 1
                filters = self.filters * edges
                layer_name = f"{plan.name}_state{state}_{name}"
                contexts = [context.at(layer_name, filters, self.strides, shared, edges)]
            chains = [build_operation(name, c) for c in contexts]
            candidate = _Candidate(column, sharing, chains)
            if sharing == "channels" and (ending := BinaryConvolution.of(chains[0])):
                candidate.depth, candidate.convolution = ending
            self.candidates.append(candidate)
        self._tracked = flat(layers for made in self.candidates for layers in made.chains)

    def build(self, input_shape) -> None:
        for candidate in self.candidates:
            for layers in candidate.chains:
                build_chain(layers, input_shape)
        super().build(input_shape)

    def convolutions(self) -> list[BinaryConvolution]:
        """The binary convolutions whose kernels are used, for `ComputeCache.shared_kernels`."""
        return [
            candidate.convolution
            for candidate in self.candidates
            if candidate.convolution is not None and self.alive[:, candidate.column].any()
        ]

    @tf.autograph.experimental.do_not_convert
    def call(
        self, inputs: tf.Tensor, choice: Choice, training: bool | None = None
    ) -> list[tf.Tensor]:
        if isinstance(choice, SampledPath):
            return [self._sampled(inputs, choice, training)]
        return self._weighted(inputs, choice.of_rows(self.rows), choice.positive, training)

    # -- all candidates ----------------------------------------------------------------------------

    def _weighted(self, inputs, weights, positive, training) -> list[tf.Tensor]:
        memory: dict = {}
        fused, terms = [], []
        for candidate in self.candidates:
            live = tuple(np.flatnonzero(self.alive[:, candidate.column]).tolist())
            if not live:
                continue
            layers = input_layers(candidate)
            if layers is None:
                terms.append(self._by_layers(candidate, live, inputs, weights, training, memory))
            else:
                fused.append((candidate, live, tuple(layers)))
        if fused:
            terms.append(self._fused(fused, inputs, weights, positive, bool(training)))
        return terms or [self._zeros(inputs, len(self.rows))]

    def _fused(self, fused, inputs, weights, positive, training) -> tf.Tensor:
        """The candidates that `fused_sum` can evaluate."""
        chains: dict[tuple, int] = {}
        candidates, kernels, tails = [], [], []
        for candidate, live, layers in fused:
            source, added = chains.setdefault(layers, len(chains)), None
            if (binary := candidate.convolution) is not None:
                kernels.append(picked(self._cache.kernel_of(binary), live, len(self.rows)))
                tails.append(binary.tail and binary.tail.weights(live, len(self.rows)))
                if binary.tail is not None:
                    added = chains.setdefault(binary.tail.added, len(chains))
            candidates.append(FusedCandidate(source, candidate.column, live, binary, added))
        reads, operands = InputChains(list(chains), training), (candidates, kernels, tails)
        dtype, cache = self._cache.dtype, self._cache
        return fused_sum(inputs, reads, *operands, weights, positive, dtype, cache)

    def _by_layers(self, candidate, live, inputs, weights, training, memory) -> tf.Tensor:
        """A candidate that only its own layers can compute."""
        column = weights[:, candidate.column]
        column *= tf.constant(self.alive[:, candidate.column], column.dtype)
        if candidate.sharing == "channels":
            outputs = chain(candidate.chains[0], inputs, training, memory)
        else:
            # An edge without this candidate still needs something in its place.
            edges = [
                (
                    chain(candidate.chains[edge], inputs, training, memory)
                    if edge in live
                    else self._zeros(inputs, 1)
                )
                for edge in range(len(self.rows))
            ]
            outputs = tf.concat(edges, axis=-1)
        return weighted(outputs, spread(column, self.filters))

    # -- one candidate on each edge ----------------------------------------------------------------

    def _sampled(self, inputs, path: SampledPath, training) -> tf.Tensor:
        """Only the chosen candidate of each edge. BatchNorm and sign of the state are shared, and
        all kernels are quantised: both cost little next to a convolution."""
        branches = self._branches(inputs, training)
        columns = tf.unstack(tf.gather(path.chosen, self.rows))
        outputs = []
        for edge, (row, column) in enumerate(zip(self.rows, columns, strict=True)):
            alive = [branch for branch in branches if self.alive[edge, branch.column]]
            output = switch(alive, edge, column, inputs, self.strides, self._cache)
            if path.weights is not None:
                output = weighted(output, tf.fill([self.filters], path.weights[row, column]))
            outputs.append(output)
        output = tf.concat(outputs, axis=-1) if len(outputs) > 1 else outputs[0]
        if path.edge_weights is not None:
            factors = tf.gather(path.edge_weights, self.rows)
            output = weighted(output, spread(factors, self.filters))
        return output

    def _branches(self, inputs, training) -> list[Branch]:
        memory: dict = {}
        branches = []
        for candidate in self.candidates:
            if not self.alive[:, candidate.column].any():
                continue
            if input_layers(candidate) is None:
                branches.append(self._layers_branch(candidate, training))
            elif candidate.convolution is None:
                branches.append(self._pool_branch(candidate, training))
            else:
                read = chain(candidate.chains[0][: candidate.depth], inputs, training, memory)
                column, binary = candidate.column, candidate.convolution
                added = binary.tail and chain(binary.tail.added, inputs, training, memory)
                settings = (self._cache.kernel_of(binary), len(self.rows), self._cache.dtype)
                further = (*settings, added, bool(training))
                branches.append(convolution_branch(column, read, binary, *further))
        return branches

    def _pool_branch(self, candidate: _Candidate, training) -> Branch:
        """A candidate that is the same for all edges and has no weights but statistics."""
        chains = InputChains([tuple(candidate.chains[0])], bool(training))

        def compute(inputs, *statistics):
            return chains(inputs, statistics)[0]

        parts = [tuple(chains.statistics)] * len(self.rows)
        return Branch(candidate.column, compute, parts, chains.key(self._cache.settings_of))

    def _layers_branch(self, candidate: _Candidate, training) -> Branch:
        """A candidate that only its own layers can compute."""
        edges = len(self.rows)

        def compute(inputs, edge):
            layers = candidate.chains[edge if candidate.sharing == "edge" else 0]
            outputs = chain(layers, inputs, training)
            if candidate.sharing == "channels":
                return tf.split(outputs, edges, axis=-1)[edge]
            return outputs

        return Branch(candidate.column, compute, [(edge,) for edge in range(edges)])

    def _zeros(self, inputs: tf.Tensor, edges: int) -> tf.Tensor:
        """Zeroise on some edges."""
        strided = tf.zeros_like(inputs[:, :: self.strides, :: self.strides])
        return tf.tile(strided, [1, 1, 1, edges])
