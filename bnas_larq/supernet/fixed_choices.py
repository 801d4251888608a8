"""Relaxations whose choice is given from outside, whatever α are: one path, or one mixture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bnas_larq.backend import register, tf
from bnas_larq.errors import BnasLarqError
from bnas_larq.genotype import Cell, Genotype
from bnas_larq.spaces import SearchSpace, edges_of_cell
from bnas_larq.supernet.relaxations import NO_EDGE, Draw, Mixture, Relaxation, SampledPath


@register
class FixedPath(Relaxation):
    """One candidate of each edge, chosen from outside by `assign`, whatever α are.

    The path is held in variables that are not weights of the model: a traced step follows every
    change, and checkpoints and `get_config` do not hold it.

    Example:
        >>> relaxation = FixedPath()
        >>> relaxation.assign(normal=np.array([3, 0]), reduce=np.array([1, 1]))
        >>> draw = Draw("normal", epoch=tf.constant(0.0), seed=tf.constant([1, 2]), training=True)
        >>> relaxation.choose(tf.zeros([2, 4]), draw).chosen.numpy().tolist()
        [3, 0]
    """

    def __init__(self) -> None:
        self._columns: dict[str, tf.Variable] = {}
        self._sizes: dict[str, tuple[int, int]] = {}

    def assign(self, normal: np.ndarray, reduce: np.ndarray) -> None:
        """Choose the path.

        Args:
            normal, reduce: integers [edges], columns of α of normal and reduction cells, or
                `NO_EDGE`.

        Raises:
            BnasLarqError: not one column for each edge, or a column that α do not have.
        """
        path = {"normal": np.asarray(normal, np.int32), "reduce": np.asarray(reduce, np.int32)}
        for kind, columns in path.items():
            self._check(kind, columns)
        for kind, columns in path.items():
            if kind not in self._columns or self._columns[kind].shape != columns.shape:
                with tf.init_scope():
                    self._columns[kind] = tf.Variable(columns, trainable=False)
            else:
                self._columns[kind].assign(columns)

    def assign_genotype(self, genotype: Genotype, space: SearchSpace) -> None:
        """Choose the path that has the genotype's edges alone; raises as `genotype_columns`."""
        normal, reduce = genotype.cells
        self.assign(
            genotype_columns(normal, space.normal, space.nodes),
            genotype_columns(reduce, space.reduce, space.nodes),
        )

    def _check(self, kind: str, columns: np.ndarray | None) -> None:
        # The sizes are known once a network has asked for a path.
        edges, operations = self._sizes.get(kind, (None, None))
        if columns is None or (
            columns.ndim != 1
            or (edges is not None and len(columns) != edges)
            or (columns < NO_EDGE).any()
            or (operations is not None and (columns >= operations).any())
        ):
            received = "none" if columns is None else np.array2string(columns, separator=", ")
            raise BnasLarqError(
                f"A path names a column of α for each edge ({edges or 'all'} edges, columns below "
                f"{operations or 'the number of operations'}, or {NO_EDGE} for no edge). "
                f"Received: {received} for {kind} cells. Give FixedPath.assign a column for each."
            )

    def choose(self, alphas: tf.Tensor, draw: Draw) -> SampledPath:
        self._sizes[draw.kind] = tuple(alphas.shape)
        columns = self._columns.get(draw.kind)
        with tf.init_scope():
            self._check(draw.kind, None if columns is None else columns.numpy())
        return SampledPath(tf.convert_to_tensor(columns))


@register
class FixedMixture(Relaxation):
    """All candidates with weights given from outside by `assign`, whatever α are.

    The weights are held in variables that are not weights of the model, as of `FixedPath`.

    Example:
        >>> relaxation = FixedMixture()
        >>> relaxation.assign(normal=np.array([[0.0, 1.0]]), reduce=np.array([[0.5, 0.5]]))
        >>> draw = Draw("normal", epoch=tf.constant(0.0), seed=tf.constant([1, 2]), training=True)
        >>> relaxation.choose(tf.zeros([1, 2]), draw).weights.numpy().tolist()
        [[0.0, 1.0]]
    """

    def __init__(self) -> None:
        self._weights: dict[str, tf.Variable] = {}

    def assign(self, normal: np.ndarray, reduce: np.ndarray) -> None:
        """Set the weights of normal and reduction edges, [edges, operations]."""
        for kind, values in (("normal", normal), ("reduce", reduce)):
            if kind in self._weights:
                self._weights[kind].assign(values)
            else:
                with tf.init_scope():
                    self._weights[kind] = tf.Variable(values, trainable=False, dtype=tf.float32)

    def choose(self, alphas: tf.Tensor, draw: Draw) -> Mixture:
        weights = self._weights.get(draw.kind)
        if weights is None or weights.shape != alphas.shape:
            raise BnasLarqError(
                f"A fixed mixture has weights of the shape of α, {tuple(alphas.shape)}. Received: "
                f"{'none' if weights is None else tuple(weights.shape)} for {draw.kind} cells. "
                "Give them to FixedMixture.assign."
            )
        return Mixture(tf.convert_to_tensor(weights))


def genotype_columns(cell: Cell, operations: Sequence[str], nodes: int) -> np.ndarray:
    """A genotype's cell as a path: columns of α, int32 [edges], `NO_EDGE` for those not kept.

    Raises:
        BnasLarqError: a cell of other nodes, or an operation that is no candidate.

    Example:
        >>> cell = Genotype.published("bnas_cifar").normal[:1]
        >>> genotype_columns(cell, SearchSpace.bnas().normal, nodes=1).tolist()
        [1, 1]
    """
    kept = {(node, edge.state): edge.op for node, edges in enumerate(cell) for edge in edges}
    unknown = sorted(set(kept.values()) - set(operations))
    if unknown or len(cell) != nodes:
        raise BnasLarqError(
            f"A path is a genotype of the supernet's space, with {nodes} nodes in a cell. "
            f"Received: {len(cell)} nodes, operations outside the space: "
            f"{', '.join(unknown) or 'none'}. Take a genotype of that space."
        )
    columns = [
        operations.index(kept[edge]) if edge in kept else NO_EDGE for edge in edges_of_cell(nodes)
    ]
    return np.array(columns, np.int32)
