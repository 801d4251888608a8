"""Operations of many genotypes, in the size of one final network."""

from __future__ import annotations

import functools
from collections.abc import Callable

from bnas_larq.costs.cost_walk import planned_costs
from bnas_larq.genotype import Genotype
from bnas_larq.networks.network import NetworkConfig


def ops_counter(config: NetworkConfig) -> Callable[[Genotype], float]:
    """From a genotype to the operations of its network for one image, counted honestly; results are
    remembered.

    Example:
        >>> ops = ops_counter(NetworkConfig(cells=3, channels=4))
        >>> ops(Genotype.published("bnas_cifar"))
        1397888.0
    """
    cache: dict = {}

    @functools.lru_cache(maxsize=100_000)
    def ops(genotype: Genotype) -> float:
        return float(planned_costs(genotype, config, cache=cache).ops_honest)

    return ops
