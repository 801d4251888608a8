"""`bnas-larq export`: a trained run in, a checked .tflite out."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--overwrite", is_flag=True, help="Convert again, replacing model.tflite.")
def command(run: Path, overwrite: bool) -> None:
    """Write the network of the folder RUN as model.tflite for Larq Compute Engine.

    The file is compared with Keras on test images, and each convolution is listed as 1-bit or not.
    """
    from bnas_larq.cli.workflow import open_workflow
    from bnas_larq.runs import read_json

    workflow = open_workflow(run)
    workflow.export(again=overwrite)
    workflow.report()
    report = read_json(workflow.folder / "export.json")
    for record in report["convolutions"]:
        reason = "" if record["binary"] else f"  ({report['not_binary_because'].get(record['name'], 'full precision')})"
        click.echo(f"{'1 bit ' if record['binary'] else 'float '} {record['kind']:10} {record['name']}{reason}")
    click.echo(workflow.folder / "model.tflite")
