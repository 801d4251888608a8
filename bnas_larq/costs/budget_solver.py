"""From a budget of operations to the sizes of a network: how many cells, how many channels.

    solve_budget(Genotype.published("bnas_imagenet"), "1.48e8", cells=12)[0].channels  # 64

A budget means little without its convention (see `bnas_larq.costs.accounting`) and its input size.
"""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from bnas_larq.costs.accounting import Operations, check_convention
from bnas_larq.costs.cost_walk import planned_costs
from bnas_larq.errors import BnasLarqError
from bnas_larq.genotype import Genotype
from bnas_larq.networks.network import NetworkConfig
from bnas_larq.tables import scientific

#: Numbers of cells that are tried unless some are given: 11 to 16 are published for ImageNet.
DEFAULT_CELLS = range(8, 21)
#: Papers print budgets that their own networks meet within 4 % only.
DEFAULT_TOLERANCE = 0.02
_MOST_CHANNELS = 4096


@dataclasses.dataclass(frozen=True)
class Candidate(Operations):
    """A size of a network, and what it costs for one image.

    Attributes:
        cells, channels: as in `NetworkConfig`.
        binary_macs, full_precision_macs, shortcut_macs, parameters, bytes: as in `Costs`.
    """

    cells: int
    channels: int
    binary_macs: int
    full_precision_macs: int
    shortcut_macs: int
    parameters: int
    bytes: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **dataclasses.asdict(self),
            "ops_paper": self.ops_paper,
            "ops_honest": self.ops_honest,
        }


def parse_budget(budget: str | float) -> float:
    """A number of operations from `148000000`, `1.48e8`, `"1.48e8"` or `"148M"`, `"0.15G"`.

    Raises:
        BnasLarqError: it is no positive number.
    """
    text = str(budget).strip().replace("_", "").replace(",", "")
    unit = {"K": 1e3, "M": 1e6, "G": 1e9}.get(text[-1:].upper())
    try:
        number = float(text[:-1]) * unit if unit else float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise BnasLarqError(
            "A budget is a positive number of operations, such as 1.48e8 or 148M. "
            f"Received: {budget!r}."
        )
    return number


def solve_budget(
    genotype: Genotype,
    budget: str | float,
    *,
    convention: str = "paper",
    cells: int | Iterable[int] | None = None,
    channels: int | Iterable[int] | None = None,
    multiple: int = 2,
    tolerance: float = DEFAULT_TOLERANCE,
    input_shape: Sequence[int] = (224, 224, 3),
    num_classes: int = 1000,
    **settings: Any,
) -> list[Candidate]:
    """Find the sizes of a genotype's network that come nearest to a budget.

    Args:
        genotype: its cells.
        budget: operations for one image, a number or text such as `"1.48e8"`.
        convention: count them as `"paper"` or `"honest"`, see `bnas_larq.costs.accounting`.
        cells: numbers of cells to try; default `DEFAULT_CELLS`.
        channels: numbers of channels to try; default all multiples of `multiple`.
        multiple: channels must be a multiple of it; 32 fills the packed words of 1-bit kernels.
            With a grouped stem they are also a multiple of twice its groups.
        tolerance: share of the budget by which a candidate may exceed it.
        input_shape, num_classes, settings: as of `NetworkConfig`, such as `stem_groups`.

    Returns:
        For each number of cells its best channels, nearest to the budget first. Costs are exact:
        they are polynomials of the second degree in the channels, fitted to `planned_costs` and
        checked at a further point; an operation whose costs do not follow is counted size by size.

    Raises:
        BnasLarqError: impossible settings, or no size is within the budget.
    """
    limit = parse_budget(budget)
    check_convention(convention)
    for key, value in (("multiple", multiple), ("tolerance", tolerance)):
        if value < (1 if key == "multiple" else 0):
            raise BnasLarqError(
                "A budget's multiple is at least 1, its tolerance not negative. "
                f"Received: {key}={value}."
            )
    fixed = {"input_shape": input_shape, "num_classes": num_classes, **settings}
    # stem="auto" is resolved here; the smallest channels that any number of groups allows
    groups = settings.get("stem_groups", 1)
    config = NetworkConfig.from_dict({**fixed, "cells": 1, "channels": 2 * max(groups, 1)})
    step = math.lcm(multiple, 2 * groups) if groups > 1 else multiple
    wanted = None if channels is None else _numbers("channels", channels)
    for number in wanted or ():  # the polynomials below would go on where no network is
        config.replace(channels=number)
    cache: dict = {}
    found = []
    for number in _numbers("cells", DEFAULT_CELLS if cells is None else cells):
        count = _Counter(genotype, config, number, cache)
        tried = _multiples(step) if wanted is None else wanted
        found += sorted(
            (
                one
                for one in _around(count, tried, limit, convention)
                if one.ops(convention) <= limit * (1 + tolerance)
            ),
            key=lambda one: abs(one.ops(convention) - limit),
        )[:1]
    if not found:
        raise BnasLarqError(
            "A budget must hold at least the smallest of the sizes to choose from. "
            f"Received: {scientific(limit)} operations ({convention}) at "
            f"{'×'.join(map(str, input_shape))}, {num_classes} classes. "
            "Give a larger budget, a smaller input or fewer cells."
        )
    return sorted(found, key=lambda one: (abs(one.ops(convention) - limit), one.cells))


def _numbers(name: str, values: int | Iterable[int]) -> list[int]:
    numbers = sorted({values} if isinstance(values, int) else set(values))
    if not numbers:
        raise BnasLarqError(f"A budget needs {name} to try. Received: none of them.")
    return numbers


def _multiples(step: int) -> Sequence[int]:
    return range(step * -(-2 // step), _MOST_CHANNELS + 1, step)


def _around(
    count: Callable[[int], Candidate], tried: Sequence[int], budget: float, convention: str
) -> list[Candidate]:
    """The largest of the sizes within the budget and the next one; costs grow with channels."""

    def exceeds(place: int) -> bool:
        return count(tried[place]).ops(convention) > budget

    # Growing steps first: nothing much larger than the answer is ever counted.
    above = 1
    while above < len(tried) and not exceeds(above):
        above *= 2
    places = range(min(above, len(tried)))
    above = bisect.bisect_left(places, True, lo=above // 2, key=exceeds)
    return [count(channels) for channels in tried[max(0, above - 1) : above + 1]]


class _Counter:
    """Costs of one genotype with a number of cells, at any number of channels."""

    #: Channels are halved in the stem and grouped; a user's operation may divide them further.
    _FURTHER = (1, 2, 12)
    _COSTS = ("binary_macs", "full_precision_macs", "shortcut_macs", "parameters", "bits")

    def __init__(self, genotype: Genotype, config: NetworkConfig, cells: int, cache: dict) -> None:
        self.genotype, self.config, self.cells, self.cache = genotype, config, cells, cache
        self._fits: dict[tuple[int, int], list[list[int]] | None] = {}
        self._follows_a_polynomial = True

    def __call__(self, channels: int) -> Candidate:
        """The costs at `channels`."""
        for further in self._FURTHER if self._follows_a_polynomial else ():
            period = 2 * self.config.stem_groups * further
            first = channels % period or period
            first = first if first > 1 else first + period
            if (period, first) not in self._fits:
                self._fits[period, first] = self._fit(period, first)
            if fit := self._fits[period, first]:
                times = (channels - first) // period
                return self._candidate(channels, [_at(three, times) for three in fit])
        self._follows_a_polynomial = False
        return self._candidate(channels, self._count(channels))

    def _fit(self, period: int, first: int) -> list[list[int]] | None:
        """Three values of each cost, one period apart; None if a fourth does not follow them."""
        rows = [self._count(first + times * period) for times in range(4)]
        fit = [list(column) for column in zip(*rows[:3], strict=True)]
        return fit if [_at(three, 3) for three in fit] == rows[3] else None

    def _count(self, channels: int) -> list[int]:
        costs = planned_costs(
            self.genotype, self.config, cache=self.cache, cells=self.cells, channels=channels
        )
        return [getattr(costs, name) for name in self._COSTS]

    def _candidate(self, channels: int, values: Sequence[int]) -> Candidate:
        *others, bits = values
        return Candidate(self.cells, channels, *others, -(-bits // 8))


def _at(three: Sequence[int], times: int) -> int:
    """The polynomial of degree two through (0, a), (1, b), (2, c), at `times`: whole numbers."""
    a, b, c = three
    return a + times * (b - a) + times * (times - 1) // 2 * (c - 2 * b + a)
