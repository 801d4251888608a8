"""One candidate of an edge, of which only the running graph knows which; others are not computed.

All edges of a supernet with equal shapes call one traced function, which holds a branch for each
candidate. It is not inlined: a graph with such a switch for each edge takes minutes to compile.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence

from bnas_larq.backend import tf
from bnas_larq.supernet.binary_kernels import BinaryConvolution, BinaryMixer
from bnas_larq.supernet.fused_convolutions import Entry, Prefixes, mix


@dataclasses.dataclass(frozen=True)
class Option:
    """A candidate of the edges that leave one state.

    Attributes:
        column: its column of α.
        compute: function of (inputs, *parts of the edge): the edge's output, [batch, height, width,
            channels], float32.
        parts: for each edge, tensors and variables.
        key: options with equal keys compute the same function of inputs and parts; None for one
            that may be used where it was made only.
    """

    column: int
    compute: Callable[..., tf.Tensor]
    parts: Sequence[tuple]
    key: Hashable | None = None


def convolution(
    column: int,
    read: tf.Tensor,
    binary: BinaryConvolution,
    kernel: tf.Tensor,
    edges: int,
    dtype: tf.DType,
) -> Option:
    """A binary convolution, computed as `binary_mixture.mix` does.

    Args:
        read: the state as the convolutions read it, ±1.
        kernel: ±scale, of all edges, one after the other along the output channels.
        dtype: what is convolved in.
    """

    def compute(_, read, kernel):
        # Tensors of the branch's own graph: the gradient of a switch knows no others.
        read, kernel = tf.identity(read), tf.identity(kernel)
        itself, one = Prefixes([()], training=False), [Entry(0, 0, (0,), binary)]
        return mix(read, itself, one, [kernel], tf.ones([1, 1]), True, dtype)

    parts = [(read, of_edge) for of_edge in tf.split(kernel, edges, axis=-1)]
    return Option(column, compute, parts, ("convolution", binary.settings))


def one_of(
    options: Sequence[Option],
    edge: int,
    column: tf.Tensor,
    inputs: tf.Tensor,
    strides: int,
    mixer: BinaryMixer,
) -> tf.Tensor:
    """The output of an edge: that of the option with this column, zeros if there is none."""
    alike = [option for option in options if option.key is not None]
    own = [option for option in options if option.key is None]
    output = None
    if alike or not own:
        key = ("one of", inputs.shape, strides, tuple((o.column, o.key) for o in alike))
        function = mixer.traced(key, lambda: _switch(alike, strides), inline=False)
        output = function(column, inputs, [option.parts[edge] for option in alike])
    if own:
        chosen = _switch(own, strides)(column, inputs, [option.parts[edge] for option in own])
        output = chosen if output is None else output + chosen
    return output


def _switch(options: Sequence[Option], strides: int) -> Callable:
    """Function of (column, inputs, the options' parts of an edge)."""

    def switch(column, inputs, parts):
        place = tf.constant(0)
        branches = [lambda: tf.zeros_like(inputs[:, ::strides, ::strides])]
        for option, of_edge in zip(options, parts, strict=True):
            place += tf.cast(tf.equal(column, option.column), tf.int32) * len(branches)
            branches.append(lambda option=option, of_edge=of_edge: option.compute(inputs, *of_edge))
        return tf.switch_case(place, branches) if options else branches[0]()

    return switch
