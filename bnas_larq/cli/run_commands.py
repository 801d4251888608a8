"""`bnas-larq run`: a recipe from images to a checked .tflite."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from bnas_larq.cli.options import (
    absolute,
    begin,
    check_flags,
    opened,
    recipe_options,
    run_options,
    start,
)
from bnas_larq.errors import DataError, RunError


@click.command()
@recipe_options
@click.option(
    "--genotype",
    metavar="G",
    help="Skip the search: a genotype file, a published name or random:SEED.",
)
def run(**options: Any) -> None:
    """Run RECIPE (a shipped name or a YAML file) from its images to a checked .tflite and a report.

    A recipe with the section `layer_study` (such as layer-study) trains its networks instead and
    ends with their table.

    Killed at any moment, it goes on with --resume and ends with the same network.
    """
    workflow = start(**options, stages=("search", "train"))
    if workflow.recipe.layer_study is None:
        click.echo(workflow.run())
        return
    from bnas_larq.run.layer_study import LayerStudy

    table, path = LayerStudy(workflow).run()
    click.echo(f"{table}\n\n{path}")


@click.command()
@recipe_options
def search(**options: Any) -> None:
    """Search a cell with the settings of RECIPE (a shipped name or a YAML file).

    Writes genotype.json into the run's folder.
    """
    workflow = start(**options, stages=("search",))
    workflow.search()
    workflow.report()
    click.echo(workflow.folder / "genotype.json")


@click.command()
@recipe_options
@click.option(
    "--genotype",
    metavar="G",
    help="A genotype file, a published name or random:SEED. Default: the recipe's, or with "
    "--resume the one that a search left in --out.",
)
def train(**options: Any) -> None:
    """Train the network of a genotype with the settings of RECIPE; writes weights.h5."""
    workflow = start(**options, stages=("train",))
    workflow.search()
    workflow.train()
    workflow.report()
    click.echo(workflow.folder / "weights.h5")


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
def evaluate(run: Path) -> None:
    """Evaluate the network of the folder RUN on the test split.

    Writes predictions.csv and confusion.csv. The test split is touched once: a run that was
    evaluated before answers with its stored result.
    """
    workflow = opened(run)
    workflow.evaluate()
    workflow.report()
    click.echo(json.dumps(workflow.folder.facts("evaluate")["test"]))


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
def finetune(entry: str, out: Path | None, resume: bool, overwrite: bool, **options: Any) -> None:
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

    from bnas_larq.run.finetuning import finetune_recipe

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


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
def report(run: Path) -> None:
    """Draw the cells and curves of the folder RUN and write report.html, from what there is."""
    workflow = opened(run, lock=False)
    workflow.report()
    click.echo(workflow.folder / "report.html")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--with-parent", is_flag=True, hidden=True)
def worker(folder: Path, with_parent: bool) -> None:
    """Run trials for the search by keras-tuner in the run FOLDER, until its chief has no more.

    Needs the variables KERASTUNER_TUNER_ID (another name for each worker), KERASTUNER_ORACLE_IP and
    KERASTUNER_ORACLE_PORT. The chief is `bnas-larq search` or `run` itself, started with
    KERASTUNER_TUNER_ID=chief and the same address; all of them see the same FOLDER.
    """
    if with_parent:
        from bnas_larq.run.processes import end_with_parent

        end_with_parent()
    workflow = opened(folder, lock=False)
    if workflow.recipe.search.searcher != "tuner":
        raise RunError(
            "Only a search by keras-tuner has workers. "
            f"Received: {folder}, whose search.searcher is {workflow.recipe.search.searcher}."
        )
    from bnas_larq.data import data_errors
    from bnas_larq.run.searchers import tuner_search
    from bnas_larq.search.tuning.tuner_search import role_of_process

    role = role_of_process()
    if role != "worker" and not with_parent:
        raise RunError(
            f"A worker needs to know who it is and where its chief listens. Received: {role}. "
            "Set KERASTUNER_TUNER_ID to a name of its own, such as worker-1, and "
            "KERASTUNER_ORACLE_IP and KERASTUNER_ORACLE_PORT as for the chief."
        )
    with data_errors():
        tuner_search(workflow).take_part(workflow.folder / "search")
