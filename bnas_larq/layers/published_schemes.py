"""Binarisation schemes of other systems, for final networks of any kind:

- `binarynet`: BinaryNet (arXiv 1602.02830): signs without scales, latent kernels in [-1, 1].
- `xnor-k`: XNOR-Net with the scale K of its input (arXiv 1603.05279, eq. 11); `xnor` omits it.
- `xnor-plus-plus`: XNOR-Net++ (arXiv 1909.13863) with scales of channels, rows and columns, for one
  image size; `xnor-plus-plus-channel` with those of channels alone.
- `bi-real`: Bi-Real Net (arXiv 1808.00278, eqs. 3, 6 and 7): the sign's gradient is a triangle,
  that of magnitude-aware kernels is larq's.
- `react`: ReActNet (arXiv 2003.03488): Bi-Real Net's with a threshold per channel in front of the
  sign. Its RPReLU is a setting of residual networks.
- `real-to-binary`: arXiv 2003.11535: signs without scales, a learned scale per channel, and another
  one computed from the convolution's real input.
- `binary-duo`: BinaryDuo's decoupled activations, 0 and 1, and kernels with one scale per layer
  (arXiv 2002.06517).
"""

from __future__ import annotations

import functools

from bnas_larq.backend import lq
from bnas_larq.errors import BnasLarqError
from bnas_larq.layers.activations import BoundedApproxSign
from bnas_larq.layers.context import PlusInput
from bnas_larq.layers.coupled_activation import ClippedRound
from bnas_larq.layers.layer_scale import LayerScaledSign
from bnas_larq.layers.merging import MixedPrecisionMultiply
from bnas_larq.layers.quantizers import Scheme, SignScale, nothing, register_scheme
from bnas_larq.layers.scaling import ChannelShift, InputScale, LearnedScale, gate


def _learned_scale(name: str, conv: lq.layers.QuantConv2D, *, case: int = 1) -> list[LearnedScale]:
    return [LearnedScale(case, name=f"{name}_scale")]


def _input_scale(name: str, conv: lq.layers.QuantConv2D) -> list[PlusInput]:
    if conv.padding != "same":
        raise BnasLarqError(
            "XNOR-Net's K is computed with SAME padding. "
            f"Received: padding={conv.padding!r} of {conv.name}. Use the scheme xnor, without K."
        )
    window = (conv.kernel_size[0], conv.strides[0], conv.dilation_rate[0])
    scale = InputScale(*window, name=f"{name}_input_scale")
    return [PlusInput(MixedPrecisionMultiply(name=f"{name}_scaled"), (scale,), conv)]


def _gated_scale(name: str, conv: lq.layers.QuantConv2D) -> list[LearnedScale | PlusInput]:
    gated = MixedPrecisionMultiply(name=f"{name}_gated")
    gating = PlusInput(gated, tuple(gate(f"{name}_gate", conv.filters)), conv)
    return [*_learned_scale(name, conv), gating]


def _threshold(name: str) -> list[ChannelShift]:
    return [ChannelShift(name=f"{name}_threshold")]


def _scheme(activation: type, kernel: object, **settings: object) -> Scheme:
    clip = functools.partial(lq.constraints.WeightClip, 1.0)
    return Scheme(activation, kernel, clip, **settings)


_signs = functools.partial(_scheme, lq.quantizers.SteSign, lq.quantizers.SteSign)
_bi_real = functools.partial(
    _scheme, BoundedApproxSign, lq.quantizers.MagnitudeAwareSign, own_sign=True
)

register_scheme("binarynet", _signs())
_xnor_kernel = functools.partial(SignScale, "xnor", False)
register_scheme(
    "xnor-k",
    _scheme(lq.quantizers.SteSign, _xnor_kernel, behind_signs=True, behind=_input_scale),
)
register_scheme(
    "xnor-plus-plus", _signs(one_size=True, behind=functools.partial(_learned_scale, case=4))
)
register_scheme("xnor-plus-plus-channel", _signs(behind=_learned_scale))
register_scheme("bi-real", _bi_real())
register_scheme("react", _bi_real(in_front=_threshold))
register_scheme("real-to-binary", _signs(behind=_gated_scale))
register_scheme(
    "binary-duo",
    Scheme(
        functools.partial(ClippedRound, 1),
        functools.partial(LayerScaledSign, "identity"),
        nothing,
        own_sign=True,
    ),
)
