"""A switch between the candidates of an edge: the graph computes the chosen one alone.

A separable convolution is the exception: its layers hold the channels of all edges from a state.

All edges of a supernet with equal shapes call one traced function, which holds a branch for each
candidate. It is not inlined: a graph with such a switch for each edge takes minutes to compile.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence

from bnas_larq.backend import tf
from bnas_larq.supernet.compute_cache import BinaryConvolution, ComputeCache
from bnas_larq.supernet.fused_candidates import FusedCandidate, InputChains, fused_sum


@dataclasses.dataclass(frozen=True)
class Branch:
    """A candidate of the edges that leave one state.

    Attributes:
        column: its column of α.
        compute: an edge's output, float32, as a function of (inputs, *parts of the edge).
        parts: for each edge, tensors and variables.
        key: equal for branches that compute the same function; None if only its own state can use
            the branch.
    """

    column: int
    compute: Callable[..., tf.Tensor]
    parts: Sequence[tuple]
    key: Hashable | None = None


class _Given(InputChains):
    """Tensors in place of the chains that compute them."""

    def __init__(self, training: bool) -> None:
        super().__init__((), training)

    def __call__(self, inputs: list[tf.Tensor], *_: object, **__: object) -> list[tf.Tensor]:
        return inputs


def convolution_branch(
    column: int,
    read: tf.Tensor,
    convolution: BinaryConvolution,
    kernel: tf.Tensor,
    edges: int,
    dtype: tf.DType,
    added: tf.Tensor | None,
    training: bool,
) -> Branch:
    """A binary convolution, computed in `dtype` as in `fused_sum`: of `read`, the state's signs ±1,
    with `kernel`, ±scale, of all edges, one after the other along the output channels; `added` is
    what a residual one adds."""
    residual = convolution.tail is not None

    def compute(_, reads, kernel, tail):
        # Tensors of the branch's own graph: the gradient of a switch knows no others.
        reads, kernel = [tf.identity(read) for read in reads], tf.identity(kernel)
        tail = tail and tail._replace(slopes=tf.identity(tail.slopes))
        alone = [FusedCandidate(0, 0, (0,), convolution, 1 if residual else None)]
        given, one = _Given(training), tf.ones([1, 1])
        return fused_sum(reads, given, alone, [kernel], [tail], one, True, dtype)

    reads = [read, added] if residual else [read]
    parts = [
        (reads, of_edge, convolution.tail.weights([edge], edges) if residual else None)
        for edge, of_edge in enumerate(tf.split(kernel, edges, axis=-1))
    ]
    key = ("convolution", convolution.settings, residual and training)
    return Branch(column, compute, parts, key)


def switch(
    branches: Sequence[Branch],
    edge: int,
    column: tf.Tensor,
    inputs: tf.Tensor,
    strides: int,
    cache: ComputeCache,
) -> tf.Tensor:
    """The output of an edge: that of the branch with this column, zeros if there is none."""
    shared = [branch for branch in branches if branch.key is not None]
    own = [branch for branch in branches if branch.key is None]
    output = None
    if shared or not own:
        keys = tuple((branch.column, branch.key) for branch in shared)
        key = ("switch", inputs.shape, strides, keys)
        function = cache.traced(key, lambda: _switch(shared, strides), inline=False)
        output = function(column, inputs, [branch.parts[edge] for branch in shared])
    if own:
        chosen = _switch(own, strides)(column, inputs, [branch.parts[edge] for branch in own])
        output = chosen if output is None else output + chosen
    return output


def _switch(branches: Sequence[Branch], strides: int) -> Callable:
    """Function of (column, inputs, the branches' parts of an edge)."""

    def evaluate(column, inputs, parts):
        index = tf.constant(0)
        functions = [lambda: tf.zeros_like(inputs[:, ::strides, ::strides])]
        for branch, of_edge in zip(branches, parts, strict=True):
            index += tf.cast(tf.equal(column, branch.column), tf.int32) * len(functions)
            functions.append(
                lambda branch=branch, of_edge=of_edge: branch.compute(inputs, *of_edge)
            )
        return tf.switch_case(index, functions) if branches else functions[0]()

    return evaluate
