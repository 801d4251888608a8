"""A cost-aware search: the expected cost of the network that α stand for, as a term of their loss.

The network whose cost is expected is the final one, of a stated size, drawn from α like this:

- A node keeps as many edges as the search space says, not all that the supernet has. Every edge has
  the strength π that the discretiser compares (the largest share of its candidates), and a set S of
  edges is kept with probability ∝ Π_{e∈S} π_e · Π_{e∉S} (1 − π_e): conditional Poisson sampling
  (Hájek 1964). Edges of equal strength are kept equally often, so that an undecided search expects
  kept/all of the sum over a node's edges; as α decide, the kept edges become those of
  `bnas_larq.discretize.ArgmaxDiscretizer`.
- A kept edge draws its candidate by its shares, so that its cost is Σ p·cost, as in SNAS (arXiv
  1812.09926) and ProxylessNAS (arXiv 1812.00332, §3.3).
- Stems, shortcuts and the classifier are always there; the preprocessing of a cell's input as often
  as something reads it, and a cell as often as a later one or the classifier reads it. Where cells
  have no shortcuts, the latter takes the choices of cells as independent, which those of one kind
  are not; it is right once α have decided.

So where α have decided, the expected cost is the cost of the derived genotype's network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bnas_larq.backend import register, tf
from bnas_larq.costs import candidate_costs
from bnas_larq.costs.latency_tables import LatencyTable
from bnas_larq.errors import BnasLarqError, nearest
from bnas_larq.networks.network import NetworkConfig
from bnas_larq.settings import CostTermSettings
from bnas_larq.spaces import ZEROISE, SearchSpace

if TYPE_CHECKING:
    from bnas_larq.supernet.super_net import SuperNet


MEASURES = ("ops", "bytes", "latency")


@register
class ExpectedCost:
    """w·max(0, log((E − c)/(T − c)))²: E the expected cost, T its target, c what all networks cost.

    The cost enters as the logarithm of its ratio to a target, and only above the target, as in
    MnasNet (arXiv 1807.11626, §3.1: accuracy·(cost/T)^w, with w = 0 up to T); a network that is
    cheaper than its budget needs no push. What no α changes is taken off both sides (ours): the
    shortcuts alone are most of a BNAS network's OPs, and beside them the rest would hardly count.
    Squared (ours), so that the gradient falls to 0 at the target instead of changing its sign there
    at each step; the price is that E comes to rest a little above T, the less the larger w is.

    Args:
        space: of the search.
        network: size of the final network; its `shortcut` counts, not the search space's.
        measure: `"ops"` (full-precision MACs, shortcuts included, + 1-bit MACs / 64), `"bytes"` (as
            deployed), or `"latency"` (milliseconds of `table`).
        target: T, in the measure's unit.
        weight: w.
        table: for `"latency"`, else None.
        gamma: Zeroise's shares are divided by it, as when the genotype is derived.
        zeroise_competes: False leaves Zeroise out, as when the genotype is derived.

    Call arguments:
        normal, reduce: each edge's distribution over its candidates, [edges, operations].
        edge_weights: None, or (normal, reduce) weights [edges] that multiply the edges' strengths
            (PC-DARTS' edge normalisation).

    Output: scalar, float32.

    Raises:
        BnasLarqError: an unknown measure, no positive weight, a target that no network can reach, a
            table that is missing or not needed, or one that lacks a candidate.
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
                "Leave the term out to switch it off."
            )
        if (measure == "latency") != (table is not None):
            raise BnasLarqError(
                "A table of latencies goes with the measure 'latency', and no other. "
                f"Received: measure {measure!r} {'without a' if table is None else 'with a'} table."
                " Give search.cost.table a file of milliseconds by operation, or leave it away."
            )
        self.space, self.network = space, network
        self.measure, self.target, self.weight = measure, float(target), float(weight)
        self.table, self.gamma, self.zeroise_competes = table, gamma, zeroise_competes
        if table is not None:
            table.check_holds(dict.fromkeys(space.normal + space.reduce))
            price = candidate_costs.latency(table)
        else:
            price = candidate_costs.ops if measure == "ops" else candidate_costs.stored_bytes
        self._costs = candidate_costs.candidate_costs(space, network, price)
        if target <= (least := self._costs.least):
            raise BnasLarqError(
                "A target is above what stem, shortcuts and classifier cost in any case. "
                f"Received: target={target:g} for {least:g} ({measure}) of a network of "
                f"{network.cells} cells and {network.channels} channels. Raise the target, or "
                "search for a smaller network."
            )

    @classmethod
    def from_settings(
        cls,
        settings: CostTermSettings,
        space: SearchSpace,
        network: NetworkConfig,
        *,
        gamma: float = 1.0,
        zeroise_competes: bool = True,
    ) -> ExpectedCost:
        """The term of a recipe.

        Args:
            space, network: as of the class.
            gamma, zeroise_competes: as of the class.

        Raises:
            BnasLarqError: as of the class; or the table cannot be read.
        """
        return cls(
            space,
            network,
            measure=settings.measure,
            target=settings.target,
            weight=settings.weight,
            table=None if settings.table is None else LatencyTable.load(settings.table),
            gamma=gamma,
            zeroise_competes=zeroise_competes,
        )

    def __call__(
        self,
        normal: tf.Tensor,
        reduce: tf.Tensor,
        edge_weights: tuple[tf.Tensor, tf.Tensor] | None = None,
    ) -> tf.Tensor:
        ratio = self._searched(normal, reduce, edge_weights)
        # In this order: the logarithm of 0 has no gradient to be multiplied by 0.
        return self.weight * tf.square(tf.math.log(tf.maximum(ratio, 1.0)))

    def expected(
        self,
        normal: tf.Tensor,
        reduce: tf.Tensor,
        edge_weights: tuple[tf.Tensor, tf.Tensor] | None = None,
    ) -> tf.Tensor:
        """E in the measure's unit: OPs, bytes or milliseconds for one image; scalar, float32."""
        return self._costs.least + self._searched(normal, reduce, edge_weights) * self._room

    # -- the expectation ---------------------------------------------------------------------------

    @property
    def _room(self) -> float:
        return self.target - self._costs.least

    def _searched(self, normal, reduce, edge_weights) -> tf.Tensor:
        """(E − c)/(T − c): of order 1, so that the costs' size does no harm in float32."""
        weights = edge_weights or (None, None)
        kinds = {
            reduction: self._kept(tf.cast(shares, tf.float32), names, factors)
            for reduction, shares, names, factors in (
                (False, normal, self.space.normal, weights[0]),
                (True, reduce, self.space.reduce, weights[1]),
            )
        }
        read = {reduction: self._read(kept, reduction) for reduction, kept in kinds.items()}
        cells, alive = self._costs.cells, self._alive(read)
        total = tf.constant(0.0)
        for index, cell in enumerate(cells):
            cost = tf.reduce_sum(kinds[cell.reduction] * self._relative(cell.edges))
            cost += tf.reduce_sum(read[cell.reduction] * self._relative(cell.inputs))
            total += alive[index] * cost
        # All other parts, a shortcut's cells too, are in all networks.
        for cost in self._costs.stems[1:]:
            total += alive[-1] * self._relative(cost)
        return total

    def _relative(self, cost: float | np.ndarray) -> tf.Tensor:
        return tf.constant(np.asarray(cost) / self._room, tf.float32)

    def _kept(
        self, shares: tf.Tensor, names: Sequence[str], factors: tf.Tensor | None
    ) -> tf.Tensor:
        """Probability that an edge is kept with a candidate, [edges, operations]."""
        if ZEROISE in names:
            zeroise = 1.0 / self.gamma if self.zeroise_competes else 0.0
            shares *= tf.constant([zeroise if name == ZEROISE else 1.0 for name in names])
        strengths = tf.reduce_max(shares, axis=1)
        if factors is not None:
            strengths *= factors
        owners = [node for node, _ in self.space.edges]
        sizes = [owners.count(node) for node in range(self.space.nodes)]
        kept = [inclusion(part, self.space.edges_per_node) for part in tf.split(strengths, sizes)]
        drawn = tf.math.divide_no_nan(shares, tf.reduce_sum(shares, axis=1, keepdims=True))
        return tf.concat(kept, axis=0)[:, None] * drawn

    def _read(self, kept: tf.Tensor, reduction: bool) -> tf.Tensor:
        """Probabilities [2] that an edge which adds something reads the older, the newer input."""
        names = self.space.reduce if reduction else self.space.normal
        adds = tf.constant([float(name != ZEROISE) for name in names])
        # A node has one edge from each state, and nodes draw independently.
        unread = 1.0 - tf.linalg.matvec(kept, adds)
        rows = [
            [row for row, (_, state) in enumerate(self.space.edges) if state == which]
            for which in (0, 1)
        ]
        return 1.0 - tf.stack([tf.reduce_prod(tf.gather(unread, one)) for one in rows])

    def _alive(self, read: Mapping[bool, tf.Tensor]) -> dict[int, tf.Tensor]:
        """Probability that a cell's output is read on the way to the classifier; −1 and −2: the
        newer and the older stem. The rules are `planned_costs`'s."""
        last = len(self._costs.cells) - 1
        unread = {index: tf.constant(1.0) for index in range(-2, last)}
        unread[last] = tf.constant(0.0)
        for index in range(last, -1, -1):
            cell, (older, newer) = self._costs.cells[index], tf.unstack(read[False])
            if cell.reduction:
                older, newer = tf.unstack(read[True])
            # A cell that reads nothing takes the shape of its zeros from the newer input.
            newer = tf.constant(1.0) if cell.has_shortcut else newer + (1 - older) * (1 - newer)
            alive = 1.0 - unread[index]
            unread[index - 1] *= 1.0 - alive * newer
            unread[index - 2] *= 1.0 - alive * older
        return {index: 1.0 - value for index, value in unread.items()}

    # -- serialisation -----------------------------------------------------------------------------

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
    """The final network of a supernet's own size, for the images that it was built for."""
    config = supernet.get_config()
    shape = config["input_shape"]
    if shape is None:
        raise BnasLarqError(
            "Costs are counted for a fixed input size. Received: a supernet made without "
            "input_shape. Give it one, or the size of the final network."
        )
    keys = ("num_classes", "cells", "channels", "stem", "padding", "scheme")
    return NetworkConfig(
        input_shape=shape,
        shortcut=supernet.space.shortcut,
        **{key: config[key] for key in keys},
    )


#: Strengths are kept this far from 0 and 1, where the odds of two edges would be 0/0 or ∞/∞.
_MARGIN = 1e-6


def inclusion(strengths: tf.Tensor, keep: int) -> tf.Tensor:
    """Probability of each edge to be kept, when independent choices keep exactly `keep` of them.

    Source: conditional Poisson sampling (J. Hájek, Annals of Mathematical Statistics 35, 1964).

    Args:
        strengths: [edges], probability of each choice, from 0 to 1.
        keep: 1 or 2.

    Returns:
        [edges], which sum to `keep`.
    """
    strengths = tf.clip_by_value(strengths, _MARGIN, 1.0 - _MARGIN)
    odds = strengths / (1.0 - strengths)
    if keep == 1:
        return odds / tf.reduce_sum(odds)
    # Pairs are summed as such: differences of sums would lose what small odds add to large ones.
    pairs = odds[:, None] * odds[None, :]
    pairs = tf.linalg.set_diag(pairs, tf.zeros_like(odds))
    return 2.0 * tf.reduce_sum(pairs, axis=1) / tf.reduce_sum(pairs)
