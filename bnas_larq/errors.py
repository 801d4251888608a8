"""Errors that users can cause and fix, as opposed to bugs.

Every message states the rule, then what was received, then the way out.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pydantic
    from pydantic_core import ErrorDetails

#: Characters of a message that are shown, and those of them that are its end.
_LONGEST, _END = 2000, 500


class BnasLarqError(Exception):
    """Base of all errors that a user can fix. The CLI prints one line and exits with code 2.

    Example:
        >>> from bnas_larq import Genotype
        >>> try:
        ...     Genotype.published("bnas_cifr")
        ... except BnasLarqError as error:
        ...     print(error)
        Only published cells have names. Received: 'bnas_cifr'; did you mean 'bnas_cifar'?
    """

    def __str__(self) -> str:
        return shortened(super().__str__())


class RecipeError(BnasLarqError):
    """A recipe is damaged, or has an unknown key or an invalid value."""


class GenotypeError(BnasLarqError):
    """A genotype cannot be built: an impossible edge, an unknown operation, a damaged file."""


class DataError(BnasLarqError):
    """A data set, folder or image cannot be read as image classification data."""


class WeightsError(BnasLarqError):
    """Weights do not fit the network, or their file is damaged."""


class RunError(BnasLarqError):
    """A run folder cannot be created, resumed or read."""


class CheckpointError(RunError):
    """No intact checkpoint is left to resume from."""


class ExportError(BnasLarqError):
    """A network cannot be converted to Larq Compute Engine, or the file disagrees with Keras."""


class ZooError(BnasLarqError):
    """A zoo entry does not exist, is damaged or cannot be published."""


class TrainingStopped(BnasLarqError):
    """Training cannot continue (loss not finite, a collapsed cell); checkpoints are kept."""


def shortened(message: str) -> str:
    """A message whose value may be megabytes long: its beginning and end tell rule and way out."""
    if len(message) <= _LONGEST:
        return message
    return f"{message[: _LONGEST - _END]} … {message[-_END:]}"


def printable(text: str) -> str:
    """Text for a terminal, which control characters could rewrite: they are shown as escapes."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text
    )


def one_line(message: object) -> str:
    """Foreign text, such as an exception's message, on one line, to be quoted in a sentence."""
    return printable(" ".join(shortened(str(message)).split()))


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint: `did you mean 'epochs'?`, or all of `known` when none is close."""
    known = sorted(known)
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if match:
        return f"did you mean {match[0]!r}?"
    return f"known: {', '.join(known)}."


def first_problem(error: pydantic.ValidationError) -> ErrorDetails:
    """The problem to report: a misspelt key is a missing one too, and the misspelling says more."""
    problems = error.errors(include_url=False)
    return next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
