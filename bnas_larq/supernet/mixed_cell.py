"""The mixed cell of the supernet: every candidate on every edge, summed with the mixture weights
(DARTS' relaxation, arXiv 1806.09055, over the binary candidates of BNAS, arXiv 2002.06963).

The cell is evaluated state by state, see `bnas_larq.supernet.mixed_state`.
"""

from __future__ import annotations

import numpy as np

from bnas_larq.backend import keras, tf
from bnas_larq.errors import BnasLarqError
from bnas_larq.layers.operations import Context, build_chain, chain
from bnas_larq.layers.template import CellPlan, preprocess, shortcut
from bnas_larq.spaces import SearchSpace
from bnas_larq.supernet.binary_kernels import BinaryMixer
from bnas_larq.supernet.edge_channels import joined
from bnas_larq.supernet.mixed_state import MixedState, flat
from bnas_larq.supernet.partial_channels import PartialChannels
from bnas_larq.supernet.relaxations import Mixture, SampledPath, as_mixture


def check_alive(alive: np.ndarray, shape: tuple[int, int]) -> None:
    """Raise BnasLarqError unless `alive` has the shape and keeps a candidate on each edge."""
    if alive.shape != shape or not alive.any(axis=1).all():
        raise BnasLarqError(
            f"Pruning keeps at least one of the {shape[1]} operations on each of the "
            f"{shape[0]} edges. Received: booleans of shape {alive.shape} with "
            f"{int(alive.sum())} kept. Keep Zeroise to switch an edge off."
        )


class MixedCell(keras.layers.Layer):
    """One cell of the supernet.

    Args:
        space: candidates and cell template.
        plan: place and size of the cell.
        stem: the network's stem, which decides on details of the preprocessing.
        context: settings for all operations.
        mixer: evaluates the binary convolutions; cells that share one are traced faster. None makes
            one of its own.
        channel_sampling: which channels pass through the candidates; None for all of them.

    Call arguments:
        states: (older, newer): outputs of the two previous cells, [batch, height, width, channels]
            each.
        mixture: `Mixture`, `SampledPath`, or a tensor with the weight of each candidate on each
            edge, [edges, operations]; rows in the order of `space.edges`.

    Output: [batch, height, width, nodes·filters], half the newer input's height and width in a
    reduction cell.

    Raises:
        BnasLarqError: channels that cannot be sampled so.
    """

    def __init__(
        self,
        space: SearchSpace,
        plan: CellPlan,
        stem: str,
        context: Context,
        mixer: BinaryMixer | None = None,
        channel_sampling: PartialChannels | None = None,
        **kwargs,
    ) -> None:
        super().__init__(name=plan.name, **kwargs)
        self.space = space
        self.plan = plan
        # A proportion of 1 leaves nothing to bypass the candidates.
        partial = channel_sampling is not None and channel_sampling.proportion > 1
        self.sampling = channel_sampling if partial else None
        self.operations = space.reduce if plan.reduction else space.normal
        mixer = mixer or BinaryMixer()
        self.mixed_filters = plan.filters
        if self.sampling is not None:
            self.mixed_filters = self.sampling.mixed_filters(plan.filters)
        self.preprocess = [preprocess(plan, which, stem, context) for which in (0, 1)]
        self._tracked = flat(self.preprocess)
        self.mixed_states = []
        for state in range(space.nodes + 1):
            rows = [row for row, (_, source) in enumerate(space.edges) if source == state]
            place = context.at(plan.name, self.mixed_filters)
            self.mixed_states.append(MixedState(self.operations, rows, plan, state, place, mixer))
        # The very first cell has no previous cell's output to add.
        self.has_shortcut = space.shortcut and plan.index > 0
        self.shortcut = list(shortcut(plan, space.nodes, context)) if self.has_shortcut else []

    def keep_alive(self, alive: np.ndarray) -> None:
        """Compute only some candidates from now on.

        Args:
            alive: booleans [edges, operations].

        Raises:
            BnasLarqError: another shape, or an edge without any candidate.
        """
        check_alive(alive, (len(self.space.edges), len(self.operations)))
        for mixed in self.mixed_states:
            mixed.alive = alive[mixed.rows]

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
        for state, mixed in enumerate(self.mixed_states):
            shape = shapes[state] if state < 2 else self.node_shape
            with tf.name_scope(mixed.name):
                mixed.build((*tuple(shape)[:-1], self.mixed_filters))
        super().build(input_shape)

    def compute_output_shape(self, input_shape) -> tf.TensorShape:
        *_, channels = self.node_shape
        return tf.TensorShape([*self.node_shape[:-1], self.space.nodes * channels])

    @tf.autograph.experimental.do_not_convert
    def call(
        self,
        states: tuple[tf.Tensor, tf.Tensor],
        mixture: Mixture | SampledPath | tf.Tensor,
        training: bool | None = None,
    ) -> tf.Tensor:
        return self.joined(self.values(states, mixture, training), states, training)

    def values(
        self,
        states: tuple[tf.Tensor, tf.Tensor],
        mixture: Mixture | SampledPath | tf.Tensor,
        training: bool | None = None,
    ) -> list[tf.Tensor]:
        """The cell's states: both preprocessed inputs and all nodes.

        Args:
            states, mixture: as in a call.
        """
        mixture = as_mixture(mixture)
        values = [
            chain(layers, x, training) for layers, x in zip(self.preprocess, states, strict=True)
        ]
        # Sums over the states so far, of all nodes that still receive edges: one after the other
        # along the channels. What bypasses the candidates adds up beside them.
        sums: list[tf.Tensor] = []
        bypasses: list[tf.Tensor] = []
        for state, mixed in enumerate(self.mixed_states):
            if state >= 2:
                # Node state − 2 reads states 0 … state − 1, which have all been evaluated.
                node, sums, bypasses = self._first_node(sums, bypasses)
                values.append(node)
            value = values[state]
            if self.sampling is not None:
                value, bypass = self.sampling.split(value, mixed.strides)
                bypasses.append(self._bypassing(bypass, mixed.rows, mixture))
            sums += mixed(value, mixture, training=training)
        values.append(self._first_node(sums, bypasses)[0])
        return values

    def joined(
        self,
        values: list[tf.Tensor],
        states: tuple[tf.Tensor, tf.Tensor],
        training: bool | None = None,
    ) -> tf.Tensor:
        """The cell's output, given its `values`: the nodes side by side, and the shortcut."""
        output = joined(values[2:])
        if self.has_shortcut:
            output += chain(self.shortcut, states[1], training)
        return output

    def _first_node(self, sums, bypasses):
        """The first node of the sums, and the sums of the others."""
        node, rest = _cut(tf.add_n(sums), self.mixed_filters)
        if self.sampling is None:
            return node, rest, []
        bypass, bypasses = _cut(tf.add_n(bypasses), self.plan.filters - self.mixed_filters)
        return self.sampling.join(node, bypass), rest, bypasses

    def _bypassing(self, bypass: tf.Tensor, rows: list[int], mixture) -> tf.Tensor:
        """The bypassing channels for each edge, one after the other along the channels."""
        if mixture.edge_weights is None:
            return tf.tile(bypass, [1, 1, 1, len(rows)])
        factors = tf.unstack(tf.gather(mixture.edge_weights, rows))
        return tf.concat([bypass * factor for factor in factors], axis=-1)


def _cut(values: tf.Tensor, channels: int) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """The first channels, and a list of the others (empty when there are none)."""
    width = values.shape[-1]
    if width == channels:
        return values, []
    first, rest = tf.split(values, [channels, width - channels], axis=-1)
    return first, [rest]
