"""`bnas-larq zoo`: list, show, verify, publish and import networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bnas_larq.cli.groups import LazyCommand, LazyGroup
from bnas_larq.cli.options import NAME_OR_PATH, PATH
from bnas_larq.console import print_result, say
from bnas_larq.errors import BnasLarqError, ZooError, one_line
from bnas_larq.tables import align

if TYPE_CHECKING:
    from bnas_larq.zoo.entries import Entry
    from bnas_larq.zoo.variants import Variant

COMMANDS = {
    "list": LazyCommand(f"{__name__}:list_zoo", "List all networks."),
    "show": LazyCommand(f"{__name__}:show", "Print a network's model card."),
    "verify": LazyCommand(f"{__name__}:verify", "Compare files with their SHA-256."),
    "publish": LazyCommand(f"{__name__}:publish", "Make an entry of a finished run."),
    "import": LazyCommand(
        f"{__name__}:import_checkpoint", "Import a checkpoint of the papers' authors."
    ),
}


@click.group(cls=LazyGroup, registry=COMMANDS)
def zoo() -> None:
    """Published networks: list, show, verify, publish, import.

    They are looked for in the folders that BNAS_LARQ_ZOO names, in your own zoo
    (~/.keras/bnas_larq/zoo), and in the one that ships with bnas-larq.
    """


@click.command("list")
@click.option(
    "--variants",
    is_flag=True,
    help="Instead, without weights: the papers' networks, and those that they compare with.",
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def list_zoo(variants: bool, as_json: bool) -> None:
    """List all networks with accuracy, cost and source."""
    from bnas_larq.zoo.registry import list_entries

    if variants:
        _list_variants(as_json)
        return
    entries = list_entries()
    if as_json:
        print_result(json.dumps([_facts(entry) for entry in entries], indent=1))
        return
    if not entries:
        print_result("The zoo is empty. Make an entry with `bnas-larq zoo publish`.")
        return
    rows = [
        (
            *("name", "variant", "data", "accuracy", "OPs", "OPs (paper)", "bytes"),
            *("file", "its accuracy", "RAM", "source"),
        )
    ]
    for entry in entries:
        cost, file = entry.cost, entry.deployed
        rows.append(
            (
                entry.name,
                entry.variant or "–",
                entry.dataset,
                _number(entry.accuracy, "{:.2%}"),
                _number(cost.get("ops_honest"), "{:.3g}"),
                _number(cost.get("ops_paper"), "{:.3g}"),
                _number(cost.get("bytes"), "{:,}"),
                _number(file.get("bytes"), "{:,}"),
                _number(file.get("accuracy"), "{:.2%}"),
                _number(
                    file.get("memory", {}).get("peak_activations")
                    or cost.get("peak_activation_bytes"),
                    "{:,}",
                ),
                entry.source if entry.redistributable else f"{entry.source}, not to be passed on",
            )
        )
    print_result("\n".join(align(rows, left=3)))
    print_result(
        "\nOPs: 1-bit MACs / 64 plus all others; papers divide those of shortcuts by 64, too. "
        "bytes: 1 bit\nper binary weight, 4 bytes per other number. file: bytes of the .tflite "
        "file, whose kernels may be\nint8 or float16. RAM: bytes of activations at most."
    )


def _list_variants(as_json: bool) -> None:
    import dataclasses

    from bnas_larq.zoo.literature import LITERATURE
    from bnas_larq.zoo.variants import VARIANTS

    if as_json:
        facts = [dataclasses.asdict(known) for known in (*VARIANTS.values(), *LITERATURE.values())]
        print_result(json.dumps(facts, indent=1))
        return
    keys = ("name", "genotype", "cells", "channels", "stem_groups", "shortcut", "call")
    rows = [tuple(str(getattr(variant, key)) for key in keys) for variant in VARIANTS.values()]
    header = (*keys[:-1], "in bnas_larq.zoo")
    print_result("\n".join(align([header, *rows], left=2)))
    literature = [
        (
            *(network.name, network.backbone, network.scheme),
            *(_number(top, "{:.1f}") for top in (network.reported.top1, network.reported.top5)),
            f"{network.factory}()",
        )
        for network in LITERATURE.values()
    ]
    header = ("name", "backbone", "scheme", "top-1 %", "top-5 %", "in bnas_larq.zoo")
    print_result("\nWhat papers compare with, and their results, which nobody measured here:")
    print_result("\n".join(align([header, *literature], left=3)))


@click.command()
@click.argument("name", type=NAME_OR_PATH)
@click.option("--json", "as_json", is_flag=True, help="Its facts, for programs.")
def show(name: str, as_json: bool) -> None:
    """Print the model card of the entry NAME (or of an entry's folder).

    For a network of the papers, such as bnas-d: its size, what its authors reported, and its
    entries.
    """
    from bnas_larq.run.targets import Kind, find_target
    from bnas_larq.zoo.registry import list_entries
    from bnas_larq.zoo.variants import VARIANTS, belongs

    target = find_target(name, (Kind.VARIANT, Kind.ENTRY), "`bnas-larq zoo show`")
    if target.kind is Kind.VARIANT:
        variant = VARIANTS[name.lower()]
        entries = [entry for entry in list_entries() if belongs(entry.variant, variant.name)]
        describe = _variant_json if as_json else _variant_text
        print_result(describe(variant, entries))
        return
    entry = target.entry
    if as_json:
        print_result(json.dumps({**_facts(entry), "files": dict(entry.files)}, indent=1))
        return
    print_result(entry.card)
    print_result(f"Folder: {entry.folder}")


@click.command()
@click.argument("entries", type=NAME_OR_PATH, nargs=-1)
def verify(entries: tuple[str, ...]) -> None:
    """Compare the files of ENTRIES (names or folders; default: all) with their SHA-256.

    Exits with code 2 if one of them is damaged or missing.
    """
    from bnas_larq.run.targets import Kind, find_target
    from bnas_larq.zoo.entries import Entry
    from bnas_larq.zoo.registry import entry_folders

    def load(target: str | Path) -> Entry:
        if isinstance(target, Path):
            return Entry.load(target)
        return find_target(target, (Kind.ENTRY,), "`bnas-larq zoo verify`").entry

    targets = [(name, name) for name in entries] or [(path.name, path) for path in entry_folders()]
    damaged = 0
    for name, target in targets:
        try:
            entry = load(target)
            remote = entry.verify()
        except BnasLarqError as error:
            damaged += 1
            print_result(f"{name}: failed. {one_line(error)}")
        else:
            later = f" ({', '.join(remote)} not downloaded yet)" if remote else ""
            print_result(f"{name}: {len(entry.files) - len(remote)} files intact{later}")
    if damaged:
        raise ZooError(f"{damaged} of {len(targets)} entries did not pass.")


@click.command()
@click.argument("run", type=PATH)
@click.option("--name", required=True, help="Small letters, digits and hyphens.")
@click.option(
    "--variant", help="Variant it belongs to, such as bnas-d. Default: the one it equals, if any."
)
@click.option("--dataset", help="What `weights=` finds it by. Default: the data set's name.")
@click.option("--out", type=PATH, help="Folder of entries. Default: yours.")
@click.option(
    "--data-dir", type=NAME_OR_PATH, help="Where the data set is now, if not where the run had it."
)
@click.option("--license", default="Apache-2.0", show_default=True, help="Of the weights.")
@click.option("--description", default="", help="One line for lists. Default: from the facts.")
@click.option(
    "--note", "notes", multiple=True, help="A sentence for the card's limits. Repeatable."
)
@click.option(
    "--weights-url",
    help="Where you will put weights.h5: the entry then also works without that file.",
)
@click.option("--half", is_flag=True, help="Store the weights as float16, in half of the bytes.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier entry of that name.")
def publish(run: Path, name: str, **settings: Any) -> None:
    """Publish the network of the finished run RUN as a zoo entry.

    Its weights are evaluated on the test split again, and refused unless they classify exactly the
    recorded number of images correctly; --half may move one in 1,000. The entry is one folder:
    model card, recipe, genotype, weights, metrics, and the SHA-256 of each file.
    """
    say("publish: checking the run, then evaluating its weights again")

    from bnas_larq.zoo.publishing import publish_run

    entry = publish_run(run, name, **settings)
    say(f"publish: {entry.summary()}")
    if entry.variant is None:
        say(
            f"publish: of no variant, so load it with find_entry({name!r}).load_model(); "
            "--variant bnas-d would make it weights of BNASD"
        )
    if not entry.redistributable:
        say(f"publish: not to be passed on. Licence: {entry.license}")
    print_result(entry.folder)


@click.command()
@click.argument("checkpoint", type=PATH)
@click.option(
    "--variant",
    required=True,
    help="Its variant, such as bnas-d; or auto: any size, with --genotype.",
)
@click.option(
    "--genotype",
    type=NAME_OR_PATH,
    help="Its cells: a published name or a file. Default: the variant's.",
)
@click.option(
    "--full-precision",
    default="all-binary",
    show_default=True,
    help="all-binary: as in the paper. head: the last two convolutions of the last cell keep "
    "full-precision kernels, as in the authors' evaluation.",
)
@click.option(
    "--dataset",
    help="What it was trained on. Default: imagenet or, for ten classes and small images, cifar10.",
)
@click.option("--name", help="The entry's name. Default: VARIANT-DATASET-imported.")
@click.option("--out", type=PATH, help="Folder of entries, else your zoo.")
@click.option("--labels", type=PATH, help="Text file, one class name a line.")
@click.option("--mean", metavar="R,G,B", help="Means of its images, scaled to 0 … 1.")
@click.option("--std", metavar="R,G,B", help="Their standard deviations.")
@click.option(
    "--input-size", type=click.IntRange(min=1), help="Side of its images. Default: 32 or 224."
)
@click.option("--overwrite", is_flag=True, help="Replace an earlier entry of that name.")
def import_checkpoint(
    checkpoint: Path, mean: str | None, std: str | None, input_size: int | None, **settings: Any
) -> None:
    """Import CHECKPOINT, weights that the papers' authors trained, into your own zoo.

    CHECKPOINT is a .npz, .safetensors, .pth.tar, .pth or .pt file; the last three need PyTorch.
    Only tensors are read, code is refused. The weights stay their authors': use them yourself, do
    not pass them on.
    """
    colours = {"mean": _three(mean, "--mean"), "std": _three(std, "--std")}
    shape = (input_size, input_size, 3) if input_size else None

    from bnas_larq.zoo.imported_entry import import_entry

    entry = import_entry(checkpoint, input_shape=shape, **colours, **settings)
    for note in entry.provenance["notes"]:
        say(note)
    say(entry.license)
    say("Its accuracy was not measured.")
    print_result(entry.folder)


def _facts(entry: Entry) -> dict[str, Any]:
    keys = ("name", "variant", "dataset", "genotype", "source", "redistributable", "license")
    return {
        **{key: getattr(entry, key) for key in keys},
        "description": entry.description,
        "metrics": dict(entry.metrics),
        "cost": dict(entry.cost),
        "deployed": dict(entry.deployed),
        "folder": str(Path(entry.folder).resolve()),
    }


def _variant_text(variant: Variant, entries: list[Entry]) -> str:
    lines = [
        f"{variant.name}: {variant.cells} cells of {variant.channels} channels, genotype "
        f"{variant.genotype}, in Python bnas_larq.zoo.{variant.call}",
        *([variant.ours] if variant.ours else []),
        "",
        "What its authors reported (nobody measured it with bnas-larq):",
        *([] if variant.reported else ["  nothing that is known here"]),
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
    # A stranger's entry may hold anything: only numbers of plausible size are shown.
    return form.format(value) if isinstance(value, int | float) and abs(value) < 1e18 else "–"


def _three(text: str | None, option: str) -> tuple[float, ...] | None:
    """Three numbers; `Normalization` checks their values."""
    if text is None:
        return None
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != 3:
        raise ZooError(
            f"{option} takes three numbers. Received: {text!r}. Write for example 0.5,0.5,0.5."
        )
    return numbers
