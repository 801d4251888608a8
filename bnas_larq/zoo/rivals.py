"""The binary networks that the papers are measured against: backbone, scheme, and what their
authors reported. Nobody has measured them with this package.

`bnas_larq.zoo.factories` builds them. The backbones are ResNet-18 and 34 with blocks of two
convolutions, whose 1×1 shortcuts are binary, as most papers count them (arXiv 2003.11535, table 1),
or Bi-Real Net's with a real shortcut around each convolution (arXiv 1808.00278, §4.1).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bnas_larq.zoo.variants import Reported

if TYPE_CHECKING:
    from bnas_larq.networks.residual_network import ResidualConfig

_WIDTHS = (64, 128, 256, 512)
#: Settings of `ResidualConfig`, by what papers call them.
BACKBONES: Mapping[str, Mapping[str, Any]] = {
    f"{family}{depth}": {
        "input_shape": (224, 224, 3),
        "num_classes": 1000,
        "widths": _WIDTHS,
        "blocks": tuple(blocks // convolutions for blocks in convolutions_of),
        "block_convolutions": convolutions,
        "transition": transition,
        "strided_blocks": True,
    }
    for depth, convolutions_of in ((18, (4, 4, 4, 4)), (34, (6, 8, 12, 6)))
    for family, convolutions, transition in (
        ("resnet", 2, "binary-conv"),
        ("bireal", 1, "pool-conv"),
    )
}
#: The order of a block and its nonlinearity.
_SIGN_FIRST = {"block_order": "sign-conv-bn-add-act", "nonlinearity": "none"}
_NORM_FIRST = {"block_order": "bn-sign-conv-act-add", "nonlinearity": "none"}


@dataclasses.dataclass(frozen=True)
class Rival:
    """One published binary network for ImageNet.

    Attributes:
        name: as in `bnas-larq cost`, such as `bireal18`.
        factory: the function of `bnas_larq.zoo` that builds it.
        backbone: a key of `BACKBONES`.
        network: settings of `ResidualConfig` beside the backbone's.
        reported: its authors' result, or whose run it was.
        source: the paper, and what it leaves open.
    """

    name: str
    factory: str
    backbone: str
    network: Mapping[str, Any]
    reported: Reported
    source: str

    def config(self, **overrides: Any) -> ResidualConfig:
        """Its size and template; keywords replace its own attributes, BnasLarqError if they are
        impossible."""
        from bnas_larq.networks.residual_network import ResidualConfig

        return ResidualConfig(**{**BACKBONES[self.backbone], **self.network, **overrides})


def _rival(
    name: str, factory: str, backbone: str, scheme: str, accuracy: tuple, source: str, order: dict
) -> Rival:
    network = {"scheme": scheme, **order}
    return Rival(name, factory, backbone, network, Reported("imagenet", *accuracy), source)


_ABC = "arXiv 1711.11294, with one base of weights and one of activations"
_ALL = (
    _rival(
        *(
            "binarynet-resnet18",
            "BinaryNetResNet18",
            "resnet18",
            "binarynet",
            (42.2, 67.1, "", 1.48e8),
        ),
        "arXiv 1602.02830; the result is ABC-Net's authors' run (1711.11294, table 3)",
        _SIGN_FIRST,
    ),
    _rival(
        *("xnornet-resnet18", "XNORNetResNet18", "resnet18", "xnor", (51.2, 73.2)),
        "arXiv 1603.05279, without K",
        {**_NORM_FIRST, "nonlinearity": "relu"},
    ),
    _rival(
        *("xnornet-plus-plus-resnet18", "XNORNetPlusPlusResNet18", "resnet18"),
        *("xnor-plus-plus", (57.1, 79.9, "", 1.63e8), "arXiv 1909.13863, case 4"),
        {**_NORM_FIRST, "nonlinearity": "relu"},
    ),
    _rival(
        *(
            "abcnet-resnet18",
            "ABCNetResNet18",
            "resnet18",
            "abc-net",
            (42.7, 67.6, "", 1.48e8),
            _ABC,
        ),
        _NORM_FIRST,
    ),
    _rival(
        *(
            "abcnet-resnet34",
            "ABCNetResNet34",
            "resnet34",
            "abc-net",
            (52.4, 76.5, "", 1.78e8),
            _ABC,
        ),
        _NORM_FIRST,
    ),
    _rival(
        *("bireal18", "BiRealNet18", "bireal18", "bi-real", (56.4, 79.5, "", 1.63e8)),
        "arXiv 1808.00278",
        _SIGN_FIRST,
    ),
    _rival(
        *("bireal34", "BiRealNet34", "bireal34", "bi-real", (62.2, 83.9, "", 1.93e8)),
        "arXiv 1808.00278",
        _SIGN_FIRST,
    ),
    _rival(
        *("pcnn-resnet18", "PCNNResNet18", "bireal18", "pcnn", (57.3, 80.0, "", 1.63e8)),
        "arXiv 1811.12755; one projection for each layer, whose number the paper leaves open",
        _SIGN_FIRST,
    ),
    _rival(
        *("bonn-bireal18", "BONNBiReal18", "bireal18", "bonn", (59.3, 81.6, "", 1.63e8)),
        "arXiv 1908.06314",
        {**_NORM_FIRST, "nonlinearity": "prelu"},
    ),
    _rival(
        *("real-to-bin18", "RealToBinResNet18", "bireal18", "real-to-binary", (65.4, 86.2)),
        "arXiv 2003.11535",
        {**_NORM_FIRST, "nonlinearity": "prelu"},
    ),
    _rival(
        *("reactnet18", "ReActNet18", "bireal18", "react", (65.9,)),
        "arXiv 2003.03488, its ResNet-18",
        {**_SIGN_FIRST, "nonlinearity": "rprelu"},
    ),
)
#: Every rival by its name.
RIVALS = {rival.name: rival for rival in _ALL}
