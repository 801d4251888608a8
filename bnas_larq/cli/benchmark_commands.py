"""`bnas-larq benchmark`: the time of one step of search or training, and how far it is from what
the machine allows.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bnas_larq.cli.groups import LazyCommand, LazyGroup
from bnas_larq.cli.options import ImageSize, Numbers

if TYPE_CHECKING:
    from bnas_larq.benchmark.configurations import Configuration

COMMANDS = {
    "search-step": LazyCommand(
        "bnas_larq.cli.benchmark_commands:search_step", "A bilevel step of the supernet."
    ),
    "train-step": LazyCommand(
        "bnas_larq.cli.benchmark_commands:train_step", "A training step of a genotype's network."
    ),
}
#: Of images, where the target has no size of its own.
IMAGE_SIZE = (32, 32)

_OPTIONS = (
    click.option(
        "--batch-size",
        "batch_sizes",
        type=Numbers(),
        default="64",
        show_default=True,
        help="Examples of a batch; several as 32,64,128.",
    ),
    click.option(
        "--mixed-precision",
        type=click.Choice(["float32", "bfloat16", "auto", "both"]),
        default="float32",
        show_default=True,
        help="What binary convolutions are computed in.",
    ),
    click.option(
        "--steps",
        type=click.IntRange(min=1),
        default=5,
        show_default=True,
        help="Timed steps after the first.",
    ),
    click.option(
        "--data",
        default="digits",
        show_default=True,
        help="What the step is fed with: digits, a TFDS name, folder, or synthetic (one batch of "
        "noise, no pipeline).",
    ),
    click.option("--data-dir", help="Where the data set is, as for `bnas-larq run`."),
    click.option("--table", is_flag=True, help="Also half and twice the cells, and the batch."),
    click.option("--profile", is_flag=True, help="Where the step's time goes, by operation."),
    click.option("--json", "as_json", is_flag=True, help="Everything as JSON."),
    click.option(
        "--output", type=click.Path(path_type=Path), help="Also write the JSON to this file."
    ),
    click.option("--overwrite", is_flag=True, help="Replace an earlier --output."),
)


def _options(function: Callable) -> Callable:
    """Add the options of both commands."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@click.group(cls=LazyGroup, registry=COMMANDS)
def command() -> None:
    """Time a step of search or training against the machine's limit.

    In one process: the rate of matrix products, the step, and the floor: the seconds that the
    convolutions of the step would take at that rate. Several configurations, such as
    --cells 4,8,16, make a table; each then is measured in a new process of its own.
    """


@click.command("search-step")
@click.option("--space", default="bnas", show_default=True, help="The search space.")
@click.option(
    "--cells", type=Numbers(), default="8", show_default=True, help="One number, or several."
)
@click.option(
    "--channels", type=Numbers(), default="16", show_default=True, help="One number, or several."
)
@click.option(
    "--image-size", type=ImageSize(), default="32", show_default=True, help="Such as 32 or 96x128."
)
@_options
def search_step(
    space: str,
    cells: list[int],
    channels: list[int],
    image_size: tuple[int, int],
    batch_sizes: list[int],
    mixed_precision: str,
    table: bool,
    **others: Any,
) -> None:
    """Measure the bilevel step of a supernet: α on one batch, then all weights on another.

    \b
      bnas-larq benchmark search-step --mixed-precision both
      bnas-larq benchmark search-step --table --output steps.json
    """
    from bnas_larq.benchmark.configurations import configurations
    from bnas_larq.spaces import SearchSpace

    searched = SearchSpace.named(space)

    def measure(one: Configuration, measuring: Any, data: str, data_dir: str | None) -> dict:
        from bnas_larq.benchmark import steps

        feed = steps.Feed.open(data, data_dir, image_size)
        return steps.search_step(searched, feed, measuring, cells=one.cells, channels=one.channels)

    wanted = configurations(cells, channels, batch_sizes, mixed_precision, table)
    given = ("--space", space, "--image-size", _text(image_size))
    _measure("search-step", wanted, given, measure, **others)


@click.command("train-step")
@click.argument("target", default="bnas_cifar")
@click.option("--cells", type=Numbers(), help="Default: the target's own, 20 for a genotype.")
@click.option("--channels", type=Numbers(), help="Default: the target's own, 36 for a genotype.")
@click.option(
    "--image-size", type=ImageSize(), help="Default: the target's own, 32 for a genotype."
)
@_options
def train_step(
    target: str,
    cells: list[int] | None,
    channels: list[int] | None,
    image_size: tuple[int, int] | None,
    batch_sizes: list[int],
    mixed_precision: str,
    table: bool,
    **others: Any,
) -> None:
    """Measure the training step of TARGET's network, with the optimizer of recipes.

    TARGET is a genotype (bnas_cifar, random:SEED or a file), a variant (bnas-d), a run's folder or
    a zoo entry.

    \b
      bnas-larq benchmark train-step bnas_cifar --cells 8 --channels 16 --profile
    """
    from bnas_larq.benchmark.configurations import configurations
    from bnas_larq.errors import BnasLarqError
    from bnas_larq.run.targets import CellTarget, Size, open_target
    from bnas_larq.settings import NetworkSettings

    opened = open_target(target)
    if not isinstance(opened, CellTarget):
        raise BnasLarqError(
            "Training steps are measured of networks made of cells. "
            f"Received: {target}. Give a genotype, a variant, a run's folder or a zoo entry."
        )
    shape = opened.own_shape if opened.own_cells is not None else (*IMAGE_SIZE, 3)
    size = image_size or shape[:2]
    usual = NetworkSettings()
    own = opened.config() if opened.own_cells is not None else usual

    def measure(one: Configuration, measuring: Any, data: str, data_dir: str | None) -> dict:
        from bnas_larq.benchmark import steps

        feed = steps.Feed.open(data, data_dir, size)
        network = Size(size, feed.num_classes, one.cells, one.channels)
        config = opened.config(**network.settings(opened.own_shape))
        return steps.train_step(opened.genotype, config, feed, measuring, opened.name)

    wanted = configurations(
        cells or [own.cells], channels or [own.channels], batch_sizes, mixed_precision, table
    )
    _measure("train-step", wanted, (target, "--image-size", _text(size)), measure, **others)


def _measure(
    name: str,
    wanted: list[Configuration],
    given: tuple[str, ...],
    measure: Callable[..., dict],
    *,
    steps: int,
    data: str,
    data_dir: str | None,
    profile: bool,
    as_json: bool,
    output: Path | None,
    overwrite: bool,
) -> None:
    """Measure one configuration here, or several each in a process of its own; show and write them.

    Args:
        given: arguments of the command that are not in a `Configuration` and not named below.
    """
    from bnas_larq.benchmark.configurations import check_output, measure_in_processes

    if output is not None:
        check_output(output, overwrite)
    if len(wanted) == 1:
        records = [_here(wanted[0], measure, steps, data, data_dir, profile)]
    else:
        given = (*given, "--steps", str(steps), "--data", data)
        given += ("--data-dir", data_dir) if data_dir else ()
        given += ("--profile",) if profile else ()
        records = measure_in_processes(name, wanted, given)
    text = json.dumps(records, indent=1)
    if output is not None:
        from bnas_larq.files import write_atomic

        write_atomic(output, text + "\n")
    if as_json:
        click.echo(text)
        return
    from bnas_larq.benchmark.results_text import measurement_text, table_text

    for record in records if len(records) == 1 or profile else []:
        click.echo(measurement_text(record))
    if len(records) > 1:
        click.echo(table_text(records))


def _here(
    one: Configuration,
    measure: Callable[..., dict],
    steps: int,
    data: str,
    data_dir: str | None,
    profile: bool,
) -> dict[str, Any]:
    """A measurement in this process, with versions and the command line."""
    from bnas_larq.benchmark.steps import Measuring
    from bnas_larq.data import data_errors
    from bnas_larq.run.creation import environment

    measuring = Measuring(one.batch_size, one.mixed_precision, steps, profile)
    with data_errors():
        record = measure(one, measuring, data, data_dir)
    return {**record, "environment": environment(seed=0)}


def _text(size: tuple[int, int]) -> str:
    return "x".join(map(str, size))
