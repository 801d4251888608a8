"""Search spaces: which operations compete on the edges of a cell. Plain data.

Only the operations' names are known here, so that a genotype or a recipe can be checked in
milliseconds; their layers are in `bnas_larq.layers.operations`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable

from bnas_larq.errors import BnasLarqError, GenotypeError, nearest

#: Of cells, in the order in which a genotype has them.
KINDS = ("normal", "reduce")
#: The operation that outputs zeros; it competes as a candidate (Zeroise of BNAS, arXiv 2002.06963).
ZEROISE = "none"
#: The other operations without a convolution. They have nothing to learn and so lead early in a
#: search: too many of them are the usual sign of a collapse.
PARAMETER_FREE = ("max_pool_3x3", "avg_pool_3x3", "identity")
#: What a cell adds to its output: the previous cell's, in a reduction cell brought to its shape by
#: a 2×2 convolution, by a 2×2 pool and its channels twice, or by a depthwise 2×2 convolution.
SHORTCUTS = ("conv", "pool", "depthwise", "none")
#: What stands around the convolutions that preprocess a cell's inputs: BatchNorm in front and ReLU
#: (`relu`) or nothing (`linear`) behind; or BATS' layers, see `bnas_larq.layers.template`.
PREPROCESSINGS = ("relu", "linear", "prelu")
NO_SHORTCUT = "none"
#: Of a cell. DARTS' and BNAS' have 4.
MAX_NODES = 32
_WITH_IDENTITY = (ZEROISE, *PARAMETER_FREE)

_OPERATIONS: dict[str, str] = {
    ZEROISE: "Zeroise: outputs zeros",
    "max_pool_3x3": "3x3 max pooling",
    "avg_pool_3x3": "3x3 average pooling, padding excluded",
    "bin_conv_3x3": "BatchNorm, sign, 3x3 binary convolution, ReLU",
    "bin_conv_5x5": "BatchNorm, sign, 5x5 binary convolution, ReLU",
    "bin_dil_conv_3x3": "BatchNorm, sign, 3x3 binary convolution with dilation 2, ReLU",
    "bin_dil_conv_5x5": "BatchNorm, sign, 5x5 binary convolution with dilation 2, ReLU",
    "identity": "the input itself; with strides BatchNorm, sign, binary factorised reduction",
    "bin_conv_3x3_linear": "BatchNorm, sign, 3x3 binary convolution",
    "bin_conv_5x5_linear": "BatchNorm, sign, 5x5 binary convolution",
    "bin_dil_conv_3x3_linear": "BatchNorm, sign, 3x3 binary convolution with dilation 2",
    "bin_dil_conv_5x5_linear": "BatchNorm, sign, 5x5 binary convolution with dilation 2",
    "bin_sep_conv_3x3": "twice: binary 3x3 depthwise and pointwise convolution, ReLU",
    "bin_sep_conv_5x5": "twice: binary 5x5 depthwise and pointwise convolution, ReLU",
    "bin_dil_sep_conv_3x3": "binary 3x3 depthwise with dilation 2 and pointwise convolution, ReLU",
    "bin_dil_sep_conv_5x5": "binary 5x5 depthwise with dilation 2 and pointwise convolution, ReLU",
    **{
        f"bin_res_{kind}_{size}": f"BatchNorm, sign, {size} binary convolution{dilated}, "
        "BatchNorm, + input, PReLU"
        for kind, dilated in (("conv", ""), ("dil_conv", " with dilation 2"))
        for size in ("3x3", "5x5")
    },
    **{
        f"bin_group_{kind}_{size}": f"BatchNorm, sign, {size} binary convolution{dilated} in "
        "groups, learned scale, PReLU, without strides + input"
        for kind, dilated in (("conv", ""), ("dil_conv", " with dilation 2"))
        for size in ("3x3", "5x5")
    },
}


def declare_operation(name: str, description: str) -> None:
    """Make an operation's name known to search spaces and genotypes; `register_operation` does."""
    if not name.isidentifier():
        raise GenotypeError(
            f"An operation's name must be a Python identifier. Received: {name!r}. "
            "Choose letters, digits and _."
        )
    _OPERATIONS[name] = description


def operation_names() -> tuple[str, ...]:
    """Names of all known operations, the built-in ones first."""
    return tuple(_OPERATIONS)


def describe(name: str) -> str:
    """A known operation in one line; GenotypeError for others."""
    check_operation(name)
    return _OPERATIONS[name]


def check_operation(name: str) -> None:
    """Raise GenotypeError unless `name` is a known operation."""
    if name not in _OPERATIONS:
        raise GenotypeError(
            f"Every operation must be registered. Received: {name!r}; "
            f"{nearest(str(name), _OPERATIONS)} "
            "Import the module that registers it first (CLI: --plugin MODULE)."
        )


def preprocessing_of(operations: Iterable[str]) -> str:
    """What preprocesses the inputs of a cell with these operations, one of `PREPROCESSINGS`.

    `prelu` if all its convolutions are BATS'; `linear` if they are all BNAS-UCB's, whose names end
    in `_linear`, or pass on their input, its −1 side included; else `relu`.
    """
    convolutions = {name for name in operations if name not in _WITH_IDENTITY}
    if not convolutions:
        return "relu"
    if all(map(has_groups, convolutions)):
        return "prelu"
    signed = (name.endswith("_linear") or "bin_res_" in name for name in convolutions)
    return "linear" if all(signed) else "relu"


def has_groups(operation: str) -> bool:
    """Whether an operation's convolution reads its channels in groups (BATS)."""
    return operation.startswith("bin_group_")


def shortcut_kind(value: str | bool) -> str:
    """One of `SHORTCUTS`; True and False, as earlier releases had it, are `conv` and `none`.
    BnasLarqError for anything else."""
    kind = {True: "conv", False: NO_SHORTCUT}[value] if isinstance(value, bool) else value
    if kind not in SHORTCUTS:
        raise BnasLarqError(
            f"A cell's shortcut is one of {', '.join(SHORTCUTS)}. "
            f"Received: {value!r}; {nearest(str(value), SHORTCUTS)}"
        )
    return kind


def edges_of_cell(nodes: int) -> tuple[tuple[int, int], ...]:
    """All (node, state) pairs, node by node and state by state; node i reads states 0 … i+1."""
    return tuple((node, state) for node in range(nodes) for state in range(2 + node))


@dataclasses.dataclass(frozen=True)
class SearchSpace:
    """Candidate operations of the edges of normal and reduction cells, and the cell template.

    Attributes:
        name: for logs and provenance.
        normal: operations that compete on a normal cell's edges, in the order of α's columns.
        reduce: the same for reduction cells.
        nodes: intermediate nodes of a cell; node i has 2 + i incoming edges.
        edges_per_node: edges that a node keeps when the genotype is derived.
        shortcut: how a cell adds the previous cell's output to its own (BNAS' template has `conv`),
            one of `SHORTCUTS`.

    Raises:
        GenotypeError: unknown or repeated operations, fewer than two, or impossible sizes.
        BnasLarqError: an unknown shortcut.

    Example:
        >>> space = SearchSpace.bnas()
        >>> space.normal[:3], len(space.normal), len(space.edges)
        (('none', 'max_pool_3x3', 'avg_pool_3x3'), 7, 14)
        >>> space.without_operations(["avg_pool_3x3"]).name
        'bnas-avg_pool_3x3'
    """

    name: str
    normal: tuple[str, ...]
    reduce: tuple[str, ...]
    nodes: int = 4
    edges_per_node: int = 2
    shortcut: str = "conv"

    def __post_init__(self) -> None:
        object.__setattr__(self, "shortcut", shortcut_kind(self.shortcut))
        for kind, names in (("normal", self.normal), ("reduce", self.reduce)):
            for name in names:
                check_operation(name)
            if len(set(names)) < 2 or len(set(names)) != len(names):
                raise GenotypeError(
                    f"A search space needs at least two different operations on {kind} edges. "
                    f"Received: {list(names)}. Name each operation once."
                )
        if not 1 <= self.nodes <= MAX_NODES or not 1 <= self.edges_per_node <= 2:
            raise GenotypeError(
                f"A cell needs at least one node, at most {MAX_NODES}, and a node keeps one or two "
                "edges (the first node has only two). "
                f"Received: nodes={self.nodes}, edges_per_node={self.edges_per_node}."
            )

    @classmethod
    def bnas(cls) -> SearchSpace:
        """BNAS (Kim et al., arXiv 2002.06963): Zeroise, two pools, four binary convolutions."""
        convolutions = ("bin_conv_3x3", "bin_conv_5x5", "bin_dil_conv_3x3", "bin_dil_conv_5x5")
        names = (ZEROISE, "max_pool_3x3", "avg_pool_3x3", *convolutions)
        return cls(name="bnas", normal=names, reduce=names)

    @classmethod
    def bnas_ucb(cls) -> SearchSpace:
        """BNAS-UCB (Chen et al., arXiv 2009.04247): Zeroise, two pools, identity, four binary
        convolutions without ReLU in place of DARTS' separable ones.

        The cell is that of DARTS and PC-DARTS, without BNAS' (Kim et al.) inter-cell shortcut.
        """
        dilated = ("bin_dil_conv_3x3_linear", "bin_dil_conv_5x5_linear")
        names = (*_WITH_IDENTITY, *dilated, "bin_conv_3x3_linear", "bin_conv_5x5_linear")
        return cls(name="bnas-ucb", normal=names, reduce=names, shortcut=NO_SHORTCUT)

    @classmethod
    def darts_binary(cls) -> SearchSpace:
        """The space and cell of DARTS (arXiv 1806.09055, §3.1.1) with binarised convolutions, the
        baseline of the BNAS paper; see `bnas_larq.layers.operations` for the details.
        """
        separable = ("bin_sep_conv_3x3", "bin_sep_conv_5x5")
        names = (*_WITH_IDENTITY, *separable, "bin_dil_sep_conv_3x3", "bin_dil_sep_conv_5x5")
        return cls(name="darts-binary", normal=names, reduce=names, shortcut=NO_SHORTCUT)

    @classmethod
    def bnas_residual(cls) -> SearchSpace:
        """Zeroise, two pools, and the residual binary convolutions of EBNAS, which add their input
        to their output.

        EBNAS has no full-precision shortcut, so the cell's is `pool` (ours): residual edges carry
        full-precision values through a cell, but the binary 1×1 convolution in front of it stops
        them, and a pooled shortcut leads them past it at no MACs. No ReLU follows that convolution
        (`preprocessing_of`).
        """
        residual = ("bin_res_conv_3x3", "bin_res_conv_5x5")
        dilated = ("bin_res_dil_conv_3x3", "bin_res_dil_conv_5x5")
        names = (ZEROISE, "max_pool_3x3", "avg_pool_3x3", *residual, *dilated)
        return cls(name="bnas-residual", normal=names, reduce=names, shortcut="pool")

    @classmethod
    def bats(cls) -> SearchSpace:
        """BATS (Bulat, Martinez, Tzimiropoulos, arXiv 2003.01711, §4.1): Zeroise, two pools,
        identity, and four binary convolutions in groups, each with its input added."""
        convolutions = ("bin_group_conv_3x3", "bin_group_conv_5x5")
        dilated = ("bin_group_dil_conv_3x3", "bin_group_dil_conv_5x5")
        names = (*_WITH_IDENTITY, *convolutions, *dilated)
        return cls(name="bats", normal=names, reduce=names, shortcut=NO_SHORTCUT)

    @classmethod
    def named(cls, name: str) -> SearchSpace:
        """The published space called `name`, one of `SPACES`, or one with operations added or
        removed: `bnas-none`, `bnas+identity`."""
        starts = [start for start in SPACES if re.match(rf"{start}(?![^+-])", name)]
        base = max(starts, key=len, default="")
        changes = re.findall("([+-])([^+-]*)", name[len(base) :])
        space = SPACES[base]() if base else None
        for sign, operation in changes if space else ():
            if operation not in _OPERATIONS or (operation in space.normal) == (sign == "+"):
                space = None
                break
            space = (
                space.with_operations(operation)
                if sign == "+"
                else space.without_operations([operation])
            )
        if space is None:
            raise GenotypeError(
                f"A search space is given by name. Received: {name!r}; {nearest(name, SPACES)} "
                "In Python, build your own SearchSpace."
            )
        return space

    @property
    def candidates(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The operations of normal and of reduction cells."""
        return self.normal, self.reduce

    @property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """The cell's (node, state) pairs, in the order of the α rows."""
        return edges_of_cell(self.nodes)

    def with_operations(self, *names: str) -> SearchSpace:
        """This space with more registered operations as candidates on every edge."""
        return dataclasses.replace(
            self,
            name="+".join([self.name, *names]),
            normal=self.normal + names,
            reduce=self.reduce + names,
        )

    def without_operations(self, names: Iterable[str]) -> SearchSpace:
        """This space with fewer candidates; GenotypeError for an operation that is none."""
        removed = set(names)
        for name in sorted(removed - {*self.normal, *self.reduce}):
            check_operation(name)
            raise GenotypeError(
                "Only a space's own operations are taken away. "
                f"Received: {name!r} in space {self.name!r}. Omit it."
            )
        return dataclasses.replace(
            self,
            name="-".join([self.name, *sorted(removed)]),
            normal=tuple(name for name in self.normal if name not in removed),
            reduce=tuple(name for name in self.reduce if name not in removed),
        )

    def to_dict(self) -> dict:
        """A description for JSON; the inverse of `SearchSpace.from_dict`."""
        cells = {"normal": list(self.normal), "reduce": list(self.reduce)}
        return {**dataclasses.asdict(self), **cells}

    @classmethod
    def from_dict(cls, values: dict) -> SearchSpace:
        """The inverse of `to_dict`."""
        cells = {kind: tuple(values[kind]) for kind in KINDS}
        return cls(**{**values, **cells})


SPACES = {
    "bnas": SearchSpace.bnas,
    "bnas-ucb": SearchSpace.bnas_ucb,
    "bnas-residual": SearchSpace.bnas_residual,
    "darts-binary": SearchSpace.darts_binary,
    "bats": SearchSpace.bats,
}
