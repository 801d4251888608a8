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

    A recipe with the section `layer_study` (such as layer-study) trains its networks instead and
    ends with their table.

    Killed at any moment, it goes on with --resume and ends with the same network.
    """
    workflow = start(**options, stages=("search", "train"))
    if workflow.recipe.layer_study is None:
        click.echo(workflow.run())
        return
    from bnas_larq.cli.layer_study import LayerStudy

    table, path = LayerStudy(workflow).run()
    click.echo(f"{table}\n\n{path}")
