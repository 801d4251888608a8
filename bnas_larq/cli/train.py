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
    help="A genotype file, a published name or random:SEED. Default: the recipe's, or the one in --out with --resume.",
)
def command(genotype: str | None, **options: Any) -> None:
    """Train the network of a genotype with the settings of RECIPE; writes weights.h5."""
    workflow = start(genotype=genotype, **options)
    if workflow.recipe.genotype is None and not workflow.folder.stage_done("search"):
        raise click.UsageError(
            "Training needs a genotype. Received: none. Give --genotype, or --resume --out with a finished search."
        )
    workflow.search()
    workflow.train()
    workflow.report()
    click.echo(workflow.folder / "weights.h5")
