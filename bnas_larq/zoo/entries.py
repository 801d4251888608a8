"""A published network: a folder whose entry.json names every file with its size and SHA-256.

Entries also come from strangers, so nothing in one is believed: file names stay inside the folder,
and each file is compared with its sum before use. An entry is stored whole or not at all.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnas_larq.errors import ZooError, one_line
from bnas_larq.files import replace_folder, sha256, temporary_folder, write_atomic, write_json
from bnas_larq.resources import cache_dir
from bnas_larq.text_files import MAX_BYTES, open_regular
from bnas_larq.zoo.downloads import download
from bnas_larq.zoo.entry_format import (
    ENTRY,
    FORMAT,
    GENOTYPE,
    NETWORK,
    VERSION,
    WEIGHTS,
    check_name,
    claims_to_be_entry,
    inside,
    read_entry,
)

if TYPE_CHECKING:
    from bnas_larq.backend import keras
    from bnas_larq.data import Normalization
    from bnas_larq.networks.network_files import StoredNetwork

CARD = "card.md"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A published or imported network.

    Attributes:
        folder: where it is.
        name: unique in its zoo; small letters, digits and hyphens.
        variant: the family member it belongs to, such as "bnas-d", at whatever size; None for a
            network outside the family.
        dataset: what it was trained on, such as "cifar10".
        genotype: id of its cells; None for a network without.
        source: "published" (from a run of bnas_larq) or "imported" (others' weights).
        redistributable: whether its licence allows redistribution.
        license: name of the licence, or its terms in a sentence.
        description: one line for lists.
        metrics: on the test split `accuracy`, `top5_accuracy`, `loss`, `examples`; and
            `validation_accuracy`. Empty if nothing was measured.
        cost: `Costs.to_dict` without layers.
        deployed: its `.tflite` file's `bytes`, `sha256`, `float_storage`, `memory`, `accuracy` and
            numbers of `binary_convolutions` and `float_convolutions`. Empty if there was none.
        provenance: recipe, seed, versions, weights it was fine-tuned from.
        files: relative name → `sha256`, `bytes`, and `url` for a file that is downloaded when it is
            first needed.

    Example:
        >>> from bnas_larq.zoo import find_entry
        >>> entry = find_entry("bnasd-digits-small")
        >>> entry.summary()
        'bnasd-digits-small (bnas-d, digits, 96.38%)'
        >>> entry.verify()  # every file is here and intact
        ()
        >>> entry.network.config.cells, len(entry.class_names)
        (3, 10)
    """

    folder: Path
    name: str
    variant: str | None
    dataset: str
    genotype: str | None
    source: str
    redistributable: bool
    license: str
    description: str
    metrics: Mapping[str, Any]
    cost: Mapping[str, Any]
    provenance: Mapping[str, Any]
    files: Mapping[str, Mapping[str, Any]]
    deployed: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def load(cls, folder: str | Path) -> Entry:
        """Read and validate a folder's entry.json; `verify` checks the files it names.

        Raises:
            ZooError: no entry, damaged, of another version, an unknown key, or a file name that
                leaves the folder.
        """
        return cls(Path(folder), **read_entry(Path(folder)))

    @classmethod
    def create(
        cls, folder: str | Path, *, urls: Mapping[str, str] | None = None, **facts: Any
    ) -> Entry:
        """Write entry.json for all files in `folder`, except hidden ones.

        Args:
            folder: holds network.json, genotype.json, weights.h5 and what else belongs to the
                entry.
            urls: where files can be downloaded that may be missing from the folder later.
            facts: `name`, `variant`, `dataset`; by default a published, redistributable network
                under Apache-2.0 without `description`, `metrics`, `cost` and `provenance`. See the
                class.

        Raises:
            ZooError: a fact is missing or not allowed, or a file is missing.
            BnasLarqError: network.json or genotype.json is damaged.
        """
        from bnas_larq.networks.network_files import StoredNetwork

        folder = Path(folder)
        paths = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
        visible = {
            name.as_posix(): path
            for name, path in paths.items()
            if name != Path(ENTRY) and not any(part.startswith(".") for part in name.parts)
        }
        files = {
            name: {"sha256": sha256(path), "bytes": path.stat().st_size}
            for name, path in sorted(visible.items())
        }
        for file, url in (urls or {}).items():
            files[file]["url"] = url
        values = {
            "format": FORMAT,
            "version": VERSION,
            **{key: facts.pop(key, None) for key in ("name", "variant", "dataset")},
            "genotype": StoredNetwork.load(folder).genotype_id,
            "source": "published",
            "redistributable": True,
            "license": "Apache-2.0",
            "description": "",
            **{key: {} for key in ("metrics", "cost", "provenance")},
            **facts,
            "files": files,
        }
        write_json(folder / ENTRY, values)
        return cls.load(folder)

    def verify(self) -> tuple[str, ...]:
        """Compare every file with its size and SHA-256, and the genotype with the network's; return
        the names of files that are not here but can be downloaded, which were not checked.

        Raises:
            ZooError: a file is missing or not as it was published, or the files do not belong
                together.
            BnasLarqError: a file with the right sum is damaged all the same.
        """
        remote = tuple(
            name
            for name, facts in self.files.items()
            if "url" in facts and not (self.folder / name).is_file()
        )
        for name in self.files:
            if name not in remote:
                self.checked_file(name)
        self.network  # noqa: B018 - compares its files
        return remote

    def fetch(self) -> Path:
        """Make sure that every file is on this machine, as it was published, and return their
        folder: the entry's own, or one in the cache if some had to be downloaded.

        Raises:
            ZooError, WeightsError: see `verify` and `bnas_larq.zoo.downloads.download`.
        """
        remote = self.verify()
        if not remote:
            return self.folder
        # Named by the weights' sum, so that versions of an entry do not share a folder.
        target = cache_dir() / f"{self.name}-{self.files[WEIGHTS]['sha256'][:12]}"
        for name, facts in self.files.items():
            path = inside(target, name)
            if name in remote:
                download(facts["url"], path, sha256=facts["sha256"], size=facts["bytes"])
            elif not _is_intact(path, facts):
                write_atomic(path, self.checked_file(name).read_bytes())
        return target

    def checked_file(self, name: str) -> Path:
        """The path of a file of this folder that is as it was published."""
        path = inside(self.folder, name)
        if not path.is_file():
            raise ZooError(
                f"A zoo entry's files must all be there. Received: {self.name} without {path}. "
                "Restore the file, or install bnas-larq or the entry again."
            )
        if not _is_intact(path, self.files[name]):
            raise ZooError(
                "A zoo entry's files must be as they were published. "
                f"Received: {path}, whose size or SHA-256 differs from {ENTRY}. "
                "Do not use it: restore the file, or install bnas-larq or the entry again."
            )
        return path

    @functools.cached_property
    def network(self) -> StoredNetwork:
        """Genotype, size, class names and normalisation; weights are not touched. ZooError unless
        network.json and genotype.json are as they were published."""
        from bnas_larq.networks.network_files import StoredNetwork

        for name in (NETWORK, GENOTYPE):
            if name in self.files:
                self.checked_file(name)
        network = StoredNetwork.load(self.folder)  # compares network.json with genotype.json
        if network.genotype_id != self.genotype:
            raise ZooError(
                f"{ENTRY} and genotype.json must belong together. Received: {self.genotype} and "
                f"{network.genotype_id} in {self.folder}. Restore the files."
            )
        return network

    def load_model(self, **settings: Any) -> keras.Model:
        """The network with its weights, downloaded if necessary and verified; settings such as
        `include_top` are those of `bnas_larq.networks.network.build_network`.

        Raises:
            ZooError, WeightsError: a file is missing or not as it was published.
        """
        from bnas_larq.networks.network_files import StoredNetwork

        return StoredNetwork.load(self.fetch()).load_model(**settings)

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per output."""
        return self.network.class_names

    @property
    def normalization(self) -> Normalization:
        """How images are prepared for it."""
        from bnas_larq.data import Normalization

        return Normalization.from_dict(self.network.normalization)

    @property
    def accuracy(self) -> float | None:
        """Test accuracy between 0 and 1, or None if it was not measured."""
        return self.metrics.get("accuracy")

    @property
    def card(self) -> str:
        """The model card, Markdown without control characters, which could rewrite a terminal."""
        if CARD not in self.files:
            return f"# {self.name}\n\n{self.description}\n\nLicence: {self.license}\n"
        with open_regular(self.checked_file(CARD)) as stream:
            text = stream.read(MAX_BYTES).decode(errors="replace")
        return "".join(c for c in text if c == "\n" or c.isprintable())

    def summary(self) -> str:
        """`bnasd-cifar10-small (bnas-d, cifar10, 61.70 %)`, for messages."""
        accuracy = "no measured accuracy" if self.accuracy is None else f"{self.accuracy:.2%}"
        return f"{self.name} ({self.variant or 'no variant'}, {self.dataset}, {accuracy})"


def store_entry(
    zoo: str | Path,
    name: str,
    fill: Callable[[Path], Mapping[str, Any]],
    *,
    overwrite: bool = False,
) -> Entry:
    """Make the entry `zoo/name`, and the folder `zoo` if necessary.

    Args:
        fill: writes all files but entry.json to the temporary folder it is given, and returns the
            arguments of `Entry.create` but `name`.
        overwrite: replace an earlier entry of this name, which stays if anything fails.

    Raises:
        ZooError: the name is not allowed or taken, or the disk refuses.
        BnasLarqError: whatever `fill` raises; nothing is left behind.
    """
    target = check_target(zoo, name, overwrite=overwrite)
    temporary = None
    try:
        temporary = temporary_folder(target)
        Entry.create(temporary, name=name, **fill(temporary)).verify()
        check_target(zoo, name, overwrite=overwrite)  # again: `fill` may take minutes
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
    """The folder of a new entry; nothing is touched. ZooError for a name that is not allowed, is
    taken (without `overwrite`), or belongs to another folder than an entry's."""
    check_name(name)
    target = Path(zoo) / name
    if not os.path.lexists(target):
        return target
    if target.is_symlink() or not claims_to_be_entry(target):
        raise ZooError(
            f"Only an earlier entry is ever replaced. Received: {target}, which is not one. "
            "Choose another --name or --out."
        )
    if not overwrite:
        raise ZooError(
            f"A new zoo entry needs a name of its own. Received: {name!r}, which is in {zoo}. "
            "Choose another --name, or replace it with --overwrite."
        )
    return target


def _is_intact(path: Path, facts: Mapping[str, Any]) -> bool:
    has_size = path.is_file() and path.stat().st_size == facts["bytes"]
    return has_size and sha256(path) == facts["sha256"]
