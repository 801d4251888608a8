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
    None if not printed."""

    dataset: str  # "cifar10" or "imagenet"
    top1: float
    top5: float | None = None
    training: str = ""  # its name; empty for the paper's usual one


@dataclasses.dataclass(frozen=True)
class Variant:
    """One published network, before it has weights.

    Attributes:
        name: as in `bnas-larq zoo`, such as `bnas-d`.
        factory: the function of `bnas_larq.zoo` that builds it.
        genotype: name of its published cells.
        cells, channels: its size; channels are those of the first cell's nodes (the papers' C).
        stem_groups: groups of the second and third convolution of the ImageNet stem.
        input_shape: (height, width, channels) of the images it was designed for.
        num_classes: number of classes of the data set it was designed for.
        reported: the authors' results, the usual training first.
    """

    name: str
    factory: str
    genotype: str
    cells: int
    channels: int
    stem_groups: int = 1
    input_shape: tuple[int, int, int] = (224, 224, 3)
    num_classes: int = 1000
    reported: tuple[Reported, ...] = ()

    def load_genotype(self) -> Genotype:
        """Its cells."""
        return Genotype.published(self.genotype)

    def config(self, **overrides: Any) -> NetworkConfig:
        """Its size as a `NetworkConfig`; keywords replace its own attributes, BnasLarqError if they
        are impossible. The CIFAR stem is a single convolution: there is nothing to group."""
        # Not at the top: names and numbers alone must not wait for TensorFlow.
        from bnas_larq.networks.network import NetworkConfig

        names = ("input_shape", "num_classes", "channels", "cells")
        own = {name: getattr(self, name) for name in names}
        config = NetworkConfig(**{**own, **overrides})
        if config.stem == "imagenet" and "stem_groups" not in overrides:
            return config.replace(stem_groups=self.stem_groups)
        return config


def _imagenet(
    letter: str, cells: int, channels: int, *results: tuple, stem_groups: int = 1
) -> Variant:
    """A variant for ImageNet; results are the arguments of `Reported` without the data set."""
    name, factory = f"bnas-{letter.lower()}", f"BNAS{letter.replace('-', '')}"
    reported = tuple(Reported("imagenet", *result) for result in results)
    return Variant(name, factory, "bnas_imagenet", cells, channels, stem_groups, reported=reported)


_CIFAR = {"input_shape": (32, 32, 3), "num_classes": 10, "reported": (Reported("cifar10", 92.70),)}
_ALL = (
    Variant("bnas-a", "BNASA", "bnas_cifar", 20, 36, **_CIFAR),
    _imagenet("D", 12, 64, (57.69, 79.89), (61.60, 82.91, "No-Reg")),
    _imagenet("E", 12, 68, (58.76, 80.61)),
    _imagenet("F", 15, 68, (58.99, 80.85)),
    _imagenet("G", 11, 74, (59.81, 81.61)),
    _imagenet("H", 16, 128, (63.51, 83.91)),
    # The authors give neither groups nor width. Ours: 4 groups on the stem's second and third
    # convolution, and the width that comes nearest to BNAS-D's 1.48e8 operations at 224: 1.500e8.
    # Groups of 4 need multiples of 8; 80 channels would cost 1.253e8.
    _imagenet("D-v2", 12, 88, (63.82, 84.25), (66.03, 85.42, "Multi-Stage"), stem_groups=4),
)

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
