"""Published networks by name, data set or path.

Zoos are folders of entries, searched in this order: the folders in the environment variable
`BNAS_LARQ_ZOO`, the user's own zoo, the one that ships with bnas_larq. Of entries with the same
name the first counts.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from bnas_larq.errors import BnasLarqError, ZooError, nearest
from bnas_larq.resources import zoos
from bnas_larq.zoo.entries import Entry
from bnas_larq.zoo.entry_format import ENTRY
from bnas_larq.zoo.variants import VARIANTS, belongs


def list_entries() -> list[Entry]:
    """All entries, sorted by name; damaged ones are left out with a warning.

    Example:
        >>> from bnas_larq.zoo import list_entries
        >>> names = [entry.name for entry in list_entries()]
        >>> {"bnasd-cifar10-small", "bnasd-digits-small"} <= set(names)
        True
    """
    return _intact()


def check_not_a_dataset(name: str, dataset: str) -> None:
    """ZooError if `name`, wanted for an entry of `dataset`, is the data set of an entry or paper:
    it means the best entry of that data set."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about damaged entries
        taken = {dataset, *(entry.dataset for entry in _intact())}
    for variant in VARIANTS.values():
        taken |= {result.dataset for result in variant.reported}
    if name in taken:
        raise ZooError(
            "An entry's name must not be a data set's, which means the best entry of that data "
            f"set. Received: {name!r}. Choose another --name."
        )


def find_entry(weights: str, variant: str | None = None) -> Entry:
    """The entry that `weights` names.

    Args:
        weights: an entry's name, or else a data set's. Of several entries of a data set, those of
            the variant's own size (cells and channels) come first, then the most accurate on the
            test split.
        variant: the family member it must belong to, such as "bnas-d".

    Raises:
        ZooError: there is none (the message names those there are, and how to make or import
            others), it is damaged, or it belongs to another variant.

    Example:
        >>> from bnas_larq.zoo import find_entry
        >>> entry = find_entry("bnasd-digits-small")
        >>> entry.dataset, round(entry.accuracy, 4)
        ('digits', 0.9638)
    """
    entries = _intact(wanted=weights)
    for entry in entries:
        if entry.name == weights and not belongs(entry.variant, variant):
            own = f"of {entry.variant}" if entry.variant else "of no variant"
            raise ZooError(
                "Weights must belong to the network they are loaded into. "
                f"Received: {weights!r}, {own}, for {variant}. "
                f"Load it with bnas_larq.zoo.find_entry({weights!r}).load_model()."
            )
        if entry.name == weights:
            return entry
    of_variant = [entry for entry in entries if belongs(entry.variant, variant)]
    matching = [entry for entry in of_variant if entry.dataset == weights]
    if not matching:
        raise ZooError(_nothing(weights, variant, entries))
    # `max` keeps the first of equals, and entries come sorted by name.
    return max(matching, key=lambda entry: (_has_own_size(entry, variant), entry.accuracy or 0.0))


def resolve_entry(target: str | Path) -> Entry | None:
    """The entry that `target` means, by its folder or name; None for the folder of a run.

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
        problem = "which holds neither" if path.exists() else "which does not exist"
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
    """`list_entries`, except that a damaged entry is an error if it is the `wanted` one."""
    entries: dict[str, Entry] = {}
    for folder in entry_folders():
        try:
            entry = Entry.load(folder)
        except BnasLarqError as error:
            if folder.name == wanted and wanted not in entries:
                raise
            warnings.warn(f"A zoo entry is left out. {error}", stacklevel=3)
        else:
            entries.setdefault(entry.name, entry)
    return [entries[name] for name in sorted(entries)]


def _has_own_size(entry: Entry, wanted: str | None) -> bool:
    """Whether the entry's network has the size of the wanted variant, by default of its own."""
    variant = VARIANTS.get(wanted or entry.variant or "")
    if variant is None:
        return False
    try:
        config = entry.network.config
    except BnasLarqError:  # damage is reported when the entry is used
        return False
    return (config.cells, config.channels) == (variant.cells, variant.channels)


def _nothing(weights: str, variant: str | None, entries: Iterable[Entry]) -> str:
    """The error that there are no such weights, and which there are."""
    own = ", ".join(entry.summary() for entry in entries if belongs(entry.variant, variant))
    others = ", ".join(entry.summary() for entry in entries if not belongs(entry.variant, variant))
    start = "There are" if variant is None else f"For {variant} there are"
    existing = f"{start}: {own}. " if own else f"{start} none. "
    existing += f"For others: {others}. " if others else ""
    known = {name for entry in entries for name in (entry.name, entry.dataset)}
    hint = nearest(weights, known)
    hint = f"; {hint.rstrip('?')}" if hint.startswith("did you mean") else ""
    wanted = f"{weights!r} for {variant}" if variant else repr(weights)
    return (
        f"Published weights are named by their entry or data set. Received: {wanted}, which nobody "
        f"published{hint}. {existing}Make them with `bnas-larq run` and `bnas-larq zoo publish`, "
        "or import the authors' with `bnas-larq zoo import`."
    )
