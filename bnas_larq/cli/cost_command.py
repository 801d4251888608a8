"""`bnas-larq cost`: what networks cost for one image, and the sizes that meet a budget."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from bnas_larq.cli.options import ImageSize, Numbers

if TYPE_CHECKING:
    from bnas_larq.costs.budget_solver import Candidate
    from bnas_larq.run.targets import CellTarget, Counted, Size


#: Sizes shown for a budget; --json has all.
SHOWN = 12


@click.command()
@click.argument("targets", metavar="[TARGET]...", nargs=-1)
@click.option(
    "--input-size",
    type=ImageSize(),
    metavar="SIZE",
    help="Of the images, such as 224 or 96x128. Default: each target's own, 224 for a genotype.",
)
@click.option(
    "--classes",
    type=click.IntRange(min=2),
    help="Outputs of the classifier. Default: each target's own, 1000 for a genotype.",
)
@click.option("--cells", type=Numbers(), help="Number of cells; with --budget also 8,12 or 8-20.")
@click.option("--channels", type=Numbers(), help="Channels of the first cell's nodes; likewise.")
@click.option(
    "--stem-groups", type=click.IntRange(min=1), help="Groups of the ImageNet stem's convolutions."
)
@click.option(
    "--budget", metavar="OPS", help="Find the sizes nearest to it, at most 2 % above: 1.48e8, 148M."
)
@click.option(
    "--convention",
    type=click.Choice(["paper", "honest"]),
    default="paper",
    show_default=True,
    help="How the budget's operations are counted.",
)
@click.option(
    "--multiple",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="With --budget: channels are a multiple of it. 32 fills packed words.",
)
@click.option("--layers", is_flag=True, help="Also every layer of several targets.")
@click.option("--json", "as_json", is_flag=True, help="Everything as JSON.")
def command(
    targets: Sequence[str],
    input_size: tuple[int, int] | None,
    classes: int | None,
    cells: list[int] | None,
    channels: list[int] | None,
    stem_groups: int | None,
    budget: str | None,
    convention: str,
    multiple: int,
    layers: bool,
    as_json: bool,
) -> None:
    """Count what each TARGET costs for one image, or find sizes of one that meet a budget.

    TARGET is a variant (bnas-d), a genotype (bnas_imagenet, random:SEED or a file), the folder of a
    run, a zoo entry, a saved Keras model (.h5, .keras) or larq_zoo:QuickNet. One target: its
    layers. Several: one table. None: all variants.

    Papers divide BNAS' full-precision shortcuts by 64 as if they were binary; the honest count does
    not.

    \b
      bnas-larq cost bnas-d larq_zoo:QuickNet larq_zoo:BiRealNet
      bnas-larq cost bnas_imagenet --cells 12 --budget 1.48e8
    """
    from bnas_larq.run.targets import Size, open_target
    from bnas_larq.zoo.variants import VARIANTS

    if budget is None:
        for name, values in (("--cells", cells), ("--channels", channels)):
            if values and len(values) > 1:
                raise click.UsageError(f"{name} is one number, but for --budget.")
    opened = [open_target(target) for target in targets or VARIANTS]
    if budget is not None:
        size = Size(input_size, classes, stem_groups=stem_groups)
        _solve(opened, size, budget, convention, cells, channels, multiple, as_json)
        return
    size = Size(input_size, classes, cells and cells[0], channels and channels[0], stem_groups)
    counted = [target.count(size) for target in opened]
    layers = layers or len(counted) == 1
    if as_json:
        click.echo(json.dumps([_record(one, layers) for one in counted], indent=1))
        return
    for one in counted if layers else []:
        click.echo("\n".join([_title(one), one.costs.table(), ""]))
    if len(counted) > 1:
        click.echo(_comparison(counted))


def _title(one: Counted) -> str:
    return f"{one.target} at {_sides(one.input_shape)}" + (f", {one.size}" if one.size else "")


def _sides(shape: Sequence[int | None]) -> str:
    return "×".join("?" if side is None else str(side) for side in shape[:-1])


def _record(one: Counted, layers: bool) -> dict[str, Any]:
    values = one.costs.to_dict()
    if not layers:
        del values["layers"]
    return {"target": one.target, "input_shape": list(one.input_shape), **values}


def _comparison(counted: Sequence[Counted]) -> str:
    from bnas_larq.tables import align, scientific

    header = ("network", "input", "1-bit MACs", "other MACs", "OPs (paper)", "OPs (honest)")
    rows = [
        (
            one.target,
            _sides(one.input_shape),
            f"{one.costs.binary_macs:,}",
            f"{one.costs.full_precision_macs:,}",
            scientific(one.costs.ops_paper),
            scientific(one.costs.ops_honest),
            f"{one.costs.bytes:,}",
            f"{one.costs.parameters:,}",
        )
        for one in counted
    ]
    lines = align([(*header, "bytes", "parameters"), *rows], left=2)
    lines += [
        "",
        "OPs: 1-bit MACs / 64 + other MACs. (paper) divides BNAS' full-precision shortcuts by 64 "
        "too, (honest) does not.",
        "Bytes: 1 bit per binary weight, 4 bytes per scale or other weight.",
    ]
    for one in counted:
        if one.costs.uncounted:
            lines.append(f"MACs not counted in {one.target}: {', '.join(one.costs.uncounted)}")
    return "\n".join(lines)


def _solve(
    targets: Sequence[CellTarget],
    size: Size,
    budget: str,
    convention: str,
    cells: list[int] | None,
    channels: list[int] | None,
    multiple: int,
    as_json: bool,
) -> None:
    from bnas_larq.costs.budget_solver import parse_budget, solve_budget
    from bnas_larq.run.targets import CellTarget

    if len(targets) != 1 or not isinstance(targets[0], CellTarget):
        raise click.UsageError("--budget needs one TARGET, made of cells: a variant or genotype.")
    limit, target = parse_budget(budget), targets[0]
    # Any channels will do to learn the other settings, if the stem's groups divide them.
    some = {"channels": 2 * size.stem_groups} if size.stem_groups else {}
    settings = target.config(**size.settings(target.own_shape), **some).to_dict()
    del settings["cells"], settings["channels"]
    candidates = solve_budget(
        target.genotype,
        limit,
        convention=convention,
        cells=cells or target.own_cells,
        channels=channels,
        multiple=multiple,
        **settings,
    )
    if as_json:
        head = {"target": target.name, "budget": limit, "convention": convention}
        found = {"candidates": [one.to_dict() for one in candidates]}
        click.echo(json.dumps({**head, "settings": settings, **found}, indent=1))
    else:
        click.echo(_candidates(candidates, limit, convention))


def _candidates(candidates: Sequence[Candidate], limit: float, convention: str) -> str:
    from bnas_larq.tables import align, scientific

    header = ("cells", "channels", "OPs (paper)", "OPs (honest)", "of the budget", "bytes")
    rows = [
        (
            str(one.cells),
            str(one.channels),
            scientific(one.ops_paper),
            scientific(one.ops_honest),
            f"{one.ops(convention) / limit:.1%}",
            f"{one.bytes:,}",
            f"{one.parameters:,}",
        )
        for one in candidates[:SHOWN]
    ]
    lines = align([(*header, "parameters"), *rows], left=0)
    if len(candidates) > SHOWN:
        lines.append(f"and {len(candidates) - SHOWN} more: see --json")
    return "\n".join(lines)
