"""`bnas-larq benchmark`: the time of a step of search or training against the machine's limit, and
the rate of the input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bnas_larq.cli.groups import LazyCommand, LazyGroup
from bnas_larq.cli.options import NAME_OR_PATH, PATH, ImageSize, Numbers, with_options
from bnas_larq.console import print_result
from bnas_larq.errors import BnasLarqError

if TYPE_CHECKING:
    from bnas_larq.benchmark.configurations import Configuration
    from bnas_larq.benchmark.steps import Feed, Measuring

COMMANDS = {
    "search-step": LazyCommand(f"{__name__}:search_step", "A bilevel step of the supernet."),
    "train-step": LazyCommand(f"{__name__}:train_step", "A training step of a genotype's network."),
    "input": LazyCommand(f"{__name__}:input_rate", "The input pipeline alone, as for ImageNet."),
}
#: Of images for a genotype, which has no size of its own.
IMAGE_SIZE = (32, 32)

_options = with_options(
    click.option(
        "--batch-size",
        "batch_sizes",
        type=Numbers(),
        default="64",
        help="Images of a batch; several as 32,64,128.",
    ),
    click.option(
        "--mixed-precision",
        type=click.Choice(["float32", "bfloat16", "auto", "both"]),
        default="float32",
        help="What the step is computed in.",
    ),
    click.option(
        "--steps", type=click.IntRange(min=1), default=5, help="Timed steps after the first."
    ),
    click.option(
        "--data",
        type=NAME_OR_PATH,
        default="digits",
        help="Images of the step: digits, a TFDS name, folder, or synthetic (one batch of noise, "
        "no pipeline).",
    ),
    click.option(
        "--data-dir", type=NAME_OR_PATH, help="Where the data set is, as for `bnas-larq run`."
    ),
    click.option(
        "--table", is_flag=True, help="Also half and twice the cells, and half and twice the batch."
    ),
    click.option("--profile", is_flag=True, help="Show where the step's time goes, by operation."),
    click.option("--json", "as_json", is_flag=True, help="Print everything as JSON."),
    click.option("--output", type=PATH, help="Also write the JSON to this file."),
    click.option("--overwrite", is_flag=True, help="Replace an earlier --output."),
    click.option("--against", type=PATH, help="An earlier --output to compare each row with."),
)


@click.group(cls=LazyGroup, registry=COMMANDS)
def command() -> None:
    """Time a step of search or training against the machine's limit, or the input alone.

    For steps, measures the rate of matrix products, the step, and the floor: the seconds that the
    step's convolutions would take at that rate. Several configurations, such as --cells 4,8,16,
    make a table; each is measured in a process of its own.
    """


@click.command("search-step", context_settings={"show_default": True})
@click.option("--space", default="bnas", help="The search space.")
@click.option("--cells", type=Numbers(), default="8", help="One number, or several.")
@click.option("--channels", type=Numbers(), default="16", help="One number, or several.")
@click.option("--image-size", type=ImageSize(), default="32", help="Such as 32 or 96x128.")
@_options
def search_step(
    space: str, cells: list[int], channels: list[int], image_size: tuple[int, int], **options: Any
) -> None:
    """Measure the bilevel step of a supernet: α on one batch, then all weights on another.

    \b
      bnas-larq benchmark search-step --mixed-precision both
      bnas-larq benchmark search-step --table --output steps.json
    """
    from bnas_larq.spaces import SearchSpace

    search_space = SearchSpace.named(space)

    def step(configuration: Configuration, feed: Feed, measuring: Measuring) -> dict[str, Any]:
        from bnas_larq.benchmark import steps

        cells, channels = configuration.cells, configuration.channels
        return steps.search_step(search_space, feed, measuring, cells=cells, channels=channels)

    arguments = ("search-step", "--space", space)
    _measure(arguments, step, image_size, cells=cells, channels=channels, **options)


@click.command("train-step", context_settings={"show_default": True})
@click.argument("target", type=NAME_OR_PATH, required=False)
@click.option(
    "--recipe", type=NAME_OR_PATH, help="Instead of TARGET: the last stage of a recipe's training."
)
@click.option("--cells", type=Numbers(), help="Default: the target's own, 20 for a genotype.")
@click.option("--channels", type=Numbers(), help="Default: the target's own, 36 for a genotype.")
@click.option(
    "--image-size", type=ImageSize(), help="Default: the target's own, 32 for a genotype."
)
@_options
def train_step(
    target: str | None,
    recipe: str | None,
    cells: list[int] | None,
    channels: list[int] | None,
    image_size: tuple[int, int] | None,
    **options: Any,
) -> None:
    """Measure the training step of TARGET's network, with the optimizer of recipes.

    TARGET is a variant (bnas-d), a genotype (bnas_cifar, the default, random:SEED or a file), a
    run's folder or a zoo entry. A recipe also says how it trains (its teacher does not take part).

    \b
      bnas-larq benchmark train-step bnas_cifar --cells 8 --channels 16 --profile
      bnas-larq benchmark train-step --recipe teacher-cifar10 --batch-size 256
    """
    from bnas_larq.run.target_networks import recipe_network, sized_network
    from bnas_larq.run.targets import OF_CELLS, find_target
    from bnas_larq.settings import NetworkSettings

    if recipe is None:
        place = "`bnas-larq benchmark train-step`"
        network, train = sized_network(find_target(target or "bnas_cifar", OF_CELLS, place)), None
        size = network.own or NetworkSettings()
        sizes = getattr(size, "cells", None), getattr(size, "channels", None)
    else:
        if target is not None:
            raise BnasLarqError(
                "A measurement is of one network. "
                f"Received: {target} and --recipe {recipe}. Omit one of them."
            )
        network, train, sizes = recipe_network(recipe)
    if sizes == (None, None) and (cells or channels):
        raise BnasLarqError(
            "Only networks made of cells have cells and channels. "
            f"Received: --cells or --channels with {network.name}. Omit them."
        )
    image_size = image_size or (network.own.input_shape[:2] if network.own else IMAGE_SIZE)

    def step(configuration: Configuration, feed: Feed, measuring: Measuring) -> dict[str, Any]:
        from bnas_larq.benchmark import steps

        config = network.config(
            input_size=image_size,
            num_classes=feed.num_classes,
            cells=configuration.cells,
            channels=configuration.channels,
        )
        return steps.train_step(network.genotype, config, feed, measuring, network.name, train)

    options |= {"cells": cells or [sizes[0]], "channels": channels or [sizes[1]]}
    source = ["--recipe", recipe] if recipe else [target] if target else []
    _measure(("train-step", *source), step, image_size, **options)


@click.command("input", context_settings={"show_default": True})
@click.argument("data_dir", type=NAME_OR_PATH, metavar="FOLDER")
@click.option(
    "--data",
    type=NAME_OR_PATH,
    default="folder",
    help="folder (of class folders), or the name of a TFDS data set in FOLDER.",
)
@click.option("--image-size", type=ImageSize(), default="224", help="Such as 224 or 96x128.")
@click.option("--batch-size", type=click.IntRange(min=1), default=256, help="Images of a batch.")
@click.option(
    "--batches", type=click.IntRange(min=1), default=10, help="Timed batches after the first."
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def input_rate(data: str, data_dir: str, as_json: bool, **options: Any) -> None:
    """Measure how many pictures of FOLDER a second become training images.

    With the whole augmentation of ImageNet: random resized crops, mirroring, colours.

    \b
      bnas-larq benchmark input imagenet/
      bnas-larq benchmark input tensorflow_datasets/ --data imagenet2012
    """
    from bnas_larq.benchmark import input_rate as rate
    from bnas_larq.data import data_errors

    with data_errors():
        record = rate.input_rate(data, data_dir, **options)
    print_result(json.dumps(record, indent=1) if as_json else rate.input_text(record))


def _measure(
    arguments: tuple[str, ...],
    step: Callable[[Configuration, Feed, Measuring], dict[str, Any]],
    image_size: tuple[int, int],
    *,
    cells: list[int],
    channels: list[int],
    batch_sizes: list[int],
    mixed_precision: str,
    table: bool,
    steps: int,
    data: str,
    data_dir: str | None,
    profile: bool,
    as_json: bool,
    output: Path | None,
    overwrite: bool,
    against: Path | None,
) -> None:
    """Measure one configuration here, or several each in a process of its own; print and write.

    Args:
        arguments: the command and those of its arguments that are not named below.
        step: measures the step of one configuration.
    """
    from bnas_larq.benchmark.baseline import compare, read_baseline
    from bnas_larq.benchmark.configurations import (
        check_output,
        configurations,
        measure_in_processes,
    )

    if overwrite and output is None:
        raise click.UsageError("--overwrite replaces an earlier --output, which is missing.")
    wanted = configurations(cells, channels, batch_sizes, mixed_precision, table)
    baseline = read_baseline(against) if against else []
    if output is not None:
        check_output(output, overwrite)
    if len(wanted) == 1:
        from bnas_larq.benchmark.steps import Feed, Measuring
        from bnas_larq.data import data_errors
        from bnas_larq.run.creation import environment

        (only,) = wanted
        measuring = Measuring(only.batch_size, only.mixed_precision, steps, profile)
        with data_errors():
            record = step(only, Feed.open(data, data_dir, image_size), measuring)
        records = [{**record, "environment": environment(seed=0)}]
    else:
        name, *given = arguments
        given += ["--image-size", "x".join(map(str, image_size)), "--steps", str(steps)]
        given += ["--data", data, *(("--data-dir", data_dir) if data_dir else ())]
        records = measure_in_processes(name, wanted, given + ["--profile"] * profile)
    if against:
        records = compare(records, baseline)
    text = json.dumps(records, indent=1)
    if output is not None:
        from bnas_larq.files import write_atomic

        write_atomic(output, text + "\n")
    if as_json:
        print_result(text)
        return
    from bnas_larq.benchmark.results_text import against_text, measurement_text, table_text

    for record in records if len(records) == 1 or profile else []:
        print_result(measurement_text(record))
    if len(records) > 1:
        print_result(table_text(records))
    if against:
        print_result("\n" + against_text(records))
