"""`bnas-larq zoo`: published networks, listed, shown and verified; publish and import apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bnas_larq.cli.groups import LazyCommand, LazyGroup
from bnas_larq.errors import BnasLarqError, one_line

if TYPE_CHECKING:
    from bnas_larq.zoo.entries import Entry
    from bnas_larq.zoo.variants import Variant

COMMANDS = {
    "list": LazyCommand("bnas_larq.cli.zoo:list_zoo", "The networks that are there."),
    "show": LazyCommand("bnas_larq.cli.zoo:show", "Print the model card of one."),
    "verify": LazyCommand("bnas_larq.cli.zoo:verify", "Compare files with their SHA-256."),
    "publish": LazyCommand("bnas_larq.cli.zoo_publish", "Make an entry of a finished run."),
    "import": LazyCommand(
        "bnas_larq.cli.zoo_import", "Take over a checkpoint of the papers' authors."
    ),
}


@click.group(cls=LazyGroup, registry=COMMANDS)
def command() -> None:
    """Published networks: list, show, verify, publish, import.

    Looked for in the folders that BNAS_LARQ_ZOO names, in your own zoo
    (~/.keras/bnas_larq/zoo), and in the one that comes with bnas-larq.
    """


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def list_zoo(as_json: bool) -> None:
    """Names of all networks, with accuracy, cost and where they come from."""
    from bnas_larq.zoo.registry import list_entries

    entries = list_entries()
    if as_json:
        click.echo(json.dumps([_facts(entry) for entry in entries], indent=1))
        return
    if not entries:
        click.echo("There is nothing in the zoo. Make an entry with `bnas-larq zoo publish`.")
        return
    header = ("name", "variant", "data", "accuracy", "OPs (paper)", "bytes", "source")
    rows = [
        (
            entry.name,
            entry.variant or "–",
            entry.dataset,
            "–" if entry.accuracy is None else f"{entry.accuracy:.2%}",
            _number(entry.cost.get("ops_paper"), "{:.3g}"),
            _number(entry.cost.get("bytes"), "{:,}"),
            entry.source if entry.redistributable else f"{entry.source}, not to be passed on",
        )
        for entry in entries
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        cells = [
            cell.rjust(width) if 3 <= index <= 5 else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        click.echo("  ".join(cells).rstrip())


@click.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Its facts, for programs.")
def show(name: str, as_json: bool) -> None:
    """Print the model card of the entry NAME (or of the folder of one).

    For a network of the papers, such as bnas-d: its size, what its authors reported, and the
    entries there are of it.
    """
    from bnas_larq.errors import ZooError
    from bnas_larq.zoo.registry import list_entries, resolve_entry
    from bnas_larq.zoo.variants import VARIANTS

    if name in VARIANTS:
        variant, entries = VARIANTS[name], list_entries()
        own = [entry for entry in entries if entry.variant == name]
        click.echo(_variant_json(variant, own) if as_json else _variant_text(variant, own))
        return
    entry = resolve_entry(name)
    if entry is None:
        raise ZooError(
            "A model card belongs to a zoo entry. "
            f"Received: {name}, a run's folder. Publish it first: bnas-larq zoo publish."
        )
    if as_json:
        click.echo(json.dumps({**_facts(entry), "files": dict(entry.files)}, indent=1))
        return
    click.echo(entry.card)
    click.echo(f"Folder: {entry.folder}")


@click.command()
@click.argument("entries", nargs=-1)
def verify(entries: tuple[str, ...]) -> int:
    """Compare the files of ENTRIES (names or folders; default: all) with their SHA-256.

    Ends with code 2 if one of them is damaged or not there.
    """
    from bnas_larq.zoo.entries import Entry
    from bnas_larq.zoo.registry import entry_folders, resolve_entry

    if entries:
        checks = [(name, lambda name=name: resolve_entry(name)) for name in entries]
    else:
        checks = [(path.name, lambda path=path: Entry.load(path)) for path in entry_folders()]
    damaged = 0
    for name, find in checks:
        try:
            entry = find()
            if entry is None:
                raise BnasLarqError(
                    f"Only zoo entries have sums. Received: {name}, a run's folder."
                )
            remote = entry.verify()
        except BnasLarqError as error:
            damaged += 1
            click.echo(f"{name}: failed. {one_line(error)}")
        else:
            later = f" ({', '.join(remote)} not downloaded yet)" if remote else ""
            click.echo(f"{name}: {len(entry.files) - len(remote)} files intact{later}")
    if damaged:
        click.echo(f"Error: {damaged} of {len(checks)} entries did not pass.", err=True)
    return 2 if damaged else 0


def _facts(entry: Entry) -> dict[str, Any]:
    keys = ("name", "variant", "dataset", "genotype", "source", "redistributable", "license")
    return {
        **{key: getattr(entry, key) for key in keys},
        "description": entry.description,
        "metrics": dict(entry.metrics),
        "cost": dict(entry.cost),
        "folder": str(Path(entry.folder).resolve()),
    }


def _variant_text(variant: Variant, entries: list[Entry]) -> str:
    lines = [
        f"{variant.name}: {variant.cells} cells of {variant.channels} channels, genotype "
        f"{variant.genotype}, in Python bnas_larq.zoo.{variant.factory}",
        "",
        "What its authors reported (nobody measured it with bnas-larq):",
    ]
    for result in variant.reported:
        top5 = "" if result.top5 is None else f", top 5 {result.top5:.2f} %"
        training = f" ({result.training})" if result.training else ""
        lines.append(f"  {result.dataset}: {result.top1:.2f} %{top5}{training}")
    lines += ["", "Entries of it, at whatever size:"]
    lines += [f"  {entry.summary()}" for entry in entries] or ["  none"]
    return "\n".join(lines)


def _variant_json(variant: Variant, entries: list[Entry]) -> str:
    import dataclasses

    values = dataclasses.asdict(variant)
    return json.dumps({**values, "entries": [entry.name for entry in entries]}, indent=1)


def _number(value: Any, form: str) -> str:
    # Of a stranger's entry: what is no number, or longer than any can be, is not shown.
    return form.format(value) if isinstance(value, int | float) and abs(value) < 1e18 else "–"
