"""A cost-aware search: the expected cost of the network that α stand for, as a term of their loss.

The network is the final one, of a given size, drawn from α like this:

- A node keeps as many edges as the search space says. Every edge has the strength π that
  `ArgmaxDiscretizer` compares (the largest share of its candidates), and a set S is kept with
  probability ∝ Π_{e∈S} π_e · Π_{e∉S} (1 − π_e): conditional Poisson sampling (Hájek 1964). Edges of
  equal strength are kept equally often, so an undecided search expects kept/all of the sum over a
  node's edges; as α decide, the kept edges become those that the discretiser keeps.
- A kept edge draws its candidate by its shares, so that its cost is Σ p·cost, as in SNAS (arXiv
  1812.09926) and ProxylessNAS (arXiv 1812.00332, §3.3).
- Stems, shortcuts and the classifier are always there; the preprocessing of a cell's input as often
  as an edge reads it, and a cell as often as a later one or the classifier reads it. Without
  shortcuts, the latter takes the choices of cells as independent, although cells of one kind make
  the same; it is exact once α have decided.

So where α have decided, the expected cost is the cost of the derived genotype's network.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bnas_larq.backend import register, tf
from bnas_larq.costs.cost_walk import ChainCosts, candidate_cells, walk_network
from bnas_larq.costs.latency_tables import LatencyTable, Place
from bnas_larq.errors import BnasLarqError, nearest
from bnas_larq.genotype import Edge
from bnas_larq.networks.network import NetworkConfig
from bnas_larq.settings import CostTermSettings
from bnas_larq.spaces import NO_SHORTCUT, ZEROISE, SearchSpace

if TYPE_CHECKING:
    from bnas_larq.supernet.super_net import SuperNet


MEASURES = ("ops", "bytes", "latency")
#: Strengths are kept this far from 0 and 1, where the odds of two edges would be 0/0 or ∞/∞.
_MARGIN = 1e-6
#: Of the edges of a normal and of a reduction cell.
_EdgeWeights = tuple[tf.Tensor, tf.Tensor]


@register
class ExpectedCost:
    """w·max(0, log((E − c)/(T − c)))²: E the expected cost, T its target, c what all networks cost.

    The cost enters as the logarithm of its ratio to a target, and only above the target, as in
    MnasNet (arXiv 1807.11626, §3.1: accuracy·(cost/T)^w, with w = 0 up to T); a network that is
    cheaper than its budget needs no push. What no α changes is subtracted from both (ours): the
    shortcuts alone are most of a BNAS network's OPs, and beside them the rest would hardly count.
    Squared (ours), so that the gradient falls to 0 at the target instead of changing its sign there
    at each step; E therefore settles slightly above T, the closer the larger w is.

    Args:
        space: of the search.
        network: size of the final network; its `shortcut` counts, not the search space's.
        measure: `"ops"` (full-precision MACs including shortcuts + 1-bit MACs / 64), `"bytes"` (as
            deployed), or `"latency"` (milliseconds of `table`).
        target: T, in the measure's unit.
        weight: w.
        table: for `"latency"`, else None.
        gamma, zeroise_competes: as when the genotype is derived: Zeroise's shares are divided by γ,
            or left out.

    Call arguments:
        normal, reduce: each edge's distribution over its candidates, [edges, operations].
        edge_weights: None, or (normal, reduce) weights [edges] that multiply the edges' strengths
            (PC-DARTS' edge normalisation).

    Output: scalar, float32.

    Raises:
        BnasLarqError: an unknown measure, a weight that is not positive, a target that no network
            can reach, or a table that is missing, not needed or incomplete.

    Example:
        >>> network = NetworkConfig((32, 32, 3), num_classes=10, cells=5, channels=8)
        >>> cost = ExpectedCost(SearchSpace.bnas(), network, target=5e6, weight=1.0)
        >>> uniform = tf.fill([14, 7], 1 / 7)
        >>> f"{float(cost.expected(uniform, uniform)):.3g} {float(cost(uniform, uniform)):.2f}"
        '5.34e+06 1.49'
    """

    def __init__(
        self,
        space: SearchSpace,
        network: NetworkConfig,
        *,
        measure: str = "ops",
        target: float,
        weight: float = 0.1,
        table: LatencyTable | None = None,
        gamma: float = 1.0,
        zeroise_competes: bool = True,
    ) -> None:
        if measure not in MEASURES:
            raise BnasLarqError(
                "A cost is measured as 'ops', 'bytes' or 'latency'. "
                f"Received: {measure!r}; {nearest(str(measure), MEASURES)}"
            )
        if not (target > 0 and weight > 0 and gamma > 0):
            raise BnasLarqError(
                "A cost term needs a target, a weight and γ above 0. "
                f"Received: target={target}, weight={weight}, gamma={gamma}. "
                "Omit the term to switch it off."
            )
        if (measure == "latency") != (table is not None):
            raise BnasLarqError(
                "A latency table belongs to the measure 'latency', and to no other. "
                f"Received: measure {measure!r} {'without a' if table is None else 'with a'} table."
                " Give search.cost.table a file of milliseconds by operation, or omit it."
            )
        self.space, self.network = space, network
        self.measure, self.target, self.weight = measure, float(target), float(weight)
        self.table, self.gamma, self.zeroise_competes = table, gamma, zeroise_competes
        if table is not None:
            table.check_holds(dict.fromkeys(space.normal + space.reduce))
        self._prices = _price_network(space, network, _measured_by(measure, table))
        if target <= (least := self._prices.least):
            raise BnasLarqError(
                "A target must be above what stem, shortcuts and classifier always cost. "
                f"Received: target={target:g} for {least:g} ({measure}) of a network of "
                f"{network.cells} cells and {network.channels} channels. Raise the target, or "
                "search for a smaller network."
            )

    @classmethod
    def from_settings(
        cls, settings: CostTermSettings, space: SearchSpace, network: NetworkConfig, **others: Any
    ) -> ExpectedCost:
        """The term of a recipe; also raises BnasLarqError if the table cannot be read."""
        table = None if settings.table is None else LatencyTable.load(settings.table)
        return cls(space, network, table=table, **settings.model_dump(exclude={"table"}), **others)

    def __call__(
        self, normal: tf.Tensor, reduce: tf.Tensor, edge_weights: _EdgeWeights | None = None
    ) -> tf.Tensor:
        ratio = self._ratio(normal, reduce, edge_weights)
        # The maximum comes first: log(0) would have an infinite gradient.
        return self.weight * tf.square(tf.math.log(tf.maximum(ratio, 1.0)))

    def expected(
        self, normal: tf.Tensor, reduce: tf.Tensor, edge_weights: _EdgeWeights | None = None
    ) -> tf.Tensor:
        """E in the measure's unit: OPs, bytes or milliseconds for one image; scalar, float32."""
        return self._prices.least + self._ratio(normal, reduce, edge_weights) * self._room

    @property
    def _room(self) -> float:
        return self.target - self._prices.least

    def _ratio(self, normal, reduce, edge_weights) -> tf.Tensor:
        """(E − c)/(T − c): of order 1, where float32 is precise whatever the unit of the costs."""
        candidates = self.space.candidates
        kinds = zip((normal, reduce), candidates, edge_weights or (None, None), strict=True)
        kept = [
            self._kept(tf.cast(shares, tf.float32), names, weights)
            for shares, names, weights in kinds
        ]
        read = [self._read(*kind) for kind in zip(kept, candidates, strict=True)]
        alive = self._alive(read)
        total = tf.constant(0.0)
        for index, cell in enumerate(self._prices.cells):
            cost = tf.reduce_sum(kept[cell.reduction] * self._relative(cell.edges))
            cost += tf.reduce_sum(read[cell.reduction] * self._relative(cell.inputs))
            total += alive[index] * cost
        if self._prices.second_stem:
            total += alive[-1] * self._relative(self._prices.second_stem)
        return total

    def _relative(self, cost: float | np.ndarray) -> tf.Tensor:
        return tf.constant(np.asarray(cost) / self._room, tf.float32)

    def _kept(self, shares: tf.Tensor, names: Sequence[str], weights: Any) -> tf.Tensor:
        """Probability that an edge is kept with each candidate, [edges, operations]."""
        if ZEROISE in names:
            zeroise = 1.0 / self.gamma if self.zeroise_competes else 0.0
            shares *= tf.constant([zeroise if name == ZEROISE else 1.0 for name in names])
        strengths = tf.reduce_max(shares, axis=1)
        if weights is not None:
            strengths *= weights
        owners = [node for node, _ in self.space.edges]
        sizes = [owners.count(node) for node in range(self.space.nodes)]
        by_node = tf.split(strengths, sizes)
        kept = [inclusion(edges, self.space.edges_per_node) for edges in by_node]
        drawn = tf.math.divide_no_nan(shares, tf.reduce_sum(shares, axis=1, keepdims=True))
        return tf.concat(kept, axis=0)[:, None] * drawn

    def _read(self, kept: tf.Tensor, names: Sequence[str]) -> tf.Tensor:
        """Probabilities [2] that some edge other than Zeroise reads the older, the newer input."""
        adds = tf.constant([float(name != ZEROISE) for name in names])
        # A node has one edge from each state, and nodes draw independently.
        unread = 1.0 - tf.linalg.matvec(kept, adds)
        rows = [
            [row for row, (_, state) in enumerate(self.space.edges) if state == source]
            for source in (0, 1)
        ]
        return 1.0 - tf.stack([tf.reduce_prod(tf.gather(unread, edges)) for edges in rows])

    def _alive(self, read: Sequence[tf.Tensor]) -> dict[int, tf.Tensor]:
        """Probability that a cell's output reaches the classifier; −1 and −2 are the newer and the
        older stem. The rules are those of `planned_costs`."""
        last = len(self._prices.cells) - 1
        unread = {index: tf.constant(1.0) for index in range(-2, last)}
        unread[last] = tf.constant(0.0)
        for index in range(last, -1, -1):
            older, newer = tf.unstack(read[self._prices.cells[index].reduction])
            # A cell that reads nothing takes the shape of its zeros from the newer input.
            has_shortcut = self.network.shortcut != NO_SHORTCUT and index > 0
            newer = tf.constant(1.0) if has_shortcut else newer + (1 - older) * (1 - newer)
            alive = 1.0 - unread[index]
            unread[index - 1] *= 1.0 - alive * newer
            unread[index - 2] *= 1.0 - alive * older
        return {index: 1.0 - value for index, value in unread.items()}

    def get_config(self) -> dict[str, Any]:
        return {
            "space": self.space.to_dict(),
            "network": self.network.to_dict(),
            "measure": self.measure,
            "target": self.target,
            "weight": self.weight,
            "table": None if self.table is None else self.table.to_dict(),
            "gamma": self.gamma,
            "zeroise_competes": self.zeroise_competes,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ExpectedCost:
        """The inverse of `get_config`."""
        space = SearchSpace.from_dict(config["space"])
        network = NetworkConfig.from_dict(config["network"])
        table = None if config["table"] is None else LatencyTable.from_dict(config["table"])
        return cls(**{**config, "space": space, "network": network, "table": table})


def network_of(supernet: SuperNet) -> NetworkConfig:
    """The final network of the supernet's own size, for the images that it was built for."""
    config = supernet.get_config()
    if config["input_shape"] is None:
        raise BnasLarqError(
            "Costs are counted for a fixed input size. Received: a supernet made without "
            "input_shape. Give it one, or the size of the final network."
        )
    keys = ("input_shape", "num_classes", "cells", "channels", "groups")
    keys += ("stem", "padding", "scheme")
    return NetworkConfig(**{key: config[key] for key in keys}, shortcut=supernet.space.shortcut)


def inclusion(strengths: tf.Tensor, keep: int) -> tf.Tensor:
    """Probability that each edge is kept, given that independent choices, with these probabilities
    [edges] from 0 to 1, keep exactly `keep`, 1 or 2: [edges], which sum to `keep`.

    Source: conditional Poisson sampling (J. Hájek, Annals of Mathematical Statistics 35, 1964).
    """
    strengths = tf.clip_by_value(strengths, _MARGIN, 1.0 - _MARGIN)
    odds = strengths / (1.0 - strengths)
    if keep == 1:
        return odds / tf.reduce_sum(odds)
    # Summed over pairs: in a difference of sums, small odds would be lost beside large ones.
    pairs = odds[:, None] * odds[None, :]
    pairs = tf.linalg.set_diag(pairs, tf.zeros_like(odds))
    return 2.0 * tf.reduce_sum(pairs, axis=1) / tf.reduce_sum(pairs)


@dataclasses.dataclass(frozen=True)
class _CellPrices:
    """Costs of one cell: each candidate on each edge, [edges, operations], and the preprocessing of
    the older and the newer input, [2]."""

    reduction: bool
    edges: np.ndarray
    inputs: np.ndarray


@dataclasses.dataclass(frozen=True)
class _NetworkPrices:
    """Costs of everything that networks of one size can be made of: the cells, the half of the
    ImageNet stem that only the newer state needs, and what every network costs."""

    cells: tuple[_CellPrices, ...]
    second_stem: float
    least: float


#: (operation or part of the template, its chain of layers) → cost.
_Price = Callable[[str, ChainCosts], float]


def _measured_by(measure: str, table: LatencyTable | None) -> _Price:
    def milliseconds(name: str, chain: ChainCosts) -> float:
        rows, columns, _ = chain.input.shape
        output = chain.output.shape
        # The classifier's pool leaves no rows.
        stride = max(1, round(rows / output[0])) if len(output) == 3 else 1
        return table.milliseconds(name, Place(stride, output[-1], (rows, columns)))

    if measure == "latency":
        return milliseconds
    return lambda _, chain: chain.ops_honest if measure == "ops" else chain.bits / 8


def _price_network(space: SearchSpace, config: NetworkConfig, price: _Price) -> _NetworkPrices:
    network = walk_network(candidate_cells(space), config, dead_branches=True)
    cells = []
    for cell in network.cells:
        names = space.reduce if cell.plan.reduction else space.normal
        edges = np.zeros((len(space.edges), len(names)))
        for row, (node, state) in enumerate(space.edges):
            for column, name in enumerate(names):
                if name != ZEROISE:
                    edges[row, column] = price(name, cell.edges[node, Edge(name, state)])
        inputs = np.array([price("preprocess", chain) for chain in cell.inputs])
        cells.append(_CellPrices(cell.plan.reduction, edges, inputs))
    shortcuts = [cell.shortcut for cell in network.cells if cell.shortcut is not None]
    stem, *second = (price("stem", chain) for chain in network.stems)
    least = stem + price("classifier", network.classifier)
    least += sum(price("shortcut", chain) for chain in shortcuts if chain.layers)
    return _NetworkPrices(tuple(cells), sum(second), least)
