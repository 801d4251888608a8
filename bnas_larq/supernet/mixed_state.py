"""All candidates on all edges that leave one state of a mixed cell.

What the edges have in common is computed once: BatchNorm and sign of the state, each pool, and the
convolutions of one kind as one convolution with edges·C output channels (scale and centring of a
binary kernel belong to one output channel, so that is the same thing).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from bnas_larq.backend import keras, tf
from bnas_larq.layers.operations import Context, build_chain, build_operation, chain, sharing_of
from bnas_larq.layers.template import CellPlan
from bnas_larq.spaces import ZEROISE
from bnas_larq.supernet.binary_kernels import BinaryConvolution, BinaryMixer
from bnas_larq.supernet.edge_channels import picked, spread, weighted
from bnas_larq.supernet.fused_convolutions import Entry, Prefixes, mix, normalises
from bnas_larq.supernet.relaxations import Mixture, SampledPath
from bnas_larq.supernet.sampled_path import Option, convolution, one_of


@dataclasses.dataclass
class _Candidate:
    """One operation on all edges that leave one state.

    Attributes:
        name: for messages and layers' names.
        column: its column of α.
        sharing: how it is shared, see `bnas_larq.layers.operations.SHARINGS`.
        chains: its layers, one chain for each edge with sharing `edge`, else a single one.
        prefix, convolution: how many layers stand before the binary convolution that ends its
            chain; None for candidates of another kind.
    """

    name: str
    column: int
    sharing: str
    chains: list[list[keras.layers.Layer]]
    prefix: int = 0
    convolution: BinaryConvolution | None = None


def flat(chains: Iterable[list[keras.layers.Layer]]) -> list[keras.layers.Layer]:
    """All layers of some chains once, in order.

    Keras' savers (`.keras`, `.weights.h5`) look into a layer's lists, but neither into lists of
    lists nor into our dataclass: without such a list they would leave weights out, silently.
    """
    return list(dict.fromkeys(layer for layers in chains for layer in layers))


def shared_part(candidate: _Candidate) -> list[keras.layers.Layer] | None:
    """The layers in front of a candidate's binary convolution, or all of a pool's.

    None unless `mix` can evaluate it, and unless the layers are BatchNorm without scale and offset
    or have no weights, so that those of one state can stand for those of another, and do the same
    each time, as the backward pass computes them again: none that draws or heeds `training`.
    """
    if candidate.convolution is not None:
        layers = candidate.chains[0][: candidate.prefix]
    elif candidate.sharing == "state":
        layers = candidate.chains[0]
    else:
        return None
    same = all(normalises(x) or not (x.weights or x._expects_training_arg) for x in layers)
    return layers if same else None


def _keeps_some(operation: str, context: Context) -> bool:
    """Whether a pattern keeps a convolution of the operation in full precision."""
    if not context.full_precision:
        return False
    layers = build_operation(operation, dataclasses.replace(context, shared=None))
    return any(context.keeps_full_precision(layer.name) for layer in layers)


class MixedState(keras.layers.Layer):
    """All candidates on all edges that leave one state.

    Args:
        operations: candidates, in the order of the α columns.
        rows: the edges' rows of α.
        plan, state, context: place and settings; `context.filters` are the channels of the state
            and of each edge's output.
        mixer: evaluates the binary convolutions.

    Attributes:
        alive: booleans [edges of this state, operations]: the candidates that are computed; others
            add nothing, whatever their weight. A traced function does not see a later change.

    Call arguments:
        inputs: the state, [batch, height, width, filters].
        mixture: for all edges of the cell.

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
        mixer: BinaryMixer,
        **kwargs,
    ) -> None:
        super().__init__(name=f"{plan.name}_state{state}", **kwargs)
        self.rows = rows
        self.filters = context.filters
        self.strides = 2 if plan.reduction and state < 2 else 1
        self.alive = np.ones((len(rows), len(operations)), bool)
        self._mixer = mixer
        shared: dict = {}
        self.candidates = []
        for column, name in enumerate(operations):
            if name == ZEROISE:
                # Zeroise adds nothing to a sum, whatever its weight: it needs no layer.
                continue
            alone = [
                context.at(f"{plan.name}_edge{row}_{name}", self.filters, self.strides, shared)
                for row in rows
            ]
            sharing = sharing_of(name, self.strides)
            # Edges whose kernels differ in precision cannot be one convolution.
            if sharing == "channels" and any(_keeps_some(name, place) for place in alone):
                sharing = "edge"
            if sharing == "edge":
                chains = [build_operation(name, place) for place in alone]
            else:
                edges = len(rows) if sharing == "channels" else 1
                place = context.at(
                    f"{plan.name}_state{state}_{name}",
                    self.filters * edges,
                    self.strides,
                    shared,
                    edges,
                )
                chains = [build_operation(name, place)]
            candidate = _Candidate(name, column, sharing, chains)
            found = BinaryConvolution.of(chains[0]) if sharing == "channels" else None
            if found is not None:
                candidate.prefix, candidate.convolution = found
            self.candidates.append(candidate)
        self._tracked = flat(layers for entry in self.candidates for layers in entry.chains)

    def build(self, input_shape) -> None:
        for candidate in self.candidates:
            for layers in candidate.chains:
                build_chain(layers, input_shape)
        super().build(input_shape)

    @tf.autograph.experimental.do_not_convert
    def call(
        self,
        inputs: tf.Tensor,
        mixture: Mixture | SampledPath,
        training: bool | None = None,
    ) -> list[tf.Tensor]:
        if isinstance(mixture, SampledPath):
            return [self._sampled(inputs, mixture, training)]
        return self._mixed(inputs, mixture.of_rows(self.rows), mixture.positive, training)

    # -- all candidates ----------------------------------------------------------------------------

    def _mixed(self, inputs, weights, positive, training) -> list[tf.Tensor]:
        memory: dict = {}
        parts, terms = [], []
        for candidate in self.candidates:
            live = tuple(np.flatnonzero(self.alive[:, candidate.column]).tolist())
            if not live:
                continue
            prefix = shared_part(candidate)
            if prefix is None:
                terms.append(self._other(candidate, live, inputs, weights, training, memory))
            else:
                parts.append((candidate, live, prefix))
        if parts:
            terms.append(self._shared(parts, inputs, weights, positive, bool(training)))
        return terms or [self._zeros(inputs, len(self.rows))]

    def _shared(self, parts, inputs, weights, positive, training) -> tf.Tensor:
        """The candidates that `mix` can evaluate, in functions that all like states share."""
        chains = list(dict.fromkeys(tuple(prefix) for *_, prefix in parts))
        entries = [
            Entry(chains.index(tuple(prefix)), candidate.column, live, candidate.convolution)
            for candidate, live, prefix in parts
        ]
        kernels = [
            self._kernel(candidate, live)
            for candidate, live, _ in parts
            if candidate.convolution is not None
        ]
        mixer, prefixes = self._mixer, Prefixes(chains, training)
        return mix(inputs, prefixes, entries, kernels, weights, positive, mixer.dtype, mixer)

    def _kernel(self, candidate: _Candidate, live: Sequence[int]) -> tf.Tensor:
        """A candidate's binary kernel for some edges."""
        return picked(self._mixer.kernel_of(candidate.convolution), live, len(self.rows))

    def convolutions(self) -> list[BinaryConvolution]:
        """The binary convolutions whose kernels are used, for `BinaryMixer.shared_kernels`."""
        return [
            candidate.convolution
            for candidate in self.candidates
            if candidate.convolution is not None and self.alive[:, candidate.column].any()
        ]

    def _other(self, candidate, live, inputs, weights, training, memory) -> tf.Tensor:
        """Candidates that only their own layers know how to compute."""
        column = weights[:, candidate.column]
        column *= tf.constant(self.alive[:, candidate.column], column.dtype)
        if candidate.sharing == "channels":
            outputs = chain(candidate.chains[0], inputs, training, memory)
        else:
            # An edge without its candidate still needs something at its place.
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
        """Only the chosen candidate of each edge.

        BatchNorm and sign of the state are common, and kernels are quantised in any case: both cost
        little next to a convolution.
        """
        memory: dict = {}
        options = []
        for candidate in self.candidates:
            if not self.alive[:, candidate.column].any():
                continue
            if shared_part(candidate) is None:
                options.append(self._own_layers(candidate, training))
            elif candidate.convolution is None:
                options.append(self._pool(candidate, training))
            else:
                read = chain(candidate.chains[0][: candidate.prefix], inputs, training, memory)
                kernel = self._mixer.kernel_of(candidate.convolution)
                options.append(
                    convolution(
                        candidate.column,
                        read,
                        candidate.convolution,
                        kernel,
                        len(self.rows),
                        self._mixer.dtype,
                    )
                )
        columns = tf.unstack(tf.gather(path.chosen, self.rows))
        outputs = []
        for edge, (row, column) in enumerate(zip(self.rows, columns, strict=True)):
            alive = [option for option in options if self.alive[edge, option.column]]
            output = one_of(alive, edge, column, inputs, self.strides, self._mixer)
            if path.weights is not None:
                output = weighted(output, tf.fill([self.filters], path.weights[row, column]))
            outputs.append(output)
        output = tf.concat(outputs, axis=-1) if len(outputs) > 1 else outputs[0]
        if path.edge_weights is not None:
            factors = tf.gather(path.edge_weights, self.rows)
            output = weighted(output, spread(factors, self.filters))
        return output

    def _pool(self, candidate: _Candidate, training) -> Option:
        """A candidate that is the same for all edges and has no weights but statistics."""
        prefixes = Prefixes([tuple(candidate.chains[0])], bool(training))

        def compute(inputs, *statistics):
            return prefixes(inputs, statistics)[0]

        parts = [tuple(prefixes.statistics)] * len(self.rows)
        return Option(candidate.column, compute, parts, prefixes.key(self._mixer.settings_of))

    def _own_layers(self, candidate: _Candidate, training) -> Option:
        """A candidate that only its own layers know how to compute."""
        edges = len(self.rows)

        def compute(inputs, edge):
            layers = candidate.chains[edge if candidate.sharing == "edge" else 0]
            outputs = chain(layers, inputs, training)
            if candidate.sharing == "channels":
                return tf.split(outputs, edges, axis=-1)[edge]
            return outputs

        return Option(candidate.column, compute, [(edge,) for edge in range(edges)])

    def _zeros(self, inputs: tf.Tensor, edges: int) -> tf.Tensor:
        """Zeroise on some edges."""
        strided = tf.zeros_like(inputs[:, :: self.strides, :: self.strides])
        return tf.tile(strided, [1, 1, 1, edges])
