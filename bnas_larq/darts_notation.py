"""DARTS' notation of two cells, `Genotype(normal=[('op', state), …], normal_concat=…, …)`, and the
published cells, which are written in it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from typing import Any

from bnas_larq.errors import GenotypeError, nearest, one_line

#: The cells of arXiv 2002.06963: BNAS-A … C, and BNAS-D … H; those of arXiv 2003.01711, figure 3.
PUBLISHED = {
    "bnas_cifar": """Genotype(
        normal=[('none', 1), ('bin_dil_conv_3x3', 0), ('bin_conv_3x3', 1), ('none', 2),
                ('none', 2), ('none', 3), ('none', 3), ('none', 4)],
        reduce=[('max_pool_3x3', 0), ('none', 1), ('max_pool_3x3', 0), ('none', 2),
                ('none', 3), ('none', 2), ('none', 3), ('none', 4)])""",
    "bnas_imagenet": """Genotype(
        normal=[('bin_conv_3x3', 1), ('bin_dil_conv_3x3', 0), ('bin_conv_3x3', 1),
                ('bin_conv_3x3', 2), ('bin_conv_3x3', 2), ('bin_dil_conv_3x3', 1),
                ('bin_dil_conv_3x3', 1), ('bin_conv_3x3', 0)],
        reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('max_pool_3x3', 0),
                ('bin_conv_3x3', 2), ('max_pool_3x3', 0), ('bin_dil_conv_3x3', 3),
                ('max_pool_3x3', 0), ('bin_dil_conv_3x3', 4)])""",
    "bats": """Genotype(
        normal=[('bin_group_conv_5x5', 0), ('bin_group_dil_conv_5x5', 1),
                ('max_pool_3x3', 0), ('max_pool_3x3', 2),
                ('bin_group_conv_5x5', 0), ('bin_group_dil_conv_5x5', 2),
                ('bin_group_conv_3x3', 0), ('bin_group_dil_conv_5x5', 1)],
        reduce=[('max_pool_3x3', 0), ('bin_group_conv_3x3', 1),
                ('bin_group_conv_5x5', 0), ('avg_pool_3x3', 1),
                ('bin_group_conv_5x5', 1), ('max_pool_3x3', 3),
                ('bin_group_conv_5x5', 0), ('bin_group_conv_5x5', 1)])""",
}
#: Who published them.
SOURCES = {
    **dict.fromkeys(("bnas_cifar", "bnas_imagenet"), "Kim, Singh, Choi: arXiv 2002.06963"),
    "bats": "Bulat, Martinez, Tzimiropoulos: arXiv 2003.01711, figure 3",
}

#: Names of DARTS' program for operations that are the same here.
_SYNONYMS = {"skip_connect": "identity"}

_RULE = (
    "DARTS' notation is Genotype(normal=[('op', state), …], normal_concat=…, "
    "reduce=[…], reduce_concat=…)."
)


def parse_darts(text: str, name: str | None = None) -> list[list[Sequence[Any]]]:
    """The edges of each node of both cells. Nothing is evaluated.

    Args:
        text: the notation alone or assigned to a name, a log with such lines, or a `genotypes.py`
            with several assignments. Of equal names the last one counts.
        name: what the genotype is assigned to; None where there is only one.

    Raises:
        GenotypeError: other text, or several genotypes and not the `name` of one of them.
    """
    try:
        calls = _assigned(ast.parse(text.strip()))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        calls = _logged(text)
        if not calls:
            raise GenotypeError(
                f"{_RULE} Received: text that does not parse ({one_line(error)})."
            ) from error
    if not calls:
        raise GenotypeError(f"{_RULE} Received: {one_line(text)[:80]!r}.")
    if name is None and len(calls) == 1:
        [name] = calls
    if name not in calls:
        raise GenotypeError(
            "A text with several genotypes needs the name of one of them (FILE:NAME). "
            f"Received: {name or 'no name'}; {nearest(name or '', calls)}"
        )
    call = calls[name]
    fields = {}
    for keyword in call.keywords:
        try:
            fields[keyword.arg] = _literal(keyword.value)
        except (ValueError, TypeError, RecursionError, MemoryError) as error:
            raise GenotypeError(
                f"{_RULE} Received: {keyword.arg} that is not a literal."
            ) from error
    cells = []
    for kind in ("normal", "reduce"):
        flat, concat = fields.get(kind), fields.get(f"{kind}_concat")
        if not isinstance(flat, (list, tuple)) or len(flat) % 2 or not flat:
            raise GenotypeError(f"{_RULE} Received: {kind} without two edges for each node.")
        nodes = len(flat) // 2
        try:
            all_nodes = concat is None or sorted(concat) == list(range(2, 2 + nodes))
        except TypeError:
            all_nodes = False
        if not all_nodes:
            raise GenotypeError(
                f"A cell must concatenate all of its nodes. Received: {kind}_concat={concat!r} for "
                f"{nodes} nodes. Such a cell cannot be imported."
            )
        edges = [_with_our_name(edge) for edge in flat]
        cells.append([edges[2 * node : 2 * node + 2] for node in range(nodes)])
    return cells


def _assigned(tree: ast.Module) -> dict[str, ast.Call]:
    """The `Genotype(…)` of a Python module by their names; none if it holds anything else than
    them, imports, the named tuple and literals."""
    calls = {}
    for statement in tree.body:
        match statement:
            case ast.Import() | ast.ImportFrom():
                continue
            case ast.Expr(value=value):
                name = ""
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                pass
            case ast.AnnAssign(target=ast.Name(id=name), value=None, annotation=value):
                pass
            case ast.AnnAssign(target=ast.Name(id=name), value=value):
                pass
            case _:
                return {}
        match value:
            case ast.Call(func=ast.Name(id="Genotype"), args=[]):
                calls[name] = value
            case ast.Name(id=earlier) if earlier in calls:
                calls[name] = calls[earlier]
            case ast.Call(func=ast.Name(id="namedtuple")):
                pass
            case ast.Constant() | ast.List() | ast.Tuple():
                pass
            case _:
                return {}
    return calls


def _logged(text: str) -> dict[str, ast.Call]:
    """The `Genotype(…)` at the ends of a log's lines by their names."""
    calls = {}
    for line in text.splitlines():
        found = re.search(r"(?:(\w+)\s*[=:]\s*)?\b(Genotype\(.*\))\s*$", line)
        if found is None:
            continue
        try:
            [calls[found[1] or ""]] = _assigned(ast.parse(found[2])).values()
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
    return calls


def _with_our_name(edge: Any) -> Any:
    match edge:
        case [str(op), state]:
            return _SYNONYMS.get(op, op), state
    return edge


def _literal(node: ast.expr) -> Any:
    """`ast.literal_eval`, and `range(a, b)`, which DARTS prints for the concatenation."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
        bounds = [ast.literal_eval(argument) for argument in node.args]
        small = all(isinstance(bound, int) and abs(bound) < 100 for bound in bounds)
        if not small or not 1 <= len(bounds) <= 2:
            raise ValueError("range of unusual size")
        return list(range(*bounds))
    return ast.literal_eval(node)


def write_darts(normal: Sequence[Any], reduce: Sequence[Any]) -> str:
    """The inverse of `parse_darts`; GenotypeError unless every node has two edges."""
    fields = []
    for kind, cell in (("normal", normal), ("reduce", reduce)):
        if any(len(node) != 2 for node in cell):
            raise GenotypeError(
                "DARTS' notation needs two edges per node. Received: a node with another number."
            )
        edges = [tuple(edge) for node in cell for edge in node]
        fields.append(f"{kind}={edges!r}, {kind}_concat={list(range(2, 2 + len(cell)))!r}")
    return f"Genotype({', '.join(fields)})"
