"""bnas_larq: search, train and publish neural networks made for 1-bit weights and activations.

    from bnas_larq import Run, SearchSpace, SuperNet, AnnealedEntropy, Genotype, build_network

Names are imported on first use: genotypes and recipes need no TensorFlow.
"""

from __future__ import annotations

import os

from bnas_larq.lazy import lazy_classes, lazy_names

# Larq needs Keras 2, which TensorFlow provides only if this is set before `tf.keras` is touched:
# importing bnas_larq before `from tensorflow import keras` is enough. `backend` checks it.
os.environ["TF_USE_LEGACY_KERAS"] = "1"

# TensorFlow itself uses oneDNN only on CPUs with AVX-512. Without it dilated and grouped
# convolutions have no gradients on CPUs and are taken apart, and a search takes 1.7 times as long.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

_HOMES = {
    "AnnealedEntropy": "bnas_larq.supernet.architecture",
    "ArgmaxDiscretizer": "bnas_larq.discretize",
    "BnasLarqError": "bnas_larq.errors",
    "Edge": "bnas_larq.genotype",
    "Genotype": "bnas_larq.genotype",
    "NetworkConfig": "bnas_larq.networks.network",
    "ResidualConfig": "bnas_larq.networks.residual_network",
    "Run": "bnas_larq.run.recipe_run",
    "SearchSpace": "bnas_larq.spaces",
    "SuperNet": "bnas_larq.supernet.super_net",
    "TrainStage": "bnas_larq.train_settings",
    "build_binary_duo": "bnas_larq.networks.binary_duo",
    "build_network": "bnas_larq.networks.network",
    "build_residual_network": "bnas_larq.networks.residual_network",
    "count_costs": "bnas_larq.costs.accounting",
    "decouple": "bnas_larq.networks.binary_duo",
    "load_dataset": "bnas_larq.data",
    "planned_costs": "bnas_larq.costs.cost_walk",
    "register_operation": "bnas_larq.layers.operations",
    "scale_widths": "bnas_larq.costs.budget_solver",
    "solve_budget": "bnas_larq.costs.budget_solver",
}

#: Classes that saved models may name, by a module that registers them; only those of the first two
#: without the namespace.
_CLASSES = {
    "bnas_larq.backend": (
        # Larq's own.
        *("QuantConv1D", "QuantConv2D", "QuantConv2DTranspose", "QuantConv3D", "QuantDense"),
        *("QuantConv3DTranspose", "QuantDepthwiseConv2D", "QuantLocallyConnected1D"),
        *("QuantLocallyConnected2D", "QuantSeparableConv1D", "QuantSeparableConv2D"),
        *("ApproxSign", "DoReFa", "MagnitudeAwareSign", "NoOp", "SteHeaviside", "SteSign"),
        *("SteTern", "SwishSign", "approx_sign", "dorefa_quantizer", "magnitude_aware_sign"),
        *("ste_heaviside", "ste_sign", "ste_tern", "swish_sign", "WeightClip", "weight_clip"),
        *("Bop", "CaseOptimizer", "FlipRatio", "flip_ratio", "hard_tanh", "leaky_tanh"),
    ),
    "bnas_larq.layers": (
        *("AnnealedSign", "BatchNorm2D", "BinaryConv2D", "BlurPool2D", "BoundedApproxSign"),
        *("CenterClip", "ChannelShift", "MixedPrecisionAdd", "MixedPrecisionConcatenate"),
        *("DepthwiseQuantizer", "DropPath", "EdgewiseConv2D"),
        *("FactorizedReduction", "HeldProjection", "InputScale", "LearnedScale", "Magnitude"),
        *("MixedPrecisionConv2D", "MixedPrecisionMultiply", "PCNNProjection", "PReLU2D"),
        *("PlainBatchNormalization", "ProjectionLoss"),
        *("RPReLU", "RealActivation", "RepeatChannels", "SignScale", "SymmetricPooling2D"),
        *("SymmetricQuantConv2D", "Zeroise"),
        *("CirculantQuantConv2D", "ClippedRound", "LayerScaledSign", "MeanOfCopies", "PadChannels"),
        *("ABCConv2D", "ABCKernel", "ABCSign", "AtLeast", "BONNKernel", "BayesianFeatureLoss"),
        *("BayesianKernelLoss", "CenterLoss", "HeldBONNKernel", "MarginHead"),
        "ProjectedConv2D",
    ),
    "bnas_larq.networks.optimizers": ("CoupledAdam", "CoupledSGD"),
    "bnas_larq.training.schedules": ("OneCycle", "OneCycleMomentum", "WarmUp"),
    "bnas_larq.costs.expected_cost": ("ExpectedCost",),
    "bnas_larq.supernet.super_net": (
        *("AnnealedEntropy", "Concrete", "FirstOrder", "GumbelHard", "SecondOrder"),
        *("SingleLevel", "Softmax", "SuperNet", "TemperatureSchedule"),
    ),
    "bnas_larq.supernet.fixed_choices": ("FixedMixture", "FixedPath"),
}
lazy_classes(
    {
        f"{package}{name}": home
        for home, names in _CLASSES.items()
        for name in names
        for package in ("", "bnas_larq>")
        if package or home in ("bnas_larq.backend", "bnas_larq.layers")
    }
)

__getattr__, __dir__, __all__ = lazy_names(__name__, _HOMES)
