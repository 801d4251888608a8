"""How a method's own search settings are scaled to a comparison's budget.

Learning rates and temperatures that decay over the whole search need no rule.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any, NamedTuple

from bnas_larq.data_settings import DataSettings
from bnas_larq.recipe import Recipe
from bnas_larq.settings import SearchSettings

#: Keys of `search` that a budget must give, and all that it may give.
NEEDED_KEYS = ("cells", "channels", "epochs", "batch_size")
BUDGET_KEYS = (*NEEDED_KEYS, "limit", "mixed_precision")
#: Upper limit of the scaled rate of α: beyond it, a few steps of Adam would decide an edge. GDAS at
#: 0.23 (three of six epochs of 20 steps on CIFAR-10) trained as at its own rate.
MOST_ALPHA_RATE = 0.25


class Scaling(NamedTuple):
    """What rules read: the method's recipe, its section `search` as it is used (with the budget's
    keys and what is scaled already), and the images of the data set's training part."""

    own: Recipe
    used: SearchSettings
    data: DataSettings
    images: int

    @property
    def epochs(self) -> float:
        """The budget's epochs as a share of the method's."""
        return self.used.epochs / self.own.search.epochs

    @property
    def batch(self) -> float:
        """The budget's batch size as a multiple of the method's."""
        return self.used.batch_size / self.own.search.batch_size

    def alpha_steps(self) -> tuple[float, float]:
        """Steps of α in the method's own search of these images, and in this one."""
        return (
            _alpha_steps(self.own.search, self.own.data, self.images),
            _alpha_steps(self.used, self.data, self.images),
        )


class Rule(NamedTuple):
    """How one key of `search` is scaled."""

    text: str
    value: Callable[[Scaling], float]


class Adaptation(NamedTuple):
    """A key of `search` that is scaled, from the method's own value to the one used."""

    key: str
    own: float
    used: float
    rule: str


def _alpha_steps(search: SearchSettings, data: DataSettings, images: int) -> float:
    images = min(images, data.limit or images) * (1 - data.validation_fraction)
    images = min(images, search.limit or images)
    epochs = search.epochs - search.alpha_start_epoch
    if search.searcher == "bandit":
        epochs = min(epochs, search.bandit.finish_epochs)
    return epochs * images / 2 / search.batch_size


def _alpha_rate(scaling: Scaling) -> float:
    own, used = scaling.alpha_steps()
    rate = scaling.own.search.alpha_learning_rate
    # Without a step of α the rate does not matter.
    scaled = rate * own / used if used > 0 else rate
    return min(scaled, max(rate, MOST_ALPHA_RATE))


_SHARE = "the same share of the epochs"
_BATCH = "in proportion to the batch size"
ADAPTED = {
    "alpha_start_epoch": Rule(
        f"{_SHARE}, rounded", lambda s: int(s.own.search.alpha_start_epoch * s.epochs + 0.5)
    ),
    "entropy_tau": Rule(_SHARE, lambda s: s.own.search.entropy_tau * s.epochs),
    "bandit.finish_epochs": Rule(
        f"{_SHARE}, rounded, at least 1 unless it is 0",
        lambda s: (
            s.own.search.bandit.finish_epochs
            and max(1, int(s.own.search.bandit.finish_epochs * s.epochs + 0.5))
        ),
    ),
    # A step of Adam moves a weight by about its rate: with fewer steps α would stay at its start.
    # After the rules above, which decide how many epochs train α.
    "alpha_learning_rate": Rule(
        f"rate × steps of α as in the method's own search, at most {MOST_ALPHA_RATE:g}", _alpha_rate
    ),
    # The linear rule of arXiv 1706.02677.
    "learning_rate": Rule(_BATCH, lambda s: s.own.search.learning_rate * s.batch),
    "minimum_learning_rate": Rule(_BATCH, lambda s: s.own.search.minimum_learning_rate * s.batch),
}


def adapt(own: Recipe, budget: Recipe, images: int) -> list[Adaptation]:
    """The keys of a method's own search that the budget changes.

    Args:
        images: of the training part of the budget's data set, before any limit.
    """
    used = own.search.model_copy(update={key: getattr(budget.search, key) for key in BUDGET_KEYS})
    adaptations = []
    for key, rule in ADAPTED.items():
        before = reduce(getattr, key.split("."), own.search)
        after = rule.value(Scaling(own, used, budget.data, images))
        # Six digits: the recipe holds what the plan shows.
        after = float(f"{after:.6g}") if isinstance(after, float) else after
        if after != before and _is_read(key, own.search):
            adaptations.append(Adaptation(key, before, after, rule.text))
            used = _with(used, key, after)
    return adaptations


def _with(search: SearchSettings, key: str, value: Any) -> SearchSettings:
    """The settings with another value of `key` or `section.key`."""
    section, _, last = key.rpartition(".")
    if section:
        value = getattr(search, section).model_copy(update={last: value})
    return search.model_copy(update={section or last: value})


def _is_read(key: str, own: SearchSettings) -> bool:
    """Whether the method reads the key at all."""
    if key.startswith("bandit."):
        return own.searcher == "bandit"
    if own.searcher == "one-shot":  # trains no α
        return key in ("learning_rate", "minimum_learning_rate")
    return own.entropy_weight > 0 if key == "entropy_tau" else own.searcher != "tuner"
