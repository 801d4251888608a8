"""`bnas-larq report`: pictures and the HTML report of a run, also of one that is still going on."""

from __future__ import annotations

from pathlib import Path

import click

from bnas_larq.cli.options import opened


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
def command(run: Path) -> None:
    """Draw the cells and curves of the folder RUN and write report.html, from what there is."""
    workflow = opened(run, lock=False)
    workflow.report()
    click.echo(workflow.folder / "report.html")
