"""The cell of the supernet: on every edge a mixed operation (DARTS, arXiv 1806.09055, over the
binary candidates of BNAS, arXiv 2002.06963), or one sampled candidate.

It is evaluated state by state, see `bnas_larq.supernet.outgoing_edges`. With `PartialChannels` only
a part of each state passes through the candidates.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from bnas_larq.backend import keras, tf
from bnas_larq.errors import BnasLarqError
from bnas_larq.layers.merging import joined
from bnas_larq.layers.operations import Context, build_chain, chain
from bnas_larq.layers.template import CellPlan, check_groups, preprocess, shortcut
from bnas_larq.spaces import NO_SHORTCUT, SearchSpace, preprocessing_of
from bnas_larq.supernet.compute_cache import ComputeCache
from bnas_larq.supernet.outgoing_edges import OutgoingEdges, flat
from bnas_larq.supernet.relaxations import Choice, Mixture


@dataclasses.dataclass(frozen=True)
class PartialChannels:
    """1/proportion of a state's channels goes through the candidates, the rest bypasses them.

    The bypassing channels are concatenated to the candidates' outputs, and the node's channels are
    shuffled, so that later nodes select others. Source: PC-DARTS, arXiv 1907.05737, §3.1.

    Args:
        proportion: K of the paper; the first 1/K of the channels are selected, with 1 all.

    Raises:
        BnasLarqError: a proportion below 1.
    """

    proportion: int = 4

    def __post_init__(self) -> None:
        if self.proportion < 1:
            raise BnasLarqError(
                "Partial channels need a whole proportion of at least 1 (1 selects all channels). "
                f"Received: {self.proportion}. PC-DARTS uses 4."
            )

    def selected_filters(self, filters: int) -> int:
        """How many of a node's channels the candidates see; BnasLarqError if the channels cannot be
        divided so, or fewer than two would be selected."""
        if filters % self.proportion or filters // self.proportion < 2:
            raise BnasLarqError(
                "Partial channels divide a node's channels into equal parts of at least two (a "
                f"binary kernel is centred over its input channels). Received: {filters} channels, "
                f"proportion {self.proportion}. Use a multiple of {self.proportion} from "
                f"{2 * self.proportion} on."
            )
        return filters // self.proportion

    def split(self, state: tf.Tensor, strides: int) -> tuple[tf.Tensor, tf.Tensor]:
        """(selected channels, bypassing channels, max-pooled 2×2 where the edges have strides)."""
        channels = state.shape[-1]
        count = self.selected_filters(channels)
        # Gradients of two slices would be two padded tensors and their sum, a third of a step.
        selected, bypass = tf.split(state, [count, channels - count], axis=-1)
        if strides > 1:
            bypass = tf.nn.max_pool2d(bypass, 2, strides, "SAME")
        return selected, bypass

    def join(self, computed: tf.Tensor, bypass: tf.Tensor) -> tf.Tensor:
        """A node of the candidates' outputs and the bypassing channels, shuffled."""
        node = tf.concat([computed, bypass], axis=-1)
        batch = tf.shape(node)[0]
        _, height, width, channels = node.shape
        groups = self.proportion
        shape = [batch, height, width, groups, channels // groups]
        shuffled = tf.transpose(tf.reshape(node, shape), [0, 1, 2, 4, 3])
        return tf.reshape(shuffled, [batch, height, width, channels])


def check_alive(alive: np.ndarray, shape: tuple[int, int]) -> None:
    """Raise BnasLarqError unless `alive` has the shape and keeps a candidate on each edge."""
    if alive.shape != shape or not alive.any(axis=1).all():
        raise BnasLarqError(
            f"Pruning keeps at least one of the {shape[1]} operations on each of the "
            f"{shape[0]} edges. Received: booleans of shape {alive.shape} with "
            f"{int(alive.sum())} kept. Keep Zeroise to switch an edge off."
        )


class SearchCell(keras.layers.Layer):
    """One cell of the supernet, whose `stem` decides on details of the preprocessing.

    Without a `channel_sampling` all channels pass through the candidates. `cache` is what all cells
    of a supernet share; None makes one for this cell. `input_channels` are those of the older and
    the newer input, which BATS' preprocessing asks for.

    Call arguments:
        states: outputs of the two previous cells, older first, [batch, height, width, channels].
        choice: `Mixture`, `SampledPath`, or a tensor with the weight of each candidate on each
            edge, [edges, operations]; rows in the order of `space.edges`.

    Output: [batch, height, width, nodes·filters], half the newer input's height and width in a
    reduction cell.

    Raises:
        BnasLarqError: channels that cannot be sampled, or grouped, so.
    """

    def __init__(
        self,
        space: SearchSpace,
        plan: CellPlan,
        stem: str,
        context: Context,
        cache: ComputeCache | None = None,
        channel_sampling: PartialChannels | None = None,
        input_channels: tuple[int | None, int | None] = (None, None),
        **kwargs,
    ) -> None:
        super().__init__(name=plan.name, **kwargs)
        self.space = space
        self.plan = plan
        # With a proportion of 1 nothing bypasses the candidates.
        partial = channel_sampling is not None and channel_sampling.proportion > 1
        self.sampling = channel_sampling if partial else None
        self.operations = space.reduce if plan.reduction else space.normal
        cache = cache or ComputeCache()
        self.selected_filters = plan.filters
        if self.sampling is not None:
            self.selected_filters = self.sampling.selected_filters(plan.filters)
        check_groups(context.groups, self.selected_filters)
        kind = preprocessing_of({*space.normal, *space.reduce})
        self.preprocess = [
            preprocess(plan, source, stem, context, kind, channels)
            for source, channels in enumerate(input_channels)
        ]
        self._tracked = flat(self.preprocess)
        self.outgoing = []
        context_of_edges = context.at(plan.name, self.selected_filters)
        for state in range(space.nodes + 1):
            rows = [row for row, (_, source) in enumerate(space.edges) if source == state]
            self.outgoing.append(
                OutgoingEdges(self.operations, rows, plan, state, context_of_edges, cache)
            )
        # The very first cell has no previous cell's output to add.
        self.has_shortcut = space.shortcut != NO_SHORTCUT and plan.index > 0
        layers = shortcut(plan, space.nodes, context, space.shortcut) if self.has_shortcut else []
        self.shortcut = list(layers)

    def keep_alive(self, alive: np.ndarray) -> None:
        """From now on compute only some candidates, booleans [edges, operations]; raises as
        `check_alive` does."""
        check_alive(alive, (len(self.space.edges), len(self.operations)))
        for edges in self.outgoing:
            edges.alive = alive[edges.rows]

    def build(self, input_shape) -> None:
        shapes = [
            build_chain(layers, shape)
            for layers, shape in zip(self.preprocess, input_shape, strict=True)
        ]
        if self.has_shortcut:
            build_chain(self.shortcut, input_shape[1])
        batch, height, width, _ = tf.TensorShape(shapes[1]).as_list()
        if self.plan.reduction:
            height, width = (None if n is None else -(-n // 2) for n in (height, width))
        self.node_shape = (batch, height, width, self.plan.filters)
        for state, edges in enumerate(self.outgoing):
            shape = shapes[state] if state < 2 else self.node_shape
            with tf.name_scope(edges.name):
                edges.build((*tuple(shape)[:-1], self.selected_filters))
        super().build(input_shape)

    def compute_output_shape(self, input_shape) -> tf.TensorShape:
        *_, channels = self.node_shape
        return tf.TensorShape([*self.node_shape[:-1], self.space.nodes * channels])

    @tf.autograph.experimental.do_not_convert
    def call(
        self,
        states: tuple[tf.Tensor, tf.Tensor],
        choice: Choice | tf.Tensor,
        training: bool | None = None,
    ) -> tf.Tensor:
        return self.output_of(self.values(states, choice, training), states, training)

    def values(
        self,
        states: tuple[tf.Tensor, tf.Tensor],
        choice: Choice | tf.Tensor,
        training: bool | None = None,
    ) -> list[tf.Tensor]:
        """The cell's states, both preprocessed inputs and all nodes; arguments as of a call."""
        choice = choice if isinstance(choice, Choice) else Mixture(choice)
        values = [
            chain(layers, x, training) for layers, x in zip(self.preprocess, states, strict=True)
        ]
        # What the states so far add to all nodes that still receive edges: one node after the other
        # along the channels. The channels that bypass the candidates are summed beside them.
        sums: list[tf.Tensor] = []
        bypasses: list[tf.Tensor] = []
        for state, edges in enumerate(self.outgoing):
            if state >= 2:
                # Node state − 2 reads states 0 … state − 1, which have all been evaluated.
                node, sums, bypasses = self._first_node(sums, bypasses)
                values.append(node)
            value = values[state]
            if self.sampling is not None:
                value, bypass = self.sampling.split(value, edges.strides)
                bypasses.append(self._for_each_edge(bypass, edges.rows, choice))
            sums += edges(value, choice, training=training)
        values.append(self._first_node(sums, bypasses)[0])
        return values

    def output_of(
        self,
        values: list[tf.Tensor],
        states: tuple[tf.Tensor, tf.Tensor],
        training: bool | None = None,
    ) -> tf.Tensor:
        """The cell's output, given its `values`: the concatenated nodes plus the shortcut."""
        output = joined(values[2:])
        if self.has_shortcut:
            output += chain(self.shortcut, states[1], training)
        return output

    def _first_node(self, sums, bypasses):
        """The first node of the sums, and the sums of the others."""
        node, rest = _cut(tf.add_n(sums), self.selected_filters)
        if self.sampling is None:
            return node, rest, []
        bypass, bypasses = _cut(tf.add_n(bypasses), self.plan.filters - self.selected_filters)
        return self.sampling.join(node, bypass), rest, bypasses

    def _for_each_edge(self, bypass: tf.Tensor, rows: list[int], choice: Choice) -> tf.Tensor:
        """The bypassing channels for each edge, one after the other along the channels."""
        if choice.edge_weights is None:
            return tf.tile(bypass, [1, 1, 1, len(rows)])
        factors = tf.unstack(tf.gather(choice.edge_weights, rows))
        return tf.concat([bypass * factor for factor in factors], axis=-1)


def _cut(values: tf.Tensor, channels: int) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """The first channels, and a list of the others (empty when there are none)."""
    width = values.shape[-1]
    if width == channels:
        return values, []
    first, rest = tf.split(values, [channels, width - channels], axis=-1)
    return first, [rest]
