"""The networks that the papers name: genotype, size, and their authors' results.

`bnas_larq.zoo.factories` builds them. Sources: BNAS (Kim, Singh, Choi, arXiv
2002.06963) for A to H, and the authors' slides on BNAS v2 (arXiv 2110.08562) for v2.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from bnas_larq.errors import ZooError, nearest
from bnas_larq.genotype import Genotype

if TYPE_CHECKING:
    from bnas_larq.networks.network import NetworkConfig


@dataclasses.dataclass(frozen=True)
class Reported:
    """A result as the authors printed it, not measured with this package: test accuracy in percent,
    None if not printed, and the operations that BNAS' authors print beside it."""

    dataset: str  # "cifar10" or "imagenet"
    top1: float
    top5: float | None = None
    training: str = ""  # its name; empty for the paper's usual one
    ops: float | None = None


@dataclasses.dataclass(frozen=True)
class Variant:
    """One published network, before it has weights.

    Attributes:
        name: as in `bnas-larq zoo`, such as `bnas-d`.
        factory: the function of `bnas_larq.zoo` that builds it.
        genotype: name of its published cells.
        cells, channels: its size; channels are those of the first cell's nodes (the papers' C).
        stem_groups: groups of the second and third convolution of the ImageNet stem.
        shortcut: as of `NetworkConfig`.
        convention: the factory's argument that chooses it from others of its name; None without
            others.
        input_shape: (height, width, channels) of the images it was designed for.
        num_classes: number of classes of the data set it was designed for.
        reported: the authors' results, the usual training first.
        ours: what the authors do not give, a sentence.
    """

    name: str
    factory: str
    genotype: str
    cells: int
    channels: int
    stem_groups: int = 1
    shortcut: str = "conv"
    convention: str | None = None
    input_shape: tuple[int, int, int] = (224, 224, 3)
    num_classes: int = 1000
    reported: tuple[Reported, ...] = ()
    ours: str = ""

    @property
    def call(self) -> str:
        """What builds it in Python, such as `BNASD()`."""
        argument = "" if self.convention is None else f'convention="{self.convention}"'
        return f"{self.factory}({argument})"

    def load_genotype(self) -> Genotype:
        """Its cells."""
        return Genotype.published(self.genotype)

    def config(self, **overrides: Any) -> NetworkConfig:
        """Its size as a `NetworkConfig`; keywords replace its own attributes, BnasLarqError if they
        are impossible. The CIFAR stem is a single convolution: there is nothing to group."""
        # Not at the top: names and numbers alone must not wait for TensorFlow.
        from bnas_larq.networks.network import NetworkConfig

        names = ("input_shape", "num_classes", "channels", "cells", "shortcut")
        own = {name: getattr(self, name) for name in names}
        config = NetworkConfig.from_dict({**own, **overrides})
        if config.stem == "imagenet" and "stem_groups" not in overrides:
            return config.replace(stem_groups=self.stem_groups)
        return config


def _imagenet(
    letter: str, cells: int, channels: int, *results: tuple, ops: float, **template: Any
) -> Variant:
    """A variant for ImageNet; results are the arguments of `Reported` without the data set, `ops`
    what its authors print for all of them."""
    suffix = "-paper" if template.get("convention") == "paper" else ""
    name, factory = f"bnas-{letter.lower()}{suffix}", f"BNAS{letter.replace('-', '')}"
    reported = tuple(Reported("imagenet", *result, ops=ops) for result in results)
    return Variant(name, factory, "bnas_imagenet", cells, channels, reported=reported, **template)


_CIFAR = {"input_shape": (32, 32, 3), "num_classes": 10}
_A = (Reported("cifar10", 92.70),)
_SIZE = "No source at hand gives its size and results: the size is this package's choice."
_OURS = "They name neither groups nor width: both are this package's choice."
_OURS_TOO = (
    "Pooled shortcuts, groups, cells and width are this package's choice. The authors' results are "
    "of networks with convolutions as shortcuts: see bnas-d-v2-paper."
)
#: The authors' results of BNAS-D v2.
_V2 = (63.82, 84.25), (66.03, 85.42, "Multi-Stage")
_ALL = (
    Variant("bnas-a", "BNASA", "bnas_cifar", 20, 36, **_CIFAR, reported=_A),
    # With A's cells, as the authors say; no source at hand gives their sizes.
    Variant("bnas-b", "BNASB", "bnas_cifar", 12, 64, **_CIFAR, ours=_SIZE),
    Variant("bnas-c", "BNASC", "bnas_cifar", 16, 108, **_CIFAR, ours=_SIZE),
    _imagenet("D", 12, 64, (57.69, 79.89), (61.60, 82.91, "No-Reg"), ops=1.48e8),
    _imagenet("E", 12, 68, (58.76, 80.61), ops=1.63e8),
    _imagenet("F", 15, 68, (58.99, 80.85), ops=1.78e8),
    _imagenet("G", 11, 74, (59.81, 81.61), ops=1.93e8),
    _imagenet("H", 16, 128, (63.51, 83.91), ops=6.56e8),
    # BNAS-D's 1.48e8 operations at 224, counted honestly: 1.479e8. BNAS' shortcuts alone would cost
    # more at this width; pooled ones have no MACs, and fewer bytes than depthwise ones. Two groups
    # on the stem's second and third convolution: four need multiples of 8 channels, and none of
    # these sizes is within 1 % (12 cells of 88 channels 1.439e8, 16 of 80 1.454e8).
    _imagenet(
        *("D-v2", 11, 80),
        ops=1.48e8,
        stem_groups=2,
        shortcut="pool",
        convention="honest",
        ours=_OURS_TOO,
    ),
    # Counted as in the papers, with BNAS' shortcuts: 1.500e8 is nearest to 1.48e8. Groups of 4 need
    # multiples of 8; 80 channels would cost 1.253e8.
    _imagenet("D-v2", 12, 88, *_V2, ops=1.48e8, stem_groups=4, convention="paper", ours=_OURS),
)


def belongs(entry: str | None, variant: str | None) -> bool:
    """Whether an entry of the variant `entry` serves for `variant`; None: any does. Those of BNAS-D
    v2 serve for both conventions, for which earlier releases had one name."""
    if variant is None or entry is None:
        return variant is None
    return entry.removesuffix("-paper") == variant.removesuffix("-paper")


#: Every variant by its name.
VARIANTS = {variant.name: variant for variant in _ALL}


def variant(name: str) -> Variant:
    """The variant called `name`, such as `bnas-d`; ZooError hints at the nearest."""
    if name not in VARIANTS:
        raise ZooError(
            "A variant is a network that the papers name. "
            f"Received: {name!r}; {nearest(str(name).lower(), VARIANTS)}"
        )
    return VARIANTS[name]
