"""Finds published networks by name, by data set or by path.

Zoos are folders of entries. They are searched in this order, the first entry of a name counts: the
folders in the environment variable `BNAS_LARQ_ZOO`, the user's own zoo, the one that ships with
bnas_larq.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bnas_larq.errors import BnasLarqError, ZooError, nearest
from bnas_larq.resources import keras_home, user_zoo, zoos
from bnas_larq.zoo.entries import Entry
from bnas_larq.zoo.entry_format import ENTRY
from bnas_larq.zoo.variants import VARIANTS

if TYPE_CHECKING:
    from bnas_larq.networks.network_files import StoredNetwork

__all__ = [
    "entry_folders",
    "find_entry",
    "keras_home",
    "list_entries",
    "resolve",
    "resolve_entry",
    "user_zoo",
    "zoos",
]


def list_entries() -> list[Entry]:
    """All entries, sorted by name; a damaged one is left out with a warning.

    Where two zoos hold an entry of the same name, the zoo that is searched first counts.
    """
    return _intact()


def datasets() -> set[str]:
    """Names that mean the best entry of a data set: those of entries, and of the papers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged entries, which have no say
        of_entries = {entry.dataset for entry in _intact()}
    return of_entries | {one.dataset for variant in VARIANTS.values() for one in variant.reported}


def find_entry(weights: str, variant: str | None = None) -> Entry:
    """The entry that `weights` names.

    Args:
        weights: an entry's name, or else the name of a data set. Among several entries of a data
            set those of the variant's own size (cells and channels) come first, then the most
            accurate on the test split.
        variant: the family member it must belong to, such as "bnas-d".

    Raises:
        ZooError: there is none, which names those there are and how to make or import others; it is
            damaged; or it belongs to another variant.
    """
    entries = _intact(wanted=weights)
    for entry in entries:
        if entry.name == weights:
            return _of_variant(entry, variant)
    matching = [
        entry
        for entry in entries
        if entry.dataset == weights and (variant is None or entry.variant == variant)
    ]
    if not matching:
        raise ZooError(_nothing(weights, variant, entries))
    # `max` keeps the first of equals, and entries come sorted by name.
    return max(matching, key=lambda entry: (_has_own_size(entry), entry.accuracy or 0.0))


def resolve(target: str | Path) -> StoredNetwork:
    """The trained network that a user means: its folder holds network.json, genotype.json and
    weights.h5, verified and downloaded first if it is an entry's.

    Args:
        target: the folder of a run or of an entry, or an entry's name.

    Raises:
        ZooError: there is no such thing, or the entry is damaged.
        RunError: a run folder without a trained network.
    """
    from bnas_larq.networks.network_files import StoredNetwork

    entry = resolve_entry(target)
    return StoredNetwork.load(Path(target) if entry is None else entry.fetch())


def resolve_entry(target: str | Path) -> Entry | None:
    """The entry that `target` means, see `resolve`; None for another existing folder, a run's.

    Raises:
        ZooError: there is no such thing, or the entry is damaged.
    """
    path = Path(target)
    if str(target) and path.is_dir():
        if (path / ENTRY).exists():
            return Entry.load(path)
        if any((path / name).exists() for name in ("network.json", "recipe.yaml")):
            return None
    if isinstance(target, Path) or len(path.parts) != 1 or target in (".", ".."):
        problem = "which holds none" if path.exists() else "which does not exist"
        raise ZooError(
            "A trained network is a run's folder, an entry's folder or an entry's name. "
            f"Received: {str(target)!r}, {problem}. See `bnas-larq zoo list`."
        )
    entries = _intact(wanted=str(target))
    for entry in entries:
        if entry.name == target:
            return entry
    same = ", ".join(entry.summary() for entry in entries if entry.dataset == target)
    if same:
        raise ZooError(
            f"A trained network is named by its entry. Received: {target!r}, a data set's name. "
            f"Entries of it: {same}."
        )
    raise ZooError(_nothing(str(target), None, entries))


def entry_folders() -> Iterator[Path]:
    """All folders that claim to be entries, in the order of search."""
    for zoo in zoos():
        if not zoo.is_dir():
            continue
        for folder in sorted(zoo.iterdir()):
            if not folder.name.startswith(".") and (folder / ENTRY).exists():
                yield folder


def _intact(wanted: str | None = None) -> list[Entry]:
    """`list_entries`, but a damaged entry is an error when it is the `wanted` one."""
    found: dict[str, Entry] = {}
    for folder in entry_folders():
        try:
            entry = Entry.load(folder)
        except BnasLarqError as error:
            if folder.name == wanted and wanted not in found:
                raise
            warnings.warn(f"A zoo entry is left out. {error}", stacklevel=3)
        else:
            found.setdefault(entry.name, entry)
    return [found[name] for name in sorted(found)]


def _of_variant(entry: Entry, variant: str | None) -> Entry:
    if variant is not None and entry.variant != variant:
        other = f"of {entry.variant}" if entry.variant else "of no variant"
        raise ZooError(
            f"Weights must belong to the network they are loaded into. Received: {entry.name!r}, "
            f"{other}, for {variant}. "
            f"Load it with bnas_larq.zoo.find_entry({entry.name!r}).load_model()."
        )
    return entry


def _has_own_size(entry: Entry) -> bool:
    """Whether the entry's network is as large as its variant says."""
    variant = VARIANTS.get(entry.variant or "")
    if variant is None:
        return False
    try:
        config = entry.network.config
    except BnasLarqError:  # a damaged one is found out when it is used
        return False
    return (config.cells, config.channels) == (variant.cells, variant.channels)


def _close(name: str, entries: Iterable[Entry]) -> str:
    """`: did you mean 'x'?` if a known entry or data set is called nearly so."""
    known = {entry.name for entry in entries} | {entry.dataset for entry in entries}
    hint = nearest(name, known) if known else ""
    return f"; {hint.rstrip('?')}" if hint.startswith("did you mean") else ""


def _nothing(weights: str, variant: str | None, entries: Iterable[Entry]) -> str:
    own = [entry.summary() for entry in entries if variant in (None, entry.variant)]
    others = [entry.summary() for entry in entries if variant not in (None, entry.variant)]
    there_are = f"There are: {', '.join(own)}. " if own else "There are none. "
    if variant is not None:
        there_are = there_are.replace("There are", f"For {variant} there are", 1)
        there_are += f"For others: {', '.join(others)}. " if others else ""
    return (
        "Published weights are named by their entry or data set. "
        f"Received: {weights!r}{f' for {variant}' if variant else ''}, which nobody published"
        f"{_close(weights, entries)}. "
        f"{there_are}Make them with `bnas-larq run` and `bnas-larq zoo publish`, or import the "
        "authors' with `bnas-larq zoo import`."
    )
