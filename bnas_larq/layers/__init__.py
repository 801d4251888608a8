"""What final networks are made of: quantizers, schemes, candidate operations, stems, cells.

Importing any of its modules registers all layers, operations and schemes.
"""

from bnas_larq.backend import keras
from bnas_larq.layers import published_schemes  # noqa: F401 (registers them)
from bnas_larq.layers.abc_convolution import ABCConv2D
from bnas_larq.layers.abc_net import ABCKernel, ABCSign
from bnas_larq.layers.activations import AnnealedSign, BoundedApproxSign, RealActivation
from bnas_larq.layers.batch_norm import BatchNorm2D
from bnas_larq.layers.bayesian import (
    AtLeast,
    BayesianFeatureLoss,
    BayesianKernelLoss,
    BONNKernel,
    HeldBONNKernel,
)
from bnas_larq.layers.binary_convolution import BinaryConv2D, MixedPrecisionConv2D
from bnas_larq.layers.cells import DropPath
from bnas_larq.layers.circulant import CirculantQuantConv2D
from bnas_larq.layers.constraints import CenterClip
from bnas_larq.layers.convolutions import (
    RepeatChannels,
    SymmetricPooling2D,
    SymmetricQuantConv2D,
    Zeroise,
)
from bnas_larq.layers.coupled_activation import ClippedRound, MeanOfCopies, PadChannels
from bnas_larq.layers.layer_scale import LayerScaledSign
from bnas_larq.layers.margin_head import CenterLoss, MarginHead
from bnas_larq.layers.merging import (
    MixedPrecisionAdd,
    MixedPrecisionConcatenate,
    MixedPrecisionMultiply,
)
from bnas_larq.layers.operations import FactorizedReduction
from bnas_larq.layers.prelu import PReLU2D, RPReLU
from bnas_larq.layers.projected_convolution import ProjectedConv2D
from bnas_larq.layers.projection import HeldProjection, Magnitude, PCNNProjection, ProjectionLoss
from bnas_larq.layers.quantizers import DepthwiseQuantizer, SignScale
from bnas_larq.layers.residual_blocks import BlurPool2D
from bnas_larq.layers.scaling import ChannelShift, InputScale, LearnedScale

# In .h5 files, nested models name their layers, and larq its quantizers and constraints, without
# the namespace that `register` gives them.
_BARE_NAMES = (
    *(BinaryConv2D, DropPath, FactorizedReduction, SymmetricPooling2D, SymmetricQuantConv2D),
    *(Zeroise, CenterClip, DepthwiseQuantizer, Magnitude, PCNNProjection, ProjectionLoss),
    *(SignScale, RepeatChannels, BlurPool2D, PReLU2D, RPReLU),
    *(AnnealedSign, BoundedApproxSign, HeldProjection, RealActivation),
    *(MixedPrecisionConv2D, LearnedScale, InputScale, ChannelShift, BatchNorm2D),
    *(MixedPrecisionAdd, MixedPrecisionConcatenate, MixedPrecisionMultiply),
    *(CirculantQuantConv2D, ClippedRound, LayerScaledSign, MeanOfCopies, PadChannels),
    *(ABCConv2D, ABCKernel, ABCSign),
    *(AtLeast, BONNKernel, BayesianFeatureLoss, BayesianKernelLoss, HeldBONNKernel),
    *(CenterLoss, MarginHead, ProjectedConv2D),
)
keras.utils.get_custom_objects().update({part.__name__: part for part in _BARE_NAMES})
