"""Puts entries into a zoo's folder: whole or not at all, and only entries are ever replaced."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bnas_larq.errors import ZooError, one_line
from bnas_larq.files import replace_folder, temporary_folder
from bnas_larq.zoo.entries import Entry
from bnas_larq.zoo.entry_format import check_name, claims_to_be_entry


def store_entry(
    zoo: str | Path,
    name: str,
    fill: Callable[[Path], Mapping[str, Any]],
    *,
    overwrite: bool = False,
) -> Entry:
    """Make the entry `zoo/name`.

    Args:
        zoo: folder of entries, such as `bnas_larq.zoo.registry.user_zoo()`; made if need be.
        name: of the entry, and of its folder.
        fill: writes all files but entry.json into the temporary folder it is given, and returns the
            arguments of `Entry.create` but `name`.
        overwrite: replace an earlier entry of this name; it stays if anything goes wrong.

    Raises:
        ZooError: the name is not allowed or taken, or the disk refuses.
        BnasLarqError: whatever `fill` raises; nothing is left behind.
    """
    target = check_target(zoo, name, overwrite=overwrite)
    temporary = None
    try:
        temporary = temporary_folder(target)
        facts = fill(temporary)
        Entry.create(temporary, name=name, **facts).verify()
        # Once more: what `fill` does may take minutes.
        check_target(zoo, name, overwrite=overwrite)
        replace_folder(temporary, target)
    except OSError as error:
        raise ZooError(
            f"A zoo entry must be written to disk. Received: {one_line(error)}. "
            "Free space or choose another --out; an earlier entry is untouched."
        ) from error
    finally:
        if temporary is not None:  # renamed already unless something failed
            shutil.rmtree(temporary, ignore_errors=True)
    return Entry.load(target)


def check_target(zoo: str | Path, name: str, *, overwrite: bool = False) -> Path:
    """The folder of a new entry, without touching anything.

    Raises:
        ZooError: the name is not allowed, or taken (without `overwrite`), or by no entry.
    """
    check_name(name)
    target = Path(zoo) / name
    if not os.path.lexists(target):
        return target
    if target.is_symlink() or not claims_to_be_entry(target):
        raise ZooError(
            f"Only an earlier entry is ever replaced. Received: {target}, which is none. "
            "Choose another --name or --out."
        )
    if not overwrite:
        raise ZooError(
            f"A new zoo entry needs a name of its own. Received: {name!r}, which is in {zoo}. "
            "Choose another --name, or replace it with --overwrite."
        )
    return target
