"""`bnas-larq export`: a trained run in, a checked .tflite out."""

from __future__ import annotations

from pathlib import Path

import click

from bnas_larq.cli.options import opened


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--overwrite", is_flag=True, help="Convert again, replacing model.tflite.")
def command(run: Path, overwrite: bool) -> None:
    """Write the network of the folder RUN as model.tflite for Larq Compute Engine.

    The file is compared with Keras on test images, and each convolution is listed as 1-bit or not.
    """
    from bnas_larq.runs import read_json

    workflow = opened(run)
    workflow.export(again=overwrite)
    workflow.report()
    report = read_json(workflow.folder / "export.json")
    reasons = report["not_binary_because"]
    for record in report["convolutions"]:
        name = record["name"]
        precision = "1 bit" if record["binary"] else "float"
        reason = "" if record["binary"] else f"  ({reasons.get(name, 'full precision')})"
        click.echo(f"{precision}  {record['kind']:10} {name}{reason}")
    click.echo(workflow.folder / "model.tflite")
