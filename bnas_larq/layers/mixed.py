"""The mixed cell of the supernet: every candidate on every edge, summed with the mixture weights
(DARTS' relaxation, arXiv 1806.09055, over the binary candidates of BNAS, arXiv 2002.06963).

The cell is evaluated state by state. What all edges that leave one state have in common is computed
once: BatchNorm and sign of the state, each pool, and the convolutions of one kind as one
convolution with edges·C output channels (scale and centring of a binary kernel belong to one output
channel, so that is the same thing).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from bnas_larq.backend import keras, tf
from bnas_larq.layers.operations import Context, build_operation, chain, sharing_of
from bnas_larq.layers.template import CellPlan, preprocess, shortcut
from bnas_larq.spaces import ZEROISE, SearchSpace


@dataclasses.dataclass(frozen=True)
class _Candidate:
    """One operation on all edges that leave one state.

    Its column of α, how it is shared, and its chains of layers (one for each edge with sharing
    `edge`, else a single one).
    """

    column: int
    sharing: str
    chains: list[list[keras.layers.Layer]]


def _flat(chains: Iterable[list[keras.layers.Layer]]) -> list[keras.layers.Layer]:
    """All layers of some chains once, in order.

    Keras' savers (`.keras`, `.weights.h5`) look into a layer's lists, but neither into lists of
    lists nor into our dataclass: without such a list they would leave weights out, silently.
    """
    return list(dict.fromkeys(layer for layers in chains for layer in layers))


class MixedState(keras.layers.Layer):
    """All candidates on all edges that leave one state.

    Args:
        operations: candidates, in the order of the α columns.
        rows: the edges' rows of α.
        plan, state, context: place and settings.
        fused: evaluate edges together where an operation allows it; otherwise edge by edge (the
            reference form).

    Call arguments:
        inputs: the state, [batch, height, width, filters].
        mixture: [edges of the cell, operations].

    Output: list of one tensor [batch, height/strides, width/strides, filters] for each edge.
    """

    def __init__(
        self,
        operations: tuple[str, ...],
        rows: list[int],
        plan: CellPlan,
        state: int,
        context: Context,
        fused: bool,
        **kwargs,
    ) -> None:
        super().__init__(name=f"{plan.name}_state{state}", **kwargs)
        self.rows = rows
        self.filters = plan.filters
        strides = 2 if plan.reduction and state < 2 else 1
        shared = {} if fused else None
        self.candidates = []
        for column, name in enumerate(operations):
            if name == ZEROISE:
                # Zeroise adds nothing to a sum, whatever its weight: it needs no layer.
                continue
            alone = [
                context.at(f"{plan.name}_edge{row}_{name}", plan.filters, strides, shared)
                for row in rows
            ]
            sharing = sharing_of(name) if fused else "edge"
            # Edges whose kernels differ in precision cannot be one convolution.
            if sharing == "channels" and any(
                place.keeps_full_precision(f"{place.name}_conv") for place in alone
            ):
                sharing = "edge"
            if sharing == "edge":
                chains = [build_operation(name, place) for place in alone]
            else:
                width = plan.filters * (len(rows) if sharing == "channels" else 1)
                place = context.at(f"{plan.name}_state{state}_{name}", width, strides, shared)
                chains = [build_operation(name, place)]
            self.candidates.append(_Candidate(column, sharing, chains))
        self._tracked = _flat(layers for entry in self.candidates for layers in entry.chains)

    def call(
        self, inputs: tf.Tensor, mixture: tf.Tensor, training: bool | None = None
    ) -> list[tf.Tensor]:
        edges = len(self.rows)
        # Each edge's weight once per channel: one gather for all candidates.
        channelwise = tf.gather(mixture, [row for row in self.rows for _ in range(self.filters)])
        weights = tf.unstack(channelwise, axis=1)
        memory: dict = {}
        terms = []
        for candidate in self.candidates:
            outputs = [chain(layers, inputs, training, memory) for layers in candidate.chains]
            if candidate.sharing == "state":
                outputs *= edges
            joined = tf.concat(outputs, axis=-1) if len(outputs) > 1 else outputs[0]
            terms.append(joined * weights[candidate.column])
        return tf.split(tf.add_n(terms), edges, axis=-1)


class MixedCell(keras.layers.Layer):
    """One cell of the supernet.

    Args:
        space: candidates and cell template.
        plan: place and size of the cell.
        stem: the network's stem, which decides on details of the preprocessing.
        context: settings for all operations.
        fused: evaluate state by state; False evaluates edge by edge, the reference form.

    Call arguments:
        states: (older, newer): outputs of the two previous cells, [batch, height, width, channels]
            each.
        mixture: weight of each candidate on each edge, [edges, operations]; rows in the order of
            `space.edges`.

    Output: [batch, height, width, nodes·filters], half the newer input's height and width in a
    reduction cell.
    """

    def __init__(
        self,
        space: SearchSpace,
        plan: CellPlan,
        stem: str,
        context: Context,
        fused: bool = True,
        **kwargs,
    ) -> None:
        super().__init__(name=plan.name, **kwargs)
        self.space = space
        self.plan = plan
        operations = space.reduce if plan.reduction else space.normal
        self.preprocess = [preprocess(plan, which, stem, context) for which in (0, 1)]
        self._tracked = _flat(self.preprocess)
        self.mixed_states = []
        for state in range(space.nodes + 1):
            rows = [row for row, (_, source) in enumerate(space.edges) if source == state]
            self.mixed_states.append(MixedState(operations, rows, plan, state, context, fused))
        # The very first cell has no previous cell's output to add.
        self.has_shortcut = space.shortcut and plan.index > 0
        self.shortcut = list(shortcut(plan, space.nodes, context)) if self.has_shortcut else []

    def call(
        self, states: tuple[tf.Tensor, tf.Tensor], mixture: tf.Tensor, training: bool | None = None
    ) -> tf.Tensor:
        values = [
            chain(layers, x, training) for layers, x in zip(self.preprocess, states, strict=True)
        ]
        incoming: list[list[tf.Tensor]] = [[] for _ in range(self.space.nodes)]
        for state, mixed in enumerate(self.mixed_states):
            if state >= 2:
                # Node state − 2 reads states 0 … state − 1, which have all been evaluated.
                values.append(tf.add_n(incoming[state - 2]))
            for row, term in zip(
                mixed.rows, mixed(values[state], mixture, training=training), strict=True
            ):
                incoming[self.space.edges[row][0]].append(term)
        values.append(tf.add_n(incoming[-1]))
        output = tf.concat(values[2:], axis=-1)
        if self.has_shortcut:
            output += chain(self.shortcut, states[1], training)
        return output
