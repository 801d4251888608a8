"""A published network: a folder whose entry.json names every file with its size and SHA-256.

Entries come from strangers too, so that nothing in one is believed: names of files stay inside the
folder, and each file is compared with its sum before it is used.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnas_larq.errors import ZooError
from bnas_larq.files import sha256, write_atomic, write_json
from bnas_larq.resources import cache_dir
from bnas_larq.zoo.downloads import download
from bnas_larq.zoo.entry_format import (
    DESCRIPTION,
    ENTRY,
    FORMAT,
    VERSION,
    WEIGHTS,
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
    """A published or imported network; `load` reads one, `create` writes one.

    Attributes:
        folder: where it is.
        name: unique in its zoo, of small letters, digits and hyphens.
        variant: the family member that it is the weights of, such as "bnas-d", at whatever size;
            None for a network outside the family.
        dataset: what it was trained on, such as "cifar10".
        genotype: id of its cells.
        source: "published" (from a run of bnas_larq) or "imported" (somebody else's weights).
        redistributable: whether its licence lets it be given to others.
        license: name of the licence, or its terms in a sentence.
        description: one line for lists.
        metrics: of the test split: `accuracy`, `top5_accuracy`, `loss`, `examples`; and
            `validation_accuracy`. Empty where nothing was measured.
        cost: as `Costs.to_dict`, without layers.
        provenance: recipe, seed, versions, weights it began from.
        files: relative name → `sha256`, `bytes`, and `url` for a file that is downloaded when it is
            first needed.
    """

    folder: Path
    name: str
    variant: str | None
    dataset: str
    genotype: str
    source: str
    redistributable: bool
    license: str
    description: str
    metrics: Mapping[str, Any]
    cost: Mapping[str, Any]
    provenance: Mapping[str, Any]
    files: Mapping[str, Mapping[str, Any]]

    # -- reading and writing ---------------------------------------------------------------------

    @classmethod
    def load(cls, folder: str | Path) -> Entry:
        """Read and check a folder's entry.json; `verify` checks the files it names.

        Raises:
            ZooError: no entry, damaged, of another version, an unknown key, or a file name that
                leaves the folder.
        """
        return cls(Path(folder), **read_entry(Path(folder)))

    @classmethod
    def create(
        cls,
        folder: str | Path,
        *,
        name: str,
        variant: str | None,
        dataset: str,
        source: str = "published",
        redistributable: bool = True,
        license: str = "Apache-2.0",
        description: str = "",
        metrics: Mapping[str, Any] | None = None,
        cost: Mapping[str, Any] | None = None,
        provenance: Mapping[str, Any] | None = None,
        urls: Mapping[str, str] | None = None,
    ) -> Entry:
        """Write entry.json over all files that lie in `folder` (hidden ones left out).

        Use `bnas_larq.zoo.storing.store_entry`, which fills a temporary folder and renames it.

        Args:
            folder: holds network.json, genotype.json, weights.h5 and what else belongs to it.
            urls: where a file can be had, for those that may be left out of the folder later.
            Others: see the class.

        Raises:
            ZooError: a name is not allowed, or a file is missing.
            BnasLarqError: network.json or genotype.json is damaged.
        """
        from bnas_larq.networks.network_files import StoredNetwork

        folder = Path(folder)
        urls = dict(urls or {})
        values = {
            "format": FORMAT,
            "version": VERSION,
            "name": name,
            "variant": variant,
            "dataset": dataset,
            "genotype": StoredNetwork.load(folder).genotype.id,
            "source": source,
            "redistributable": redistributable,
            "license": license,
            "description": description,
            "metrics": dict(metrics or {}),
            "cost": dict(cost or {}),
            "provenance": dict(provenance or {}),
            "files": {
                file: {
                    "sha256": sha256(folder / file),
                    "bytes": (folder / file).stat().st_size,
                    **({"url": urls[file]} if file in urls else {}),
                }
                for file in _files_in(folder)
            },
        }
        write_json(folder / ENTRY, values)
        return cls.load(folder)

    # -- files -----------------------------------------------------------------------------------

    def verify(self) -> tuple[str, ...]:
        """Compare every file with its size and SHA-256, and the genotype with the network's.

        Returns:
            Names of files that are not here but can be downloaded, and so were not checked.

        Raises:
            ZooError: a file is missing, tampered with or cut off, or the files do not belong
                together.
            BnasLarqError: a file with the right sum is damaged all the same.
        """
        remote = tuple(self._remote())
        for name in self.files:
            if name not in remote:
                self._checked(name)
        network = self.network  # compares network.json with genotype.json
        if network.genotype.id != self.genotype:
            raise ZooError(
                f"{ENTRY} and genotype.json must belong together. Received: {self.genotype} and "
                f"{network.genotype.id} in {self.folder}. Restore the files."
            )
        return remote

    def fetch(self) -> Path:
        """Make sure that every file is on this machine, as it was published.

        Returns:
            The folder that holds them all: the entry's own, or one in the cache when some had to be
            downloaded.

        Raises:
            ZooError, WeightsError: see `verify` and `bnas_larq.zoo.downloads.download`.
        """
        remote = self.verify()
        if not remote:
            return self.folder
        # Of the weights' sum, so that a newer version of the entry does not meet the older's files.
        target = cache_dir() / f"{self.name}-{self.files[WEIGHTS]['sha256'][:12]}"
        for name, facts in self.files.items():
            path = inside(target, name)
            if name in remote:
                download(facts["url"], path, sha256=facts["sha256"], size=facts["bytes"])
            elif not _is_same(path, facts):
                write_atomic(path, self._checked(name).read_bytes())
        return target

    def _remote(self) -> Iterator[str]:
        for name, facts in self.files.items():
            if "url" in facts and not (self.folder / name).is_file():
                yield name

    def _checked(self, name: str) -> Path:
        """The path of a file of this folder that is as it was published."""
        path, facts = inside(self.folder, name), self.files[name]
        if not path.is_file():
            raise ZooError(
                f"A zoo entry's files must all be there. Received: {self.name} without {path}. "
                "Restore the file, or install bnas-larq or the entry again."
            )
        if not _is_same(path, facts):
            raise ZooError(
                "A zoo entry's files must be as they were published. "
                f"Received: {path}, whose size or SHA-256 is another than in {ENTRY}. "
                "Do not use it: restore the file, or install bnas-larq or the entry again."
            )
        return path

    # -- what it is for --------------------------------------------------------------------------

    @functools.cached_property
    def network(self) -> StoredNetwork:
        """Genotype, size, class names and normalisation, checked; the weights are not touched.

        Raises:
            ZooError: network.json or genotype.json is not as it was published.
        """
        from bnas_larq.networks.network_files import StoredNetwork

        for name in DESCRIPTION:
            self._checked(name)
        return StoredNetwork.load(self.folder)

    def load_model(self, **settings: Any) -> keras.Model:
        """The network with its weights: verified, and downloaded first where necessary.

        Args:
            settings: as of `bnas_larq.networks.network.build_network`, such as `include_top`.

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
        """Share of test images that it gets right, or None where nobody measured it."""
        return self.metrics.get("accuracy")

    @property
    def card(self) -> str:
        """The model card, Markdown; without control characters, which could rewrite a terminal."""
        if CARD not in self.files:
            return f"# {self.name}\n\n{self.description}\n\nLicence: {self.license}\n"
        text = self._checked(CARD).read_text(encoding="utf-8", errors="replace")
        return "".join(c for c in text if c == "\n" or c.isprintable())

    def summary(self) -> str:
        """`bnasd-cifar10-small (bnas-d, cifar10, 61.70 %)`, for messages."""
        accuracy = "no measured accuracy" if self.accuracy is None else f"{self.accuracy:.2%}"
        return f"{self.name} ({self.variant or 'no variant'}, {self.dataset}, {accuracy})"


def _files_in(folder: Path) -> list[str]:
    """Relative POSIX names of all files but entry.json and hidden ones, sorted."""
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        relative = Path(parent).relative_to(folder)
        found += [(relative / name).as_posix() for name in names if not name.startswith(".")]
    return sorted(name for name in found if name != ENTRY)


def _is_same(path: Path, facts: Mapping[str, Any]) -> bool:
    return (
        path.is_file() and path.stat().st_size == facts["bytes"] and sha256(path) == facts["sha256"]
    )
