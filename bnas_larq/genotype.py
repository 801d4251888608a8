"""The genotype: plain data that a search finds and a network is built from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bnas_larq.darts_notation import PUBLISHED, SOURCES, parse_darts, write_darts
from bnas_larq.errors import GenotypeError, nearest, one_line
from bnas_larq.files import write_atomic
from bnas_larq.spaces import KINDS, MAX_NODES, ZEROISE, SearchSpace, check_operation
from bnas_larq.text_files import parse_json, read_text

FORMAT = "bnas_larq.genotype"
VERSION = 1
_MAX_BYTES = 2**20


def genotype_file(source: str | Path) -> tuple[Path, str | None]:
    """The file, and the name in it, of `FILE` or `FILE:NAME`."""
    path, _, name = str(source).rpartition(":")
    if name.isidentifier() and path and not Path(source).is_file():
        return Path(path), name
    return Path(source), None


class Edge(NamedTuple):
    """One kept edge: its operation and the state it reads (0 older, 1 newer input, 2 … nodes).

    Example:
        >>> Edge("bin_conv_3x3", state=1)
        Edge(op='bin_conv_3x3', state=1)
    """

    op: str
    state: int


Cell = tuple[tuple[Edge, ...], ...]


def _checked_cell(kind: str, cell: Any) -> Cell:
    """The cell as tuples of edges; GenotypeError names the first invalid entry."""
    if not isinstance(cell, Sequence) or isinstance(cell, str) or not cell:
        raise GenotypeError(
            f"A genotype's {kind} cell must be a list of nodes. Received: {cell!r}. "
            "Give each node's edges as a list."
        )
    if len(cell) > MAX_NODES:
        raise GenotypeError(
            f"A cell has at most {MAX_NODES} nodes. Received: {len(cell)} in the {kind} cell."
        )
    nodes = []
    for index, node in enumerate(cell):
        if not isinstance(node, Sequence) or isinstance(node, str) or not node:
            raise GenotypeError(
                "A node must be a list of at least one edge. "
                f"Received: {node!r} as node {index} of the {kind} cell."
            )
        edges = []
        for entry in node:
            if isinstance(entry, Mapping) and set(entry) == {"op", "state"}:
                entry = (entry["op"], entry["state"])
            match entry:
                case [str(), int()] if not isinstance(entry[1], bool):
                    edge = Edge(*entry)
                case _:
                    raise GenotypeError(
                        "An edge must name an operation and the number of the state it reads. "
                        f"Received: {entry!r} at node {index} of the {kind} cell."
                    )
            check_operation(edge.op)
            if not 0 <= edge.state < 2 + index:
                raise GenotypeError(
                    f"Node {index} can read states 0 to {1 + index} only (its cell's inputs and "
                    f"earlier nodes). Received: state {edge.state} for {edge.op!r} in the {kind} "
                    "cell. Correct the edge."
                )
            edges.append(edge)
        if len({edge.state for edge in edges}) != len(edges):
            raise GenotypeError(
                "A node keeps at most one operation for each state it reads. "
                f"Received: {[tuple(edge) for edge in edges]} as node {index} of the {kind} cell."
            )
        nodes.append(tuple(edges))
    return tuple(nodes)


@dataclasses.dataclass(frozen=True)
class Genotype:
    """Two cells, each a tuple of nodes, each node a tuple of edges; a node is the sum of its edges,
    the cell's output the concatenation of all nodes.

    Attributes:
        normal: the cell used at constant resolution.
        reduce: the cell whose edges from the two inputs have stride 2.
        name: a label; not part of the identity.
        provenance: where it came from (settings, data, seed, paper); not part of the identity.

    Raises:
        GenotypeError: an impossible edge, an unknown operation, or two edges from the same state.

    Example:
        >>> genotype = Genotype.published("bnas_imagenet")
        >>> genotype.id, genotype.count("bin_conv_3x3")
        ('g-a447a986432f', 6)
        >>> genotype.reduce[0]
        (Edge(op='max_pool_3x3', state=0), Edge(op='max_pool_3x3', state=1))
        >>> Genotype.from_json(genotype.to_json()) == genotype
        True
    """

    normal: Cell
    reduce: Cell
    name: str | None = dataclasses.field(default=None, compare=False)
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "normal", _checked_cell("normal", self.normal))
        object.__setattr__(self, "reduce", _checked_cell("reduce", self.reduce))

    @property
    def id(self) -> str:
        """`g-` and 12 hexadecimal digits, whatever the order of a node's (summed) edges."""
        cells = [[sorted((e.state, e.op) for e in node) for node in cell] for cell in self.cells]
        text = json.dumps(cells, separators=(",", ":"))
        return "g-" + hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def cells(self) -> tuple[Cell, Cell]:
        """The normal and the reduction cell."""
        return self.normal, self.reduce

    @property
    def operations(self) -> frozenset[str]:
        """Names of the operations on the edges of both cells."""
        return frozenset(edge.op for cell in self.cells for node in cell for edge in node)

    def count(self, op: str) -> int:
        """How many edges of both cells have the operation `op`."""
        return sum(edge.op == op for cell in self.cells for node in cell for edge in node)

    def to_dict(self) -> dict[str, Any]:
        """A versioned description for JSON; the inverse of `Genotype.from_dict`."""
        cells = {
            kind: [[edge._asdict() for edge in node] for node in cell]
            for kind, cell in zip(KINDS, self.cells, strict=True)
        }
        header = {"format": FORMAT, "version": VERSION, "id": self.id, "name": self.name}
        return {**header, **cells, "provenance": dict(self.provenance)}

    def to_json(self) -> str:
        """`to_dict` as indented JSON text."""
        return json.dumps(self.to_dict(), indent=1) + "\n"

    @classmethod
    def from_dict(cls, values: Any) -> Genotype:
        """The inverse of `to_dict`. GenotypeError for another format or version, missing or unknown
        keys, or a wrong id.
        """
        if not isinstance(values, Mapping) or values.get("format") != FORMAT:
            raise GenotypeError(
                f'A genotype file must hold a JSON object with "format": "{FORMAT}". '
                f"Received: {one_line(values)[:80]}. Use a genotype.json that a search wrote."
            )
        if values.get("version") != VERSION:
            raise GenotypeError(
                f"This release reads genotype files of version {VERSION}. Received: version "
                f"{values.get('version')!r}. Install the release that wrote it."
            )
        known = {"format", "version", "id", "name", "normal", "reduce", "provenance"}
        for key in values:
            if key not in known:
                raise GenotypeError(
                    f"Genotype files have fixed keys. Received: {key!r}; {nearest(key, known)}"
                )
        for key in KINDS:
            if key not in values:
                raise GenotypeError(f"A genotype needs both cells. Received: no {key!r}. Add it.")
        provenance = values.get("provenance") or {}
        name = values.get("name")
        if not isinstance(provenance, Mapping):
            raise GenotypeError(
                f"A genotype's provenance must be an object. Received: {provenance!r}."
            )
        if not isinstance(name, str | None):
            raise GenotypeError(f"A genotype's name must be a text or null. Received: {name!r}.")
        genotype = cls(values["normal"], values["reduce"], name, provenance)
        if values.get("id", genotype.id) != genotype.id:
            raise GenotypeError(
                f"A genotype's id must match its cells. Received: id {values['id']!r} for cells of "
                f"{genotype.id!r}. Remove the id if you changed the cells on purpose."
            )
        return genotype

    @classmethod
    def from_json(cls, text: str) -> Genotype:
        """Read what `to_json` wrote."""
        try:
            values = parse_json(text)
        except ValueError as error:
            raise GenotypeError(
                f"A genotype must be JSON text. Received: {one_line(error)}."
            ) from error
        return cls.from_dict(values)

    @classmethod
    def load(cls, source: str | Path) -> Genotype:
        """A genotype from a file (JSON, DARTS' notation, a log that holds it, or `FILE:NAME` for
        one of several), a published name or a random one: `random:SEED` of the space `bnas`, or
        `random:SPACE:SEED`.
        """
        text = str(source)
        if text in PUBLISHED:
            return cls.published(text)
        if text.startswith("random:"):
            space, _, seed = text.removeprefix("random:").rpartition(":")
            if not seed.isdecimal() or len(seed) > 18:
                raise GenotypeError(
                    "A random genotype is `random:SPACE:SEED`, or in BNAS' space `random:SEED`, "
                    f"SEED a number. Received: {text!r}."
                )
            return cls.random(SearchSpace.named(space or "bnas"), int(seed))
        path, name = genotype_file(source)
        try:
            content = read_text(path, _MAX_BYTES)
        except (OSError, ValueError) as error:
            raise GenotypeError(
                "A genotype is a readable file, random:SEED or a published name. "
                f"Received: {text!r} ({type(error).__name__}); {nearest(text, PUBLISHED)}"
            ) from error
        if "Genotype(" in content and not content.lstrip().startswith("{"):
            return cls.from_darts(content, name, assigned_to=name)
        return cls.from_json(content)

    @classmethod
    def published(cls, name: str) -> Genotype:
        """A cell of arXiv 2002.06963: `bnas_cifar` (BNAS-A … C), `bnas_imagenet` (BNAS-D … H); or
        of arXiv 2003.01711: `bats`."""
        if name not in PUBLISHED:
            raise GenotypeError(
                f"Only published cells have names. Received: {name!r}; {nearest(name, PUBLISHED)}"
            )
        cells = parse_darts(PUBLISHED[name])
        return cls(*cells, name, {"source": SOURCES[name]})

    @classmethod
    def random(cls, space: SearchSpace, seed: int) -> Genotype:
        """A uniform draw: distinct states for each node, an operation of `space` for each edge.

        A cell of Zeroise alone is drawn again: it carries no signal.
        """
        generator = random.Random(seed)

        def draw(operations: Sequence[str]) -> Cell:
            while True:
                cell = tuple(
                    tuple(
                        Edge(generator.choice(operations), state)
                        for state in sorted(generator.sample(range(2 + node), space.edges_per_node))
                    )
                    for node in range(space.nodes)
                )
                if any(edge.op != ZEROISE for node in cell for edge in node):
                    return cell

        provenance = {"source": "uniform draw", "space": space.name, "seed": seed}
        return cls(draw(space.normal), draw(space.reduce), f"random-{seed}", provenance)

    @classmethod
    def from_darts(
        cls, text: str, name: str | None = None, *, assigned_to: str | None = None
    ) -> Genotype:
        """Import DARTS' notation, `Genotype(normal=[('bin_conv_3x3', 1), …], …)`.

        The text is parsed, never run. All nodes must be concatenated and have two edges each.
        `assigned_to` chooses one of several genotypes, see `darts_notation.parse_darts`.
        """
        cells = parse_darts(text, assigned_to)
        return cls(*cells, name or "imported", {"source": "DARTS notation"})

    def to_darts(self) -> str:
        """DARTS' notation, which needs two edges per node."""
        return write_darts(*self.cells)

    def pretty(self) -> str:
        """The genotype as readable text."""
        nodes = max(map(len, self.cells))
        names = ["c_{k-2}", "c_{k-1}", *(f"node {index}" for index in range(nodes))]
        lines = [f"genotype {self.id}" + (f" ({self.name})" if self.name else "")]
        for kind, cell in zip(KINDS, self.cells, strict=True):
            lines.append(f"  {kind} cell")
            for index, node in enumerate(cell):
                terms = " + ".join(f"{edge.op}({names[edge.state]})" for edge in node)
                lines.append(f"    node {index} = {terms}")
        return "\n".join(lines)

    def save(self, path: str | Path) -> None:
        """Write `to_json` to `path`, atomically."""
        write_atomic(path, self.to_json())
