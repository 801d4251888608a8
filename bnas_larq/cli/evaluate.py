"""`bnas-larq evaluate`: a trained run in, its test accuracy out."""

from __future__ import annotations

import json
from pathlib import Path

import click

from bnas_larq.cli.options import opened


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
def command(run: Path) -> None:
    """Evaluate the network of the folder RUN on the test split.

    Writes predictions.csv and confusion.csv. The test split is touched once: a run that was
    evaluated before answers with its stored result.
    """
    workflow = opened(run)
    workflow.evaluate()
    workflow.report()
    click.echo(json.dumps(workflow.folder.facts("evaluate")["test"]))
