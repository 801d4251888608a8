"""The commands of one run: run, search, train, evaluate, finetune, report, worker."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from bnas_larq.cli.options import (
    NAME_OR_PATH,
    closed_at_the_end,
    device_options,
    device_settings,
    gpu_memory_option,
    open_run,
    recipe_options,
    resolve,
    run_options,
    with_named,
)
from bnas_larq.console import print_result
from bnas_larq.errors import BnasLarqError, DataError


@click.command()
@recipe_options
@click.option(
    "--genotype",
    type=NAME_OR_PATH,
    metavar="G",
    help="Skip the search: a genotype file, a published name or random:SEED.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print the training's memory and time, and the images per second that it needs; read and "
    "write nothing.",
)
@click.option(
    "--device",
    "devices",
    metavar="[Nx]NAME=FLOP/S",
    multiple=True,
    help="For --dry-run: devices and the rate at which each trains, as 8xA100=2e13. Repeatable. "
    "Default: this machine's matrix products.",
)
@click.option(
    "--images", type=click.IntRange(min=1), help="For --dry-run: how many, if that is unknown."
)
@device_options
def run(
    out: Path | None,
    resume: bool,
    overwrite: bool,
    tensorboard: bool,
    dry_run: bool,
    devices: tuple[str, ...],
    images: int | None,
    strategy: str | None,
    gpu_memory: str | None,
    **options: Any,
) -> None:
    """Run RECIPE (a shipped name or a YAML file) from its images to a checked .tflite and a report.

    A recipe with the section `layer_study`, `ablation` or `faces` (such as layer-study,
    v2-ablation, faces-orl) trains its networks instead and ends with their table.

    Killed at any moment, it continues with --resume and ends with the same network.
    """
    recipe = resolve(**options)
    settings = {"resume": resume, "overwrite": overwrite, "tensorboard": tensorboard}
    if dry_run:
        places = {"out": out, "strategy": strategy, "gpu-memory": gpu_memory}
        given = [f"--{name}" for name, value in {**settings, **places}.items() if value]
        if given:
            raise click.UsageError(
                f"--dry-run runs nothing. Received: {', '.join(given)} with it. Omit it or them."
            )
        from bnas_larq.benchmark.forecast import Device, forecast, forecast_text

        print_result(forecast_text(forecast(recipe, [*map(Device.parse, devices)], images)))
        return
    if devices or images:
        raise BnasLarqError(
            "--device and --images are for a dry run. Received: one of them without --dry-run. "
            "Add it."
        )
    settings |= device_settings(strategy, gpu_memory)
    if recipe.study is None:
        from bnas_larq.run.recipe_run import Run

        _end(closed_at_the_end(Run.create(recipe, out, **settings)), "run", "result.json")
        return
    from bnas_larq.run.ablation import Ablation
    from bnas_larq.run.face_study import FaceStudy
    from bnas_larq.run.layer_study import LayerStudy

    kinds = {"ablation": Ablation, "layer_study": LayerStudy, "faces": FaceStudy}
    results = closed_at_the_end(kinds[recipe.study].create(recipe, out, **settings)).run()
    if results is not None:
        print_result("{}\n\n{}".format(*results))


@click.command()
@recipe_options
@device_options
def search(out: Path | None, **options: Any) -> None:
    """Search a cell with the settings of RECIPE (a shipped name or a YAML file).

    Writes genotype.json into the run's folder.
    """
    _end(_created(out, ("search",), **options), "search", "genotype.json")


@click.command()
@recipe_options
@click.option(
    "--genotype",
    type=NAME_OR_PATH,
    metavar="G",
    help="A genotype file, a published name or random:SEED. Default: the recipe's, or with "
    "--resume the one that a search left in --out.",
)
@device_options
def train(out: Path | None, **options: Any) -> None:
    """Train the network of a genotype with the settings of RECIPE; writes weights.h5."""
    _end(_created(out, ("train",), **options), "train", "weights.h5")


def _end(run: Any, step: str, result: str) -> None:
    """Do one step of a run, or all, and print the path of the result."""
    getattr(run, step)()
    if step != "run":
        run.report()
    if run.team.is_chief:
        print_result(run.folder / result)


def _created(
    out: Path | None,
    stages: tuple[str, ...],
    resume: bool,
    overwrite: bool,
    tensorboard: bool,
    strategy: str | None,
    gpu_memory: str | None,
    **options: Any,
) -> Any:
    """The run of a recipe's single step, new or resumed."""
    recipe = resolve(**options)
    from bnas_larq.run.recipe_run import Run

    settings = {"resume": resume, "overwrite": overwrite, "tensorboard": tensorboard}
    settings |= device_settings(strategy, gpu_memory)
    return closed_at_the_end(Run.create(recipe, out, stages=stages, **settings))


@click.command()
@click.argument("target", type=NAME_OR_PATH)
@click.option(
    "--data-dir",
    type=NAME_OR_PATH,
    help="Where the images are: a TFDS directory or a folder. Default: where the run had them.",
)
@click.option("--tflite", is_flag=True, help="Evaluate the exported file, too.")
def evaluate(target: str, **options: Any) -> None:
    """Evaluate TARGET, a run's folder or a zoo entry, on its test split.

    A run gets predictions.csv (with file names, for a folder of images) and confusion.csv. Its test
    split is touched once: a run that was evaluated before answers with its stored result.
    """
    from bnas_larq.run.targets import TRAINED, find_target

    found = find_target(target, TRAINED, "`bnas-larq evaluate`")
    from bnas_larq.run.target_evaluation import evaluate_target

    print_result(json.dumps(evaluate_target(found, **options)))


@click.command()
@click.argument("entry", type=NAME_OR_PATH)
@click.option(
    "--data",
    type=NAME_OR_PATH,
    required=True,
    metavar="FOLDER|NAME",
    help="A folder of class folders (or of train/ and test/ with them), a TFDS name, or digits.",
)
@click.option("--data-dir", type=NAME_OR_PATH, help="Where TFDS keeps the data set NAME.")
@click.option("--image-size", type=click.IntRange(min=1), help="Default: the network's own.")
@click.option("--epochs", type=click.IntRange(min=1), help="Of everything. Default: 10.")
@click.option("--head-epochs", type=click.IntRange(min=0), help="Of the head before. Default: 3.")
@run_options
@device_options
def finetune(
    entry: str,
    out: Path | None,
    resume: bool,
    overwrite: bool,
    tensorboard: bool,
    strategy: str | None,
    gpu_memory: str | None,
    **options: Any,
) -> None:
    """Fit ENTRY (a zoo entry's name, or the folder of an entry or a run) to your own images.

    It gets a new head, which is trained alone first; then everything is (binary kernels slower with
    --set finetune.binary_multiplier=0.3). Normalisation and augmentation stay as ENTRY was trained
    with, and images are resized to its size. Ends as `bnas-larq run` does: with a test accuracy and
    a checked .tflite. Killed at any moment, it continues with --resume and ends with the same
    network.
    """
    from bnas_larq.run.finetune_source import finetune_recipe
    from bnas_larq.run.recipe_run import Run

    values = {
        "name": "-".join((Path(entry).resolve().name, Path(options["data"]).resolve().name)),
        "data": _data(options["data"], options["data_dir"]),
    }
    named = {
        "data.image_size": options["image_size"],
        "train.epochs": options["epochs"],
        "finetune.head_epochs": options["head_epochs"],
        "seed": options["seed"],
    }
    recipe = finetune_recipe(entry, values, with_named(options["overrides"], named))
    settings = {"resume": resume, "overwrite": overwrite, "tensorboard": tensorboard}
    settings |= device_settings(strategy, gpu_memory)
    run = Run.create(recipe, out, stages=("train",), **settings)
    _end(closed_at_the_end(run), "run", "result.json")


def _data(data: str, data_dir: str | None) -> dict[str, str]:
    """The recipe's data set: a folder if there is one of that name, else the embedded or TFDS'."""
    folder = Path(data)
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
                f"Received: --data digits with --data-dir {data_dir}. Omit one of them."
            )
        return {"name": data} if data_dir is None else {"name": data, "data_dir": data_dir}
    if data_dir is not None:
        raise DataError(
            "A folder of images needs no other directory. "
            f"Received: the folder {data} and --data-dir {data_dir}. Omit one of them."
        )
    return {"name": "folder", "data_dir": data}


@click.command()
@click.argument("folder", type=NAME_OR_PATH, metavar="RUN")
def report(folder: str) -> None:
    """Draw the cells and curves of the folder RUN and write report.html, from what there is."""
    run = open_run(folder)
    run.report()
    print_result(run.folder / "report.html")


@click.command()
@click.argument("folder", type=NAME_OR_PATH)
@gpu_memory_option
@click.option("--with-parent", is_flag=True, hidden=True)
def worker(folder: str, gpu_memory: str | None, with_parent: bool) -> None:
    """Run trials for the search by keras-tuner in the run FOLDER, until its chief has no more.

    Needs the variables KERASTUNER_TUNER_ID (another name for each worker), KERASTUNER_ORACLE_IP and
    KERASTUNER_ORACLE_PORT. The chief is `bnas-larq search` or `run` itself, started with
    KERASTUNER_TUNER_ID=chief and the same address; all of them see the same FOLDER. The number at
    the end of a worker's name chooses one of its machine's GPUs, unless CUDA_VISIBLE_DEVICES does.
    """
    from bnas_larq.run.processes import end_with_parent
    from bnas_larq.run.searchers import take_part

    if with_parent:
        end_with_parent()
    device_settings(None, gpu_memory)
    take_part(open_run(folder).inputs, own_chief=with_parent)
