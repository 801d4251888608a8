"""`bnas-larq train`: a genotype in, a trained network out."""

from __future__ import annotations

from typing import Any

import click

from bnas_larq.cli.options import recipe_options, start


@click.command()
@recipe_options
@click.option(
    "--genotype",
    metavar="G",
    help="A genotype file, a published name or random:SEED. Default: the recipe's, or with "
    "--resume the one that a search left in --out.",
)
def command(**options: Any) -> None:
    """Train the network of a genotype with the settings of RECIPE; writes weights.h5."""
    workflow = start(**options, stages=("train",))
    workflow.search()
    workflow.train()
    workflow.report()
    click.echo(workflow.folder / "weights.h5")
