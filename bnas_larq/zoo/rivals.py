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
        reported: its result.
        source: the paper, and what it leaves open.
        reporter: whose result it is.
    """

    name: str
    factory: str
    backbone: str
    network: Mapping[str, Any]
    reported: Reported
    source: str
    reporter: str = "Its authors"

    def config(self, **overrides: Any) -> ResidualConfig:
        """Its size and template; keywords replace its own attributes, BnasLarqError if they are
        impossible."""
        from bnas_larq.networks.residual_network import ResidualConfig

        return ResidualConfig(**{**BACKBONES[self.backbone], **self.network, **overrides})


_ABC = "arXiv 1711.11294, with one base of weights and one of activations"
_ALL = (
    Rival(
        name="binarynet-resnet18",
        factory="BinaryNetResNet18",
        backbone="resnet18",
        network={"scheme": "binarynet", **_SIGN_FIRST},
        reported=Reported("imagenet", 42.2, 67.1, ops=1.48e8),
        source="arXiv 1602.02830",
        reporter="ABC-Net's authors (arXiv 1711.11294, table 3)",
    ),
    Rival(
        name="xnornet-resnet18",
        factory="XNORNetResNet18",
        backbone="resnet18",
        network={"scheme": "xnor", **_NORM_FIRST, "nonlinearity": "relu"},
        reported=Reported("imagenet", 51.2, 73.2),
        source="arXiv 1603.05279, without K",
    ),
    Rival(
        name="xnornet-plus-plus-resnet18",
        factory="XNORNetPlusPlusResNet18",
        backbone="resnet18",
        network={"scheme": "xnor-plus-plus", **_NORM_FIRST, "nonlinearity": "relu"},
        reported=Reported("imagenet", 57.1, 79.9, ops=1.63e8),
        source="arXiv 1909.13863, case 4",
    ),
    Rival(
        name="abcnet-resnet18",
        factory="ABCNetResNet18",
        backbone="resnet18",
        network={"scheme": "abc-net", **_NORM_FIRST},
        reported=Reported("imagenet", 42.7, 67.6, ops=1.48e8),
        source=_ABC,
    ),
    Rival(
        name="abcnet-resnet34",
        factory="ABCNetResNet34",
        backbone="resnet34",
        network={"scheme": "abc-net", **_NORM_FIRST},
        reported=Reported("imagenet", 52.4, 76.5, ops=1.78e8),
        source=_ABC,
    ),
    Rival(
        name="bireal18",
        factory="BiRealNet18",
        backbone="bireal18",
        network={"scheme": "bi-real", **_SIGN_FIRST},
        reported=Reported("imagenet", 56.4, 79.5, ops=1.63e8),
        source="arXiv 1808.00278",
    ),
    Rival(
        name="bireal34",
        factory="BiRealNet34",
        backbone="bireal34",
        network={"scheme": "bi-real", **_SIGN_FIRST},
        reported=Reported("imagenet", 62.2, 83.9, ops=1.93e8),
        source="arXiv 1808.00278",
    ),
    Rival(
        name="pcnn-resnet18",
        factory="PCNNResNet18",
        backbone="bireal18",
        network={"scheme": "pcnn", **_SIGN_FIRST},
        reported=Reported("imagenet", 57.3, 80.0, ops=1.63e8),
        source="arXiv 1811.12755; one projection per layer, as the paper leaves their number open",
    ),
    Rival(
        name="bonn-bireal18",
        factory="BONNBiReal18",
        backbone="bireal18",
        network={"scheme": "bonn", **_NORM_FIRST, "nonlinearity": "prelu"},
        reported=Reported("imagenet", 59.3, 81.6, ops=1.63e8),
        source="arXiv 1908.06314",
    ),
    Rival(
        name="real-to-bin18",
        factory="RealToBinResNet18",
        backbone="bireal18",
        network={"scheme": "real-to-binary", **_NORM_FIRST, "nonlinearity": "prelu"},
        reported=Reported("imagenet", 65.4, 86.2),
        source="arXiv 2003.11535",
    ),
    Rival(
        name="reactnet18",
        factory="ReActNet18",
        backbone="bireal18",
        network={"scheme": "react", **_SIGN_FIRST, "nonlinearity": "rprelu"},
        reported=Reported("imagenet", 65.9),
        source="arXiv 2003.03488, its ResNet-18",
    ),
)
#: Every rival by its name.
RIVALS = {rival.name: rival for rival in _ALL}
