"""`bnas-larq search`: images in, genotype out."""

from __future__ import annotations

from typing import Any

import click

from bnas_larq.cli.options import recipe_options, start


@click.command()
@recipe_options
def command(**options: Any) -> None:
    """Search a cell with the settings of RECIPE (a shipped name or a YAML file).

    Writes genotype.json into the run's folder.
    """
    workflow = start(**options, stages=("search",))
    workflow.search()
    workflow.report()
    click.echo(workflow.folder / "genotype.json")
