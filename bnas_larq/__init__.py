"""bnas_larq: search, train and publish neural networks made for 1-bit weights and activations.

    from bnas_larq import SearchSpace, SuperNet, AnnealedEntropy, Genotype, build_network

Names are imported when they are first used, so that light parts (genotypes, recipes) need no
TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "AnnealedEntropy": "bnas_larq.models.diversity",
    "ArgmaxDiscretizer": "bnas_larq.discretize",
    "BnasLarqError": "bnas_larq.errors",
    "Edge": "bnas_larq.genotype",
    "Genotype": "bnas_larq.genotype",
    "NetworkConfig": "bnas_larq.models.network",
    "SearchSpace": "bnas_larq.spaces",
    "SuperNet": "bnas_larq.models.supernet",
    "build_network": "bnas_larq.models.network",
    "count_costs": "bnas_larq.models.costs",
    "load_dataset": "bnas_larq.data",
    "register_operation": "bnas_larq.layers.operations",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
