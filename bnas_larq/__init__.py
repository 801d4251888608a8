"""bnas_larq: search, train and publish neural networks made for 1-bit weights and activations.

    from bnas_larq import SearchSpace, SuperNet, AnnealedEntropy, Genotype, build_network

Names are imported when they are first used, so that light parts (genotypes, recipes) need no
TensorFlow.
"""

from __future__ import annotations

from bnas_larq.lazy import lazy_names

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

__getattr__, __dir__, __all__ = lazy_names(__name__, _HOMES)
