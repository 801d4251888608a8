"""What the TARGET of a command means: one grammar for all commands.

A text can mean, in this order:

1. `larq_zoo:NAME`: a network of larq_zoo with random weights.
2. A path that ends with .h5, .hdf5 or .keras: a saved Keras model.
3. A published name (bnas_cifar), `random:SEED`, `random:SPACE:SEED` or another file: a genotype.
4. The name of a variant (bnas-d), or of a network that the papers compare with (bireal18), in any
   case.
5. A folder with entry.json: a zoo entry. A folder with network.json or recipe.yaml: a run.
6. The name of a zoo entry, whatever else a folder of that name holds, such as a deploy bundle.

Each command says which kinds it takes, and the first of these counts: `bnas-larq cost bnas-d` means
the variant, `bnas-larq finetune bnas-d` the run in the folder bnas-d, if there is one. A
`pathlib.Path` names no entry, only a folder. TensorFlow is loaded only to build or read a network.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bnas_larq.errors import ZooError, nearest
from bnas_larq.files import MODEL_SUFFIXES
from bnas_larq.genotype import PUBLISHED, genotype_file
from bnas_larq.zoo.entry_format import ENTRY
from bnas_larq.zoo.literature import LITERATURE
from bnas_larq.zoo.registry import entry_folders, list_entries, resolve_entry
from bnas_larq.zoo.variants import VARIANTS

if TYPE_CHECKING:
    from bnas_larq.networks.network_files import StoredNetwork
    from bnas_larq.zoo.entries import Entry

LARQ_ZOO = "larq_zoo:"


class Kind(enum.Enum):
    """What a target can be, as messages say it."""

    VARIANT = "a variant (bnas-d)"
    LITERATURE = "a network that papers compare with (bireal18)"
    GENOTYPE = "a genotype (bnas_cifar, random:SEED or a file)"
    RUN = "a run's folder"
    ENTRY = "a zoo entry (its name or folder)"
    SAVED_MODEL = "a saved Keras model (.h5, .keras)"
    LARQ_ZOO = "a larq_zoo network (larq_zoo:QuickNet)"

    @property
    def noun(self) -> str:
        """Without the examples."""
        return self.value.partition(" (")[0]


#: With trained weights, genotype and size.
TRAINED = (Kind.RUN, Kind.ENTRY)
#: What a stage of a training may start or learn from, and who takes it.
WEIGHT_KINDS, STAGE = (*TRAINED, Kind.SAVED_MODEL), "A stage of a training"
#: Of any size: made of cells, but for trained networks of other kinds.
OF_CELLS = (Kind.VARIANT, Kind.GENOTYPE, *TRAINED)


@dataclass(frozen=True)
class Target:
    """What a text means; `find_target` makes it.

    Attributes:
        text: as the user wrote it.
        kind: what it is.
        entry: the zoo entry, if it is one.
    """

    text: str
    kind: Kind
    entry: Entry | None = None

    @property
    def path(self) -> Path:
        """The text as a path."""
        return Path(self.text)

    @property
    def name(self) -> str:
        """What messages and model cards call it."""
        if self.kind is Kind.RUN:
            return self.path.resolve().name
        return self.entry.name if self.entry else self.path.name

    @property
    def reference(self) -> str:
        """What a recipe calls it, from any folder: an entry's name, or an absolute path."""
        path = self.path.resolve()
        return self.text if self.entry and self.entry.folder.resolve() != path else str(path)

    def network(self) -> StoredNetwork:
        """The description of a run's or an entry's network; weights stay where they are.

        Raises:
            RunError, ZooError: there is none, or it is damaged.
        """
        return self.entry.network if self.entry else self._stored(self.path)

    def trained_network(self) -> StoredNetwork:
        """The same with its weights; an entry's are downloaded if necessary, and verified."""
        return self._stored(self.entry.fetch() if self.entry else self.path)

    @staticmethod
    def _stored(folder: Path) -> StoredNetwork:
        from bnas_larq.networks.network_files import StoredNetwork

        return StoredNetwork.load(folder)


def find_target(text: str | Path, kinds: Sequence[Kind], taker: str) -> Target:
    """What `text` means to a command that takes `kinds`.

    Args:
        kinds: what it may be.
        taker: who takes them, such as "`bnas-larq cost`", for the message of a refusal.

    Raises:
        ZooError: not one of `kinds`, or a damaged zoo entry.
    """
    refused = []
    for target in _meanings(text):
        if target.kind in kinds:
            return target
        refused.append(target.kind)
    *most, last = [kind.value for kind in kinds]
    taken = f"{', '.join(most)} or {last}" if most else last
    problem = _refused(text, kinds, refused[0]) if refused else _unknown(str(text), kinds)
    raise ZooError(f"{taker} takes {taken}. Received: {str(text)!r}{problem}")


def find_source(entry: str | Path) -> Target:
    """The run or zoo entry that a fine-tuning starts from; ZooError as of `find_target`."""
    return find_target(entry, TRAINED, "Fine-tuning")


def _meanings(text: str | Path) -> Iterator[Target]:
    """All that `text` can mean, first what counts first."""
    name, path = str(text), Path(text)
    if name.startswith(LARQ_ZOO):
        yield Target(name, Kind.LARQ_ZOO)
    if path.suffix in MODEL_SUFFIXES:
        yield Target(name, Kind.SAVED_MODEL)
    elif name in PUBLISHED or name.startswith("random:") or genotype_file(text)[0].is_file():
        yield Target(name, Kind.GENOTYPE)
    if name.lower() in VARIANTS:
        yield Target(name, Kind.VARIANT)
    if name.lower() in LITERATURE:
        yield Target(name, Kind.LITERATURE)
    try:
        entry = resolve_entry(text)
    except ZooError:
        if (path / ENTRY).exists() or name in {folder.name for folder in entry_folders()}:
            raise  # it is an entry, but damaged
    else:
        yield Target(name, Kind.ENTRY if entry else Kind.RUN, entry)


def _refused(text: str | Path, kinds: Sequence[Kind], kind: Kind) -> str:
    """What a refused text is, and the way out."""
    if kind is Kind.GENOTYPE and Path(text).is_file():
        return ", a file."
    publish = " Publish it first: bnas-larq zoo publish."
    return f", {kind.noun}.{publish if kind is Kind.RUN and Kind.ENTRY in kinds else ''}"


def _unknown(text: str, kinds: Sequence[Kind]) -> str:
    """What is wrong with a text that means nothing, and the way out."""
    path, entries = Path(text), list_entries() if Kind.ENTRY in kinds else []
    known = [entry.name for entry in entries]
    known += VARIANTS if Kind.VARIANT in kinds else ()
    known += LITERATURE if Kind.LITERATURE in kinds else ()
    known += PUBLISHED if Kind.GENOTYPE in kinds else ()
    if (text and path.exists()) or len(path.parts) > 1 or not known:
        problem = (
            "a folder that holds neither a run nor an entry"
            if path.exists()
            else "which does not exist"
        )
        listing = "zoo list` shows the entries" if Kind.ENTRY in kinds else "run` writes one"
        return f", {problem}. `bnas-larq {listing}."
    if of_data := [entry.summary() for entry in entries if entry.dataset == text]:
        return f", a data set's name. Entries of it: {', '.join(of_data)}."
    return f"; {nearest(text, known)}"
