"""How a comparison scales what a method says for its own number of epochs and its own batch.

What follows the epochs anyway needs no rule: learning rates and temperatures decay over the whole
search, however long that is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from bnas_larq.settings import SearchSettings


class Rule(NamedTuple):
    """How one key of `search` follows the budget: (method's settings, budget's) → value."""

    text: str
    value: Callable[[SearchSettings, SearchSettings], float]


def _epochs(own: SearchSettings, budget: SearchSettings) -> float:
    return budget.epochs / own.epochs


def _whole(number: float) -> int:
    return int(number + 0.5)


def _steps(own: SearchSettings, budget: SearchSettings) -> float:
    """The budget's epochs / batch size as a share of the method's; images are not counted."""
    return _epochs(own, budget) * own.batch_size / budget.batch_size


_SHARE = "the same share of the epochs"
_BATCH = "in proportion to the batch size"
ADAPTED = {
    "alpha_start_epoch": Rule(
        f"{_SHARE}, rounded", lambda own, b: _whole(own.alpha_start_epoch * _epochs(own, b))
    ),
    "entropy_tau": Rule(_SHARE, lambda own, b: own.entropy_tau * _epochs(own, b)),
    "bandit.finish_epochs": Rule(
        f"{_SHARE}, rounded, at least 1 unless it is 0",
        lambda own, b: own.bandit.finish_epochs
        and max(1, _whole(own.bandit.finish_epochs * _epochs(own, b))),
    ),
    # A step of Adam moves a weight by about its rate: with fewer steps α would stay at its start.
    # How many images there are is left out: with a small search.limit α still move less.
    "alpha_learning_rate": Rule(
        "rate × epochs / batch size as in the method's own search; search.limit is not counted",
        lambda own, b: own.alpha_learning_rate / _steps(own, b),
    ),
    # The linear rule of arXiv 1706.02677.
    "learning_rate": Rule(_BATCH, lambda own, b: own.learning_rate * b.batch_size / own.batch_size),
    "minimum_learning_rate": Rule(
        _BATCH, lambda own, b: own.minimum_learning_rate * b.batch_size / own.batch_size
    ),
}


class Adaptation(NamedTuple):
    """A key of `search` that the budget changed, from the method's value to the one used."""

    key: str
    own: float
    used: float
    rule: str


def adapt(own: SearchSettings, budget: SearchSettings) -> list[Adaptation]:
    """What of a method's own settings has another value under the budget.

    Args:
        own: as the method is published.
        budget: of it `epochs` and `batch_size` count.
    """
    found = []
    for key, rule in ADAPTED.items():
        before: Any = own
        for part in key.split("."):
            before = getattr(before, part)
        # Six digits: what stands in the recipe is what was told.
        after = rule.value(own, budget)
        after = float(f"{after:.6g}") if isinstance(after, float) else after
        if after != before and _is_used(key, own):
            found.append(Adaptation(key, before, after, rule.text))
    return found


def _is_used(key: str, own: SearchSettings) -> bool:
    """Whether the method reads the key at all."""
    if key == "entropy_tau":
        return own.entropy_weight > 0
    if key.startswith("bandit."):
        return own.searcher == "bandit"
    return own.searcher != "tuner"
