"""`bnas-larq finetune`: a trained network and somebody's own images in, a network for them out."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from bnas_larq.cli.options import absolute, begin, check_flags, run_options
from bnas_larq.errors import DataError


@click.command()
@click.argument("entry")
@click.option(
    "--data",
    required=True,
    metavar="FOLDER|NAME",
    help="A folder of class folders (or of train/ and test/ with them), a TFDS name, or digits.",
)
@click.option("--data-dir", help="Where TFDS keeps the data set NAME.")
@click.option("--image-size", type=click.IntRange(min=1), help="Default: the network's own.")
@click.option("--epochs", type=click.IntRange(min=1), help="Of everything. Default: 10.")
@click.option("--head-epochs", type=click.IntRange(min=0), help="Of the head before. Default: 3.")
@run_options
def command(entry: str, out: Path | None, resume: bool, overwrite: bool, **options: Any) -> None:
    """Fit ENTRY (a zoo entry's name, or the folder of an entry or a run) to your own images.

    It gets a new head, which is trained alone first; then everything is, binary kernels at a lower
    rate (--set finetune.binary_multiplier=…, 0.3 of the others'). Normalisation and augmentation
    stay as ENTRY was trained with, and images are resized to its size. Ends as `bnas-larq run`
    does: with a test accuracy and a checked .tflite. Killed at any moment, it goes on with --resume
    and ends with the same network.
    """
    check_flags(resume, overwrite)
    tensorboard = options.pop("tensorboard")
    overrides = _overrides(**options)

    from bnas_larq.zoo.finetune_source import finetune_recipe

    data = _data(options["data"], options["data_dir"])
    name = "-".join((Path(entry).resolve().name, Path(options["data"]).resolve().name))
    recipe = absolute(finetune_recipe(entry, {"name": name, "data": data}, overrides))
    workflow = begin(
        recipe,
        out or Path("runs") / recipe.name,
        stages=("train",),
        resume=resume,
        overwrite=overwrite,
        tensorboard=tensorboard,
    )
    click.echo(workflow.run())


def _overrides(
    overrides: tuple[str, ...],
    image_size: int | None,
    epochs: int | None,
    head_epochs: int | None,
    seed: int | None,
    data: str,
    data_dir: str | None,
) -> list[str]:
    """The options as overrides of the recipe; those with a name of their own win."""
    named = {
        "data.image_size": image_size,
        "train.epochs": epochs,
        "finetune.head_epochs": head_epochs,
        "seed": seed,
    }
    return [
        *overrides,
        *(f"{key}={json.dumps(value)}" for key, value in named.items() if value is not None),
    ]


def _data(data: str, data_dir: str | None) -> dict[str, str]:
    """The recipe's data set: a folder if there is one of that name, else the embedded or TFDS'."""
    folder = Path(data).expanduser()
    if not folder.is_dir():
        if folder.exists() or len(folder.parts) != 1 or set(data) & {"/", os.sep}:
            problem = "is a file" if folder.exists() else "does not exist"
            raise DataError(
                "Images are in a folder of class folders, or in a TFDS data set. "
                f"Received: --data {data}, which {problem}. Check the path."
            )
        if data == "digits" and data_dir is not None:
            raise DataError(
                "The embedded digits are in no folder. "
                f"Received: --data digits with --data-dir {data_dir}. Leave one of them away."
            )
        return {"name": data} if data_dir is None else {"name": data, "data_dir": data_dir}
    if data_dir is not None:
        raise DataError(
            "A folder of images needs no other directory. "
            f"Received: the folder {data} and --data-dir {data_dir}. Leave one of them away."
        )
    return {"name": "folder", "data_dir": data}
