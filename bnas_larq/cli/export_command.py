"""`bnas-larq export`: a trained network in, a checked .tflite or a whole deploy bundle out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import click

from bnas_larq.cli.options import NAME_OR_PATH, PATH, PathType
from bnas_larq.console import print_result
from bnas_larq.setting_types import FloatStorage


@click.command()
@click.argument("target", type=NAME_OR_PATH)
@click.option("--lint", is_flag=True, help="Only say what the file would hold; write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings or the report as JSON.")
@click.option("--out", type=PATH, help="The .tflite file. Default: model.tflite in the run.")
@click.option("--bundle", type=PATH, help="Also write a folder with all that a device needs.")
@click.option(
    "--images",
    type=PathType(path_type=Path, exists=True, file_okay=False),
    help="Images to compare file and Keras on. Default: the run's test images, else noise.",
)
@click.option(
    "--data-dir",
    type=NAME_OR_PATH,
    help="Where the run's images are now, if they were moved since.",
)
@click.option(
    "--float-storage",
    type=click.Choice(get_args(FloatStorage)),
    help="Type of full-precision kernels in the file. Default: a run's or an entry's own, else "
    "float32.",
)
@click.option("--labels", type=PATH, help="Classes of a saved Keras model, one on each line.")
@click.option("--mean", nargs=3, type=float, help="Its mean of red, green, blue, from 0 to 1.")
@click.option("--std", nargs=3, type=float, help="Its deviation of red, green, blue.")
@click.option("--overwrite", is_flag=True, help="Convert again and replace earlier files.")
def command(target: str, lint: bool, as_json: bool, **options: Any) -> None:
    """Write a network as a .tflite file for Larq Compute Engine.

    TARGET is a run's folder, a zoo entry's name or folder, or a saved Keras model (.h5, .keras).
    The file is compared with Keras, and each convolution is listed as 1-bit or not.
    """
    from bnas_larq.run.deployment import EXPORTABLE, export_target, lint_target
    from bnas_larq.run.targets import Kind, find_target

    network = find_target(target, EXPORTABLE, "`bnas-larq export`")
    told = options["labels"] or options["mean"] or options["std"]
    if told and network.kind is not Kind.SAVED_MODEL:
        raise click.UsageError(
            "Runs and zoo entries know their labels and normalisation. "
            "Received: --labels, --mean or --std."
        )
    if options["data_dir"] and (
        network.kind is not Kind.RUN or lint or options["out"] or options["images"]
    ):
        raise click.UsageError(
            "--data-dir says where the test images are that a run's model.tflite is compared on. "
            "Received: --data-dir with another TARGET, or with --lint, --out or --images."
        )
    if lint:
        given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value]
        if given:
            raise click.UsageError(
                "--lint lists all storages, compares no images and writes nothing. "
                f"Received: {', '.join(given)} with it."
            )
        from bnas_larq.export.lint_text import lint_text

        findings = lint_target(network)
        print_result(json.dumps(findings.to_dict(), indent=1) if as_json else lint_text(findings))
        return
    writes = options["out"] or options["bundle"]
    if not writes and (network.kind is not Kind.RUN or options["images"]):
        raise click.UsageError(
            f"An export needs a place to write to. Received: {target} without --out and --bundle."
        )
    report, paths = export_target(network, **options)
    if as_json:
        print_result(json.dumps(report, indent=1))
        return
    reasons = report["not_binary_because"]
    width = 7 if report.get("float_storage") == "float16" else 5
    for record in report["convolutions"]:
        name = record["name"]
        stored = record.get("stored", "1 bit" if record["binary"] else "float")
        precision = "float" if stored == "float32" else stored
        reason = "" if record["binary"] else f"  ({reasons.get(name, 'full precision')})"
        print_result(f"{precision:{width}}  {record['kind']:10} {name}{reason}")
    for path in paths:
        print_result(path)
