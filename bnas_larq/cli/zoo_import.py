"""`bnas-larq zoo import`: a checkpoint of the authors' program in, an entry of your own zoo out."""

from __future__ import annotations

from pathlib import Path

import click

from bnas_larq.cli.console import say
from bnas_larq.errors import ZooError


@click.command(short_help="Take over a checkpoint of the papers' authors.")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--variant",
    required=True,
    help="The network it is, such as bnas-d; or auto: any size, with --genotype.",
)
@click.option("--genotype", help="Its cells: a published name or a file. Default: the variant's.")
@click.option(
    "--full-precision",
    default="all-binary",
    show_default=True,
    help="all-binary: as the paper says. head: the last two convolutions of the last cell keep "
    "their kernels, as the authors' program evaluates it.",
)
@click.option(
    "--dataset",
    help="What it was trained on. Default: imagenet or, for ten classes and small images, cifar10.",
)
@click.option("--name", help="The entry's name. Default: VARIANT-DATASET-imported.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of entries, else your zoo.")
@click.option("--labels", type=click.Path(path_type=Path), help="Text file, one class name a line.")
@click.option("--mean", metavar="R,G,B", help="Means of its images, scaled to 0 … 1.")
@click.option("--std", metavar="R,G,B", help="Their standard deviations.")
@click.option(
    "--input-size", type=click.IntRange(min=1), help="Side of its images. Default: 32 or 224."
)
@click.option("--overwrite", is_flag=True, help="Replace an earlier entry of that name.")
def command(
    checkpoint: Path,
    variant: str,
    genotype: str | None,
    full_precision: str,
    dataset: str | None,
    name: str | None,
    out: Path | None,
    labels: Path | None,
    mean: str | None,
    std: str | None,
    input_size: int | None,
    overwrite: bool,
) -> None:
    """Import CHECKPOINT, weights that the papers' authors trained, into your own zoo.

    CHECKPOINT is a .npz, .safetensors, .pth.tar, .pth or .pt file; the last three need PyTorch.
    Only tensors are read, code is refused. The weights stay their authors': use them yourself, do
    not pass them on.
    """
    colours = {"mean": _three(mean, "--mean"), "std": _three(std, "--std")}

    from bnas_larq.zoo.imported import import_entry

    entry = import_entry(
        checkpoint,
        variant,
        genotype,
        full_precision,
        dataset=dataset,
        name=name,
        out=out,
        labels=labels,
        input_shape=(input_size, input_size, 3) if input_size else None,
        overwrite=overwrite,
        **colours,
    )
    for note in entry.provenance["notes"]:
        say(note)
    say(entry.license)
    say("Its accuracy was not measured.")
    click.echo(entry.folder)


def _three(text: str | None, option: str) -> tuple[float, ...] | None:
    """Three numbers; `Normalization` judges their values."""
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
