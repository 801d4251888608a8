"""`bnas-larq run`: a recipe from images to a checked .tflite."""

from __future__ import annotations

from typing import Any

import click

from bnas_larq.cli.options import recipe_options, start


@click.command()
@recipe_options
@click.option(
    "--genotype",
    metavar="G",
    help="Skip the search: a genotype file, a published name or random:SEED.",
)
def command(**options: Any) -> None:
    """Run RECIPE (a shipped name or a YAML file) from its images to a checked .tflite and a report.

    Killed at any moment, it goes on with --resume and ends with the same network.
    """
    click.echo(start(**options, stages=("search", "train")).run())
