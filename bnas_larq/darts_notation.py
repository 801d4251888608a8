"""DARTS' notation of two cells, `Genotype(normal=[('op', state), …], normal_concat=…, …)`, and the
published cells, which are written in it.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

from bnas_larq.errors import GenotypeError, one_line

#: The cells of arXiv 2002.06963: BNAS-A … C, and BNAS-D … H.
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
}

_RULE = (
    "DARTS' notation is Genotype(normal=[('op', state), …], normal_concat=…, "
    "reduce=[…], reduce_concat=…)."
)


def parse_darts(text: str) -> list[list[Sequence[Any]]]:
    """The edges of each node of both cells. Nothing is evaluated; GenotypeError for other text."""
    try:
        tree = ast.parse(text.strip())
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise GenotypeError(
            f"{_RULE} Received: text that does not parse ({one_line(error)})."
        ) from error
    call = getattr(tree.body[0], "value", None) if len(tree.body) == 1 else None
    name = call.func if isinstance(call, ast.Call) else None
    if not isinstance(name, ast.Name) or name.id != "Genotype" or call.args:
        raise GenotypeError(f"{_RULE} Received: {one_line(text)[:80]!r}.")
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
        cells.append([flat[2 * node : 2 * node + 2] for node in range(nodes)])
    return cells


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
