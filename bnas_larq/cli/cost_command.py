"""`bnas-larq cost`: what networks cost for one image, and the sizes that meet a budget."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from bnas_larq.cli.options import NAME_OR_PATH, ImageSize, Numbers
from bnas_larq.console import print_result
from bnas_larq.spaces import SHORTCUTS

if TYPE_CHECKING:
    from bnas_larq.costs.budget_solver import Candidate
    from bnas_larq.run.target_networks import TargetCosts


#: Sizes shown for a budget; --json has all.
SHOWN = 12


@click.command(context_settings={"show_default": True})
@click.argument("targets", type=NAME_OR_PATH, metavar="[TARGET]...", nargs=-1)
@click.option(
    "--input-size",
    type=ImageSize(),
    metavar="SIZE",
    help="Of the images, such as 224 or 96x128. Default: each target's own, 224 for a genotype.",
)
@click.option(
    "--classes",
    "num_classes",
    type=click.IntRange(min=2),
    help="Outputs of the classifier. Default: each target's own, 1000 for a genotype.",
)
@click.option("--cells", type=Numbers(), help="Number of cells; with --budget also 8,12 or 8-20.")
@click.option("--channels", type=Numbers(), help="Channels of the first cell's nodes; likewise.")
@click.option(
    "--stem-groups", type=click.IntRange(min=1), help="Groups of the ImageNet stem's convolutions."
)
@click.option("--groups", type=click.IntRange(min=1), help="Groups of BATS' convolutions.")
@click.option(
    "--shortcut",
    type=click.Choice(SHORTCUTS),
    help="Of the cells. Default: each target's own, conv for a genotype.",
)
@click.option(
    "--budget",
    metavar="OPS",
    help="Find the sizes nearest to it, at most 2 % above, such as 1.48e8 or 148M.",
)
@click.option(
    "--convention",
    type=click.Choice(["paper", "honest"]),
    show_default="paper",
    help="With --budget: how its operations are counted.",
)
@click.option(
    "--multiple",
    type=click.IntRange(min=1),
    show_default="2",
    help="With --budget: channels are a multiple of it. 32 fills packed words.",
)
@click.option(
    "--reported",
    is_flag=True,
    help="Beside what is counted, what authors report for ImageNet; without TARGET, of all.",
)
@click.option("--layers", is_flag=True, help="List the layers of several targets, too.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(
    targets: Sequence[str],
    cells: list[int] | None,
    channels: list[int] | None,
    budget: str | None,
    convention: str | None,
    multiple: int | None,
    reported: bool,
    layers: bool,
    as_json: bool,
    **size: Any,
) -> None:
    """Count what each TARGET costs for one image, or find the sizes of one that meet a budget.

    TARGET is a variant (bnas-d), a network that papers compare with (bireal18), a genotype
    (bnas_imagenet, random:SEED or a file), a run's folder, a zoo entry, a saved Keras model (.h5,
    .keras) or larq_zoo:QuickNet. One target: its layers. Several: one table. None: all variants.

    Papers divide BNAS' full-precision shortcuts by 64 as if they were binary; the honest count does
    not.

    \b
      bnas-larq cost bnas-d larq_zoo:QuickNet larq_zoo:BiRealNet
      bnas-larq cost bnas_imagenet --cells 12 --budget 1.48e8
    """
    from bnas_larq.run.target_networks import sizes_in_budget, target_costs
    from bnas_larq.run.targets import OF_CELLS, Kind, find_target
    from bnas_larq.zoo.literature import LITERATURE
    from bnas_larq.zoo.variants import VARIANTS

    if reported and (layers or budget is not None):
        raise click.UsageError("--reported is a table of its own, without --layers and --budget.")
    own = {"cells": cells, "channels": channels, **size}
    if reported and (given := [key for key, value in own.items() if value is not None]):
        options = ", ".join(f"--{key.removeprefix('num_').replace('_', '-')}" for key in given)
        raise click.UsageError(
            "--reported shows networks at the size that papers have results of. "
            f"Received: {options} with it."
        )
    if budget is None and (convention or multiple):
        raise click.UsageError("--convention and --multiple are of a --budget, which is missing.")
    if budget is not None:
        if layers:
            raise click.UsageError("--budget lists sizes, not layers. Received: --layers with it.")
        if len(targets) != 1:
            raise click.UsageError(f"--budget needs one TARGET. Received: {len(targets)}.")
        target = find_target(targets[0], OF_CELLS, "`bnas-larq cost --budget`")
        sizes = {"cells": cells, "channels": channels, "multiple": multiple or 2, "size": size}
        answer = sizes_in_budget(target, budget, convention=convention or "paper", **sizes)
        if as_json:
            answer["candidates"] = [candidate.to_dict() for candidate in answer["candidates"]]
            print_result(json.dumps(answer, indent=1))
        else:
            print_result(_sizes_text(**answer))
        return
    for name, numbers in (("cells", cells), ("channels", channels)):
        if numbers and len(numbers) > 1:
            raise click.UsageError(f"--{name} is one number, except with --budget.")
        size[name] = numbers and numbers[0]
    targets = targets or ((*VARIANTS, *LITERATURE) if reported else tuple(VARIANTS))
    found = [find_target(text, tuple(Kind), "`bnas-larq cost`") for text in targets]
    counts = [target_costs(target, **size) for target in found]
    if reported:
        rows = _reported_rows(counts)
        print_result(json.dumps(rows, indent=1) if as_json else _reported_text(rows))
        return
    layers = layers or len(counts) == 1
    if as_json:
        print_result(json.dumps([_record(count, layers) for count in counts], indent=1))
        return
    for count in counts if layers else []:
        size_text = f", {count.size}" if count.size else ""
        print_result(f"{count.target} at {_sides(count)}{size_text}")
        print_result(f"{count.costs.table()}\n")
    if len(counts) > 1:
        print_result(_comparison_text(counts))


def _sides(count: TargetCosts) -> str:
    """Height and width of each input; all of a vector."""
    shapes = [shape[:-1] or shape for shape in count.input_shapes]
    return " and ".join(
        "×".join("?" if side is None else str(side) for side in shape) for shape in shapes
    )


def _record(count: TargetCosts, layers: bool) -> dict[str, Any]:
    values = count.costs.to_dict()
    if not layers:
        del values["layers"]
    shapes = [list(shape) for shape in count.input_shapes]
    inputs = {"input_shape": shapes[0]} if len(shapes) == 1 else {"input_shapes": shapes}
    return {"target": count.target, **inputs, **values}


def _table(rows: Sequence[Mapping[str, str]], left: int) -> list[str]:
    """Rows, each a value by its column's header, as aligned lines."""
    from bnas_larq.tables import align

    return align([tuple(rows[0]), *(tuple(row.values()) for row in rows)], left=left)


def _comparison_text(counts: Sequence[TargetCosts]) -> str:
    from bnas_larq.tables import scientific

    rows = [
        {
            "network": count.target,
            "input": _sides(count),
            "1-bit MACs": f"{count.costs.binary_macs:,}",
            "other MACs": f"{count.costs.full_precision_macs:,}",
            "OPs (paper)": scientific(count.costs.ops_paper),
            "OPs (honest)": scientific(count.costs.ops_honest),
            "bytes": f"{count.costs.bytes:,}",
            "int8": f"{sum(count.costs.bytes_by_kind['int8'].values()):,}",
            "RAM": "–" if (peak := count.costs.peak_activation_bytes) is None else f"{peak:,}",
            "parameters": f"{count.costs.parameters:,}",
        }
        for count in counts
    ]
    lines = [
        *_table(rows, left=2),
        "",
        "OPs: 1-bit MACs / 64 + other MACs. (paper) divides BNAS' full-precision shortcuts by 64 "
        "too, (honest) does not.",
        "Bytes: 1 bit per binary weight, 4 bytes per scale or other weight. int8: bytes with "
        "full-precision kernels stored as int8. RAM: activations alive at one time, at most.",
    ]
    for count in counts:
        if count.costs.uncounted:
            lines.append(f"MACs not counted in {count.target}: {', '.join(count.costs.uncounted)}")
    return "\n".join(lines)


def _reported_rows(counts: Sequence[TargetCosts]) -> list[dict[str, Any]]:
    """The results of papers for ImageNet, by the operations that are printed beside them."""
    from bnas_larq.zoo.literature import LITERATURE
    from bnas_larq.zoo.variants import VARIANTS

    rows = []
    for count in counts:
        if count.target in LITERATURE:
            results = (LITERATURE[count.target].reported,)
        else:
            results = VARIANTS[count.target].reported if count.target in VARIANTS else ()
        for result in results:
            if result.dataset == "imagenet":
                costs = count.costs
                counted = {key: getattr(costs, key) for key in ("ops_paper", "ops_honest", "bytes")}
                rows.append({"target": count.target, **dataclasses.asdict(result), **counted})
    return sorted(rows, key=lambda row: (row["ops"] or float("inf"), row["top1"]))


def _reported_text(rows: Sequence[Mapping[str, Any]]) -> str:
    from bnas_larq.tables import scientific

    lines = [
        {
            "network": row["target"],
            "training": row["training"] or "–",
            "OPs (reported)": scientific(row["ops"]) if row["ops"] else "–",
            "OPs (paper)": scientific(row["ops_paper"]),
            "OPs (honest)": scientific(row["ops_honest"]),
            "bytes": f"{row['bytes']:,}",
            "top-1 %": f"{row['top1']:.2f}",
            "top-5 %": f"{row['top5']:.2f}" if row["top5"] else "–",
        }
        for row in rows
    ]
    if not lines:
        return "None of these networks has results for ImageNet that its authors reported."
    return "\n".join(
        [
            *_table(lines, left=2),
            "",
            "OPs (reported): as BNAS' authors print them for groups of networks. Accuracy: as "
            "papers report it; nobody measured it with this package.",
        ]
    )


def _sizes_text(candidates: Sequence[Candidate], budget: float, convention: str, **_: Any) -> str:
    from bnas_larq.tables import scientific

    rows = [
        {
            "cells": str(candidate.cells),
            "channels": str(candidate.channels),
            "OPs (paper)": scientific(candidate.ops_paper),
            "OPs (honest)": scientific(candidate.ops_honest),
            "of the budget": f"{candidate.ops(convention) / budget:.1%}",
            "bytes": f"{candidate.bytes:,}",
            "parameters": f"{candidate.parameters:,}",
        }
        for candidate in candidates[:SHOWN]
    ]
    lines = _table(rows, left=0)
    if len(candidates) > SHOWN:
        lines.append(f"and {len(candidates) - SHOWN} more: see --json")
    return "\n".join(lines)
