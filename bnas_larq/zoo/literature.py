"""The binary networks that the papers are measured against: backbone or cells, scheme, and what
their authors reported. Nobody has measured them with this package.

`bnas_larq.zoo.factories` builds them. The backbones are ResNet-18 and 34 with blocks of two
convolutions, whose 1×1 shortcuts are binary, as most papers count them (arXiv 2003.11535, table 1),
or Bi-Real Net's with a real shortcut around each convolution (arXiv 1808.00278, §4.1). BinaryDuo's
and CBCN's are of that kind, in sizes of their own. BATS' networks are made of its published cells.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bnas_larq.genotype import PUBLISHED, Genotype
from bnas_larq.zoo.variants import Reported

if TYPE_CHECKING:
    from bnas_larq.networks.base_config import BaseConfig

_IMAGES = {"input_shape": (224, 224, 3), "num_classes": 1000}
_WIDTHS = (64, 128, 256, 512)
_RESNETS = {
    f"{family}{depth}": {
        **_IMAGES,
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
#: Settings of `ResidualConfig`, by what papers call them; with a `kind`, of that kind of network.
BACKBONES: Mapping[str, Mapping[str, Any]] = {
    **_RESNETS,
    # Four orientations of each of Bi-Real Net's channels, and shortcuts with their 1×1 first.
    "cbcn18": {
        **_RESNETS["bireal18"],
        "widths": tuple(4 * width for width in _WIDTHS),
        "transition": "conv-pool",
    },
    "binary-duo18": {
        **_IMAGES,
        "kind": "binary-duo",
        "widths": (64, 90, 180, 360),
        "blocks": (4, 4, 4, 4),
        "last_width": 512,
    },
}
#: The order of a block and its nonlinearity.
_SIGN_FIRST = {"block_order": "sign-conv-bn-add-act", "nonlinearity": "none"}
_NORM_FIRST = {"block_order": "bn-sign-conv-act-add", "nonlinearity": "none"}


@dataclasses.dataclass(frozen=True)
class LiteratureNetwork:
    """One published binary network for ImageNet.

    Attributes:
        name: as in `bnas-larq cost`, such as `bireal18`.
        factory: the function of `bnas_larq.zoo` that builds it.
        backbone: a key of `BACKBONES`, or the name of published cells.
        network: settings of `ResidualConfig` beside the backbone's, or of `NetworkConfig`.
        reported: its result.
        source: the paper, and what it leaves open.
        reporter: whose result it is.
        count: how operations are counted, where papers differ.
    """

    name: str
    factory: str
    backbone: str
    network: Mapping[str, Any]
    reported: Reported
    source: str
    reporter: str = "Its authors"
    count: str = ""

    @property
    def scheme(self) -> str:
        """Its binarisation scheme; BinaryDuo's kind of network has that of its name."""
        return self.network.get("scheme") or BACKBONES[self.backbone]["kind"]

    def load_genotype(self) -> Genotype | None:
        """Its cells; None for a residual network."""
        return Genotype.published(self.backbone) if self.backbone in PUBLISHED else None

    def config(self, **overrides: Any) -> BaseConfig:
        """Its size and template; keywords replace its own attributes, BnasLarqError if they are
        impossible. The CIFAR stem is a single convolution: there is nothing to group."""
        from bnas_larq.networks.network import KINDS, NetworkConfig

        if self.backbone in BACKBONES:
            backbone = BACKBONES[self.backbone]
            settings = {"kind": "residual", **backbone, **self.network, **overrides}
            return KINDS[settings.pop("kind")].from_dict(settings)
        settings = {**_IMAGES, **self.network, **overrides}
        config = NetworkConfig.from_dict({**settings, "stem_groups": 1})
        groups = settings["stem_groups"]
        grouped = config.stem == "imagenet" or "stem_groups" in overrides
        return config.replace(stem_groups=groups) if grouped else config


#: BATS' template. The stem has a group for each 20 channels.
_BATS = {"scheme": "binarynet", "shortcut": "none", "preprocess": "prelu", "cells": 14}
_BATS_SOURCE = "arXiv 2003.01711, without its auxiliary classifier"
_ABC = "arXiv 1711.11294, with one base of weights and one of activations"
_FIVE = "arXiv 1711.11294, with five bases of weights and five of activations"
_ALL = (
    LiteratureNetwork(
        name="binarynet-resnet18",
        factory="BinaryNetResNet18",
        backbone="resnet18",
        network={"scheme": "binarynet", **_SIGN_FIRST},
        reported=Reported("imagenet", 42.2, 67.1, ops=1.48e8),
        source="arXiv 1602.02830",
        reporter="ABC-Net's authors (arXiv 1711.11294, table 3)",
    ),
    LiteratureNetwork(
        name="xnornet-resnet18",
        factory="XNORNetResNet18",
        backbone="resnet18",
        network={"scheme": "xnor", **_NORM_FIRST, "nonlinearity": "relu"},
        reported=Reported("imagenet", 51.2, 73.2),
        source="arXiv 1603.05279, without K",
    ),
    LiteratureNetwork(
        name="xnornet-plus-plus-resnet18",
        factory="XNORNetPlusPlusResNet18",
        backbone="resnet18",
        network={"scheme": "xnor-plus-plus", **_NORM_FIRST, "nonlinearity": "relu"},
        reported=Reported("imagenet", 57.1, 79.9, ops=1.63e8),
        source="arXiv 1909.13863, case 4",
    ),
    LiteratureNetwork(
        name="abcnet-resnet18",
        factory="ABCNetResNet18",
        backbone="resnet18",
        network={"scheme": "abc-net", **_NORM_FIRST},
        reported=Reported("imagenet", 42.7, 67.6, ops=1.48e8),
        source=_ABC,
    ),
    LiteratureNetwork(
        name="abcnet-resnet34",
        factory="ABCNetResNet34",
        backbone="resnet34",
        network={"scheme": "abc-net", **_NORM_FIRST},
        reported=Reported("imagenet", 52.4, 76.5, ops=1.78e8),
        source=_ABC,
    ),
    LiteratureNetwork(
        name="abcnet-resnet18-5x5",
        factory="ABCNet5x5ResNet18",
        backbone="resnet18",
        network={"scheme": "abc-net-5x5", **_NORM_FIRST},
        reported=Reported("imagenet", 65.0, 85.9),
        source=_FIVE,
    ),
    LiteratureNetwork(
        name="abcnet-resnet34-5x5",
        factory="ABCNet5x5ResNet34",
        backbone="resnet34",
        network={"scheme": "abc-net-5x5", **_NORM_FIRST},
        reported=Reported("imagenet", 68.4),
        source=f"{_FIVE}; ours: ResNet-18's first shifts",
    ),
    LiteratureNetwork(
        name="bireal18",
        factory="BiRealNet18",
        backbone="bireal18",
        network={"scheme": "bi-real", **_SIGN_FIRST},
        reported=Reported("imagenet", 56.4, 79.5, ops=1.63e8),
        source="arXiv 1808.00278",
    ),
    LiteratureNetwork(
        name="bireal34",
        factory="BiRealNet34",
        backbone="bireal34",
        network={"scheme": "bi-real", **_SIGN_FIRST},
        reported=Reported("imagenet", 62.2, 83.9, ops=1.93e8),
        source="arXiv 1808.00278",
    ),
    LiteratureNetwork(
        name="pcnn-resnet18",
        factory="PCNNResNet18",
        backbone="bireal18",
        network={"scheme": "pcnn", **_SIGN_FIRST},
        reported=Reported("imagenet", 57.3, 80.0, ops=1.63e8),
        source="arXiv 1811.12755; one projection per layer, as the paper leaves their number open",
    ),
    LiteratureNetwork(
        name="bonn-bireal18",
        factory="BONNBiReal18",
        backbone="bireal18",
        network={"scheme": "bonn", **_NORM_FIRST, "nonlinearity": "prelu"},
        reported=Reported("imagenet", 59.3, 81.6, ops=1.63e8),
        source="arXiv 1908.06314",
    ),
    LiteratureNetwork(
        name="cbcn-bireal18",
        factory="CBCNBiReal18",
        backbone="cbcn18",
        network={"scheme": "circulant", **_SIGN_FIRST, "nonlinearity": "prelu"},
        reported=Reported("imagenet", 61.4, 82.8, ops=6.56e8),
        source="arXiv 1910.10853, with four rotations; ours: no PReLU in the stem",
        count="Circulant kernels store a quarter of the signs that are convolved: costs count the "
        "convolutions that run, 16 times Bi-Real Net's, and bytes the stored signs. The 6.56e8 "
        "operations that papers report are 4 times Bi-Real Net's.",
    ),
    LiteratureNetwork(
        name="binary-duo18",
        factory="BinaryDuoResNet18",
        backbone="binary-duo18",
        network={},
        reported=Reported("imagenet", 60.4, 82.3),
        source="arXiv 2002.06517",
        count="It is the decoupled network: `bnas_larq.decouple` makes it of the coupled one, "
        "whose ternary activations train first (`bnas-larq recipes show binary-duo18`).",
    ),
    LiteratureNetwork(
        name="real-to-bin18",
        factory="RealToBinResNet18",
        backbone="bireal18",
        network={"scheme": "real-to-binary", **_NORM_FIRST, "nonlinearity": "prelu"},
        reported=Reported("imagenet", 65.4, 86.2),
        source="arXiv 2003.11535",
    ),
    LiteratureNetwork(
        name="reactnet18",
        factory="ReActNet18",
        backbone="bireal18",
        network={"scheme": "react", **_SIGN_FIRST, "nonlinearity": "rprelu"},
        reported=Reported("imagenet", 65.9),
        source="arXiv 2003.03488, its ResNet-18",
    ),
    LiteratureNetwork(
        name="bats-base",
        factory="BATS",
        backbone="bats",
        network={**_BATS, "channels": 80, "groups": 16, "stem_groups": 4},
        reported=Reported("imagenet", 60.4, 83.0),
        source=_BATS_SOURCE,
    ),
    LiteratureNetwork(
        name="bats-2x-wider",
        factory="BATS2xWider",
        backbone="bats",
        # The paper gives its MACs; this is the width that has them.
        network={**_BATS, "channels": 120, "groups": 24, "stem_groups": 6},
        reported=Reported("imagenet", 66.1, 87.0),
        source=_BATS_SOURCE,
    ),
)
#: Every network by its name.
LITERATURE = {network.name: network for network in _ALL}
