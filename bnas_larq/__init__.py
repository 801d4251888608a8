"""bnas_larq: search, train and publish neural networks made for 1-bit weights and activations.

    from bnas_larq import Run, SearchSpace, SuperNet, AnnealedEntropy, Genotype, build_network

Names are imported on first use: genotypes and recipes need no TensorFlow.
"""

from __future__ import annotations

import os

from bnas_larq.lazy import lazy_names

# Larq needs Keras 2, which TensorFlow provides only if this is set before `tf.keras` is touched:
# importing bnas_larq before `from tensorflow import keras` is enough. `backend` checks it.
os.environ["TF_USE_LEGACY_KERAS"] = "1"

_HOMES = {
    "AnnealedEntropy": "bnas_larq.supernet.architecture",
    "ArgmaxDiscretizer": "bnas_larq.discretize",
    "BnasLarqError": "bnas_larq.errors",
    "Edge": "bnas_larq.genotype",
    "Genotype": "bnas_larq.genotype",
    "NetworkConfig": "bnas_larq.networks.network",
    "Run": "bnas_larq.run.recipe_run",
    "SearchSpace": "bnas_larq.spaces",
    "SuperNet": "bnas_larq.supernet.super_net",
    "build_network": "bnas_larq.networks.network",
    "count_costs": "bnas_larq.costs.accounting",
    "load_dataset": "bnas_larq.data",
    "planned_costs": "bnas_larq.costs.cost_walk",
    "register_operation": "bnas_larq.layers.operations",
    "solve_budget": "bnas_larq.costs.budget_solver",
}

__getattr__, __dir__, __all__ = lazy_names(__name__, _HOMES)
