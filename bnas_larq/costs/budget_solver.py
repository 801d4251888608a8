"""From a budget of operations to the size of a network: how many cells, how many channels.

A budget means little without its convention (see `bnas_larq.costs.accounting`) and its input size.
"""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from bnas_larq.costs.accounting import Costs, Operations, check_convention
from bnas_larq.costs.cost_walk import planned_costs
from bnas_larq.errors import BnasLarqError
from bnas_larq.genotype import Genotype
from bnas_larq.networks.network import NetworkConfig
from bnas_larq.networks.residual_network import ResidualConfig
from bnas_larq.tables import scientific

#: Numbers of cells to try by default; published ImageNet networks have 11 to 16.
DEFAULT_CELLS = range(8, 21)
#: The papers' own networks miss their printed budgets by up to 4 %.
DEFAULT_TOLERANCE = 0.02
_MOST_CHANNELS = 4096


@dataclasses.dataclass(frozen=True)
class Candidate(Operations):
    """The size of a network, and its costs for one image.

    Attributes:
        cells, channels: as of `NetworkConfig`.
        binary_macs, full_precision_macs, shortcut_macs, parameters, bytes: as of `Costs`.
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
        ops = {"ops_paper": self.ops_paper, "ops_honest": self.ops_honest}
        return {**dataclasses.asdict(self), **ops}


def parse_budget(budget: str | float) -> float:
    """A number of operations from `1.48e8`, `"1.48e8"`, `"148M"` or `"0.15G"`; BnasLarqError for
    anything else."""
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
    """Find the sizes of a genotype's network that come closest to a budget.

    Args:
        genotype: its cells.
        budget: operations for one image, a number or text such as `"1.48e8"`.
        convention: count them as `"paper"` or `"honest"`, see `bnas_larq.costs.accounting`.
        cells: numbers of cells to try; default those of `DEFAULT_CELLS` that hold all `reductions`.
        channels: numbers of channels to try; default all multiples of `multiple`.
        multiple: channels must be a multiple of it; 32 fills the packed words of 1-bit kernels.
            With groups they are also a multiple of twice their number.
        tolerance: share of the budget by which a candidate may exceed it.
        input_shape, num_classes, settings: as of `NetworkConfig`, such as `stem_groups`.

    Returns:
        The best channels for each number of cells, closest to the budget first. Costs are exact:
        they are quadratic polynomials in the channels, fitted to `planned_costs` and checked at a
        further point; where an operation's costs do not follow one, each size is counted.

    Raises:
        BnasLarqError: impossible settings, or no size is within the budget.

    Example:
        >>> from bnas_larq import Genotype, solve_budget
        >>> images = {"input_shape": (32, 32, 3), "num_classes": 10}
        >>> solve_budget(Genotype.published("bnas_cifar"), "2M", cells=2, **images)[0].channels
        20
    """
    limit = parse_budget(budget)
    _check_steps(convention, multiple, tolerance)
    fixed = {"input_shape": input_shape, "num_classes": num_classes, **settings}
    # Resolves stem="auto". These are the fewest channels that the groups allow.
    groups = math.lcm(*(max(settings.get(key, 1), 1) for key in ("stem_groups", "groups")))
    smallest = max(settings.get("reductions") or [0]) + 1
    config = NetworkConfig.from_dict({**fixed, "cells": smallest, "channels": 2 * groups})
    step = math.lcm(multiple, 2 * groups) if groups > 1 else multiple
    widths: Sequence[int] = range(step * -(-2 // step), _MOST_CHANNELS + 1, step)
    if channels is not None:
        widths = _numbers("channels", channels)
        for number in widths:  # the polynomials also have values where no network exists
            config.replace(channels=number)
    cache: dict = {}
    best: list[Candidate] = []

    def distance(candidate: Candidate) -> float:
        return abs(candidate.ops(convention) - limit)

    if cells is None:
        cells = [number for number in DEFAULT_CELLS if number >= smallest] or smallest
    for cell_count in _numbers("cells", cells):
        count = _Counter(genotype, config, cell_count, cache)
        candidates = _around(count, widths, limit, convention)
        ceiling = limit * (1 + tolerance)
        allowed = [size for size in candidates if size.ops(convention) <= ceiling]
        best += sorted(allowed, key=distance)[:1]
    if not best:
        raise BnasLarqError(
            "A budget must hold at least the smallest of the sizes to choose from. "
            f"Received: {scientific(limit)} operations ({convention}) at "
            f"{'×'.join(map(str, input_shape))}, {num_classes} classes. "
            "Give a larger budget, a smaller input or fewer cells."
        )
    return sorted(best, key=lambda candidate: (distance(candidate), candidate.cells))


def scale_widths(
    config: ResidualConfig,
    budget: str | float,
    *,
    convention: str = "honest",
    multiple: int = 4,
    tolerance: float = DEFAULT_TOLERANCE,
) -> ResidualConfig:
    """The residual network whose operations come closest to a budget, its widths in the proportions
    of `config`.

    Args:
        budget, convention, tolerance: as of `solve_budget`.
        multiple: widths are multiples of it. Operations grow with the square of the widths, so that
            one step of a first width of 32 by 4 adds a quarter to them.

    Raises:
        BnasLarqError: impossible settings, or no size is within the budget.

    Example:
        >>> from bnas_larq import ResidualConfig
        >>> scale_widths(ResidualConfig(), "8M").widths
        (72, 144, 288)
    """
    limit, counted = parse_budget(budget), {}
    _check_steps(convention, multiple, tolerance)

    def count(first: int) -> Costs:
        def scale(width: int) -> int:
            return multiple * max(1, round(first * width / config.widths[0] / multiple))

        sizes: dict[str, Any] = {"widths": tuple(map(scale, config.widths))}
        if last_width := getattr(config, "last_width", None):  # of BinaryDuo's network
            sizes["last_width"] = scale(last_width)
        scaled = config.replace(**sizes)
        counted[scaled] = planned_costs(None, scaled)
        return counted[scaled]

    _around(count, range(multiple * -(-2 // multiple), _MOST_CHANNELS, multiple), limit, convention)
    operations = {scaled: costs.ops(convention) for scaled, costs in counted.items()}
    allowed = [scaled for scaled, ops in operations.items() if ops <= limit * (1 + tolerance)]
    if not allowed:
        raise BnasLarqError(
            "A budget must hold at least the narrowest network. "
            f"Received: {scientific(limit)} operations ({convention}) for {config.size}. "
            "Give a larger budget or fewer blocks."
        )
    return min(allowed, key=lambda scaled: abs(operations[scaled] - limit))


def _check_steps(convention: str, multiple: int, tolerance: float) -> None:
    check_convention(convention)
    if multiple < 1 or tolerance < 0:
        raise BnasLarqError(
            "A budget's multiple is at least 1, and its tolerance is not negative. "
            f"Received: multiple={multiple}, tolerance={tolerance}."
        )


def _numbers(name: str, values: int | Iterable[int]) -> list[int]:
    numbers = sorted({values} if isinstance(values, int) else set(values))
    if not numbers:
        raise BnasLarqError(f"A budget needs {name} to try. Received: none of them.")
    return numbers


def _around(
    count: Callable[[int], Operations], channels: Sequence[int], budget: float, convention: str
) -> list[Operations]:
    """The largest of the sizes within the budget and the next one; costs grow with channels."""

    def exceeds(index: int) -> bool:
        return count(channels[index]).ops(convention) > budget

    # Doubling steps first, so that nothing much larger than the answer is counted.
    above = 1
    while above < len(channels) and not exceeds(above):
        above *= 2
    indices = range(min(above, len(channels)))
    above = bisect.bisect_left(indices, True, lo=above // 2, key=exceeds)
    return [count(number) for number in channels[max(0, above - 1) : above + 1]]


class _Counter:
    """Costs of a genotype's network with a fixed number of cells, at any number of channels."""

    #: Costs are polynomials of channels one period apart. The stem halves and groups channels; a
    #: user's operation may divide them further.
    _DIVISORS = (1, 2, 12)
    _COSTS = ("binary_macs", "full_precision_macs", "shortcut_macs", "parameters", "bits")

    def __init__(self, genotype: Genotype, config: NetworkConfig, cells: int, cache: dict) -> None:
        self.genotype, self.config, self.cells, self.cache = genotype, config, cells, cache
        self._fits: dict[tuple[int, int], list[list[int]] | None] = {}
        self._follows_a_polynomial = True

    def __call__(self, channels: int) -> Candidate:
        """The costs at `channels`."""
        for divisor in self._DIVISORS if self._follows_a_polynomial else ():
            period = 2 * math.lcm(self.config.stem_groups, self.config.groups) * divisor
            first = channels % period or period
            first = first if first > 1 else first + period
            if (period, first) not in self._fits:
                self._fits[period, first] = self._fit(period, first)
            if fit := self._fits[period, first]:
                times = (channels - first) // period
                return self._candidate(channels, [_extrapolate(cost, times) for cost in fit])
        self._follows_a_polynomial = False
        return self._candidate(channels, self._count(channels))

    def _fit(self, period: int, first: int) -> list[list[int]] | None:
        """Three values of each cost, one period apart; None if a fourth is off the polynomial."""
        rows = [self._count(first + times * period) for times in range(4)]
        fit = [list(column) for column in zip(*rows[:3], strict=True)]
        return fit if [_extrapolate(cost, 3) for cost in fit] == rows[3] else None

    def _count(self, channels: int) -> list[int]:
        costs = planned_costs(
            self.genotype, self.config, cache=self.cache, cells=self.cells, channels=channels
        )
        return [getattr(costs, name) for name in self._COSTS]

    def _candidate(self, channels: int, values: Sequence[int]) -> Candidate:
        *counts, bits = values
        return Candidate(self.cells, channels, *counts, -(-bits // 8))


def _extrapolate(values: Sequence[int], x: int) -> int:
    """The quadratic polynomial through values at 0, 1 and 2; in whole numbers."""
    a, b, c = values
    return a + x * (b - a) + x * (x - 1) // 2 * (c - 2 * b + a)
