"""`bnas-larq export`: a trained network in, a checked .tflite or a whole deploy bundle out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bnas_larq.cli.options import opened
from bnas_larq.errors import ExportError

if TYPE_CHECKING:
    from bnas_larq.run.deployment import Target


_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("target")
@click.option("--lint", is_flag=True, help="Only tell what the file would hold, nothing written.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings or the report as JSON.")
@click.option("--out", type=_PATH, help="The .tflite file. Default: model.tflite in the run.")
@click.option("--bundle", type=_PATH, help="Also write a folder with all that a device needs.")
@click.option(
    "--images",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Images to compare file and Keras on. Default: the run's test images, else noise.",
)
@click.option("--labels", type=_PATH, help="Classes of a saved Keras model, one on each line.")
@click.option("--mean", nargs=3, type=float, help="Its mean of red, green, blue, from 0 to 1.")
@click.option("--std", nargs=3, type=float, help="Its deviation of red, green, blue.")
@click.option("--overwrite", is_flag=True, help="Convert again and replace earlier files.")
def command(
    target: str,
    lint: bool,
    as_json: bool,
    out: Path | None,
    bundle: Path | None,
    images: Path | None,
    labels: Path | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    overwrite: bool,
) -> None:
    """Write a network as a .tflite file for Larq Compute Engine.

    TARGET is a run's folder, a zoo entry's name or folder, or a saved Keras model (.h5, .keras).
    The file is compared with Keras, and each convolution is listed as 1-bit or not.
    """
    from bnas_larq.run import deployment as deploy

    if (labels or mean or std) and not deploy.is_saved_model(target):
        raise click.UsageError(
            "Runs and zoo entries know their labels and normalisation. "
            "Received: --labels, --mean or --std."
        )
    if lint:
        if out or bundle:
            raise click.UsageError("--lint writes nothing. Received: --out or --bundle with it.")
        _lint(deploy.load_target(target, labels, mean, std), as_json)
        return
    if bundle is not None:
        from bnas_larq.export.bundle import check_bundle

        check_bundle(bundle, overwrite=overwrite)
    run: dict[str, Any] | None = None
    if deploy.is_run(target) and out is None and images is None:
        path, report, run = _export_run(Path(target), overwrite)
        content = _intact(path, report)
        loaded = deploy.load_target(target, labels, mean, std) if bundle else None
    else:
        loaded = deploy.load_target(target, labels, mean, std)
        if out is None and bundle is None:
            raise click.UsageError(
                f"Where the file goes is not known. Received: {target} without --out and --bundle."
            )
        if bundle is not None:
            deploy.check_describes(loaded)
        path, content, report = _export(loaded, out, images, overwrite)
    if as_json:
        import json

        click.echo(json.dumps(report, indent=1))
    else:
        _list(report)
    if bundle is not None:
        deploy.bundle(bundle, loaded, content, report, run=run, overwrite=overwrite)
        if license := deploy.terms(loaded, (run or {}).get("recipe")):
            from bnas_larq.console import say

            say(f"These weights may not be given to others: {license}")
    for written in (path, bundle):
        if written is not None and not as_json:
            click.echo(written)


def _lint(target: Target, as_json: bool) -> None:
    from bnas_larq.export.lint import lint
    from bnas_larq.export.lint_text import lint_text

    stored = target.stored
    found = lint(target.model, *((stored.genotype, stored.config) if stored else ()))
    if as_json:
        import json

        click.echo(json.dumps(found.to_dict(), indent=1))
    else:
        click.echo(lint_text(found))


def _export_run(folder: Path, overwrite: bool) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """Export as a stage of the run: (file, report, what is known of the run)."""
    from bnas_larq.files import read_json

    run = opened(folder)
    run.export(again=overwrite)
    run.report()
    report = read_json(run.folder / "export.json")
    report.setdefault("parity_images", "test images")
    test = read_json(run.folder / "result.json").get("test")
    return run.folder / "model.tflite", report, {"recipe": run.recipe, "test": test}


def _intact(path: Path, report: Mapping[str, Any]) -> bytes:
    """The content of a run's exported file, which must be what its report tells of."""
    import hashlib

    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != report["sha256"]:
        raise ExportError(
            "A run's model.tflite must be the one that export.json tells of. "
            f"Received: {path}, which was changed since. Add --overwrite to convert again."
        )
    return content


def _export(
    target: Target, out: Path | None, images: Path | None, overwrite: bool
) -> tuple[Path | None, bytes, dict[str, Any]]:
    """Export a network that is no run's: (file if it stays, content, report)."""
    import tempfile

    from bnas_larq.console import say
    from bnas_larq.export.exporter import export_network
    from bnas_larq.run import deployment as deploy

    pictures, what = deploy.parity_images(target, images)
    with tempfile.TemporaryDirectory() as folder:
        path = out or Path(folder) / "model.tflite"
        report = export_network(target.model, path, pictures, overwrite=overwrite)
        content = path.read_bytes()
    report["parity_images"] = what
    parity = report["parity"]
    say(
        f"export: {len(content)} bytes, {report['binary_convolutions']} convolutions in 1 bit, "
        f"{report['float_convolutions']} not; {parity['equal_predictions']:.2%} of "
        f"{parity['images']} {what} predicted as by Keras, "
        f"largest difference {parity['max_abs_difference']:.2g}"
    )
    return out, content, report


def _list(report: Mapping[str, Any]) -> None:
    """Each convolution of the file on a line."""
    reasons = report["not_binary_because"]
    for record in report["convolutions"]:
        name = record["name"]
        precision = "1 bit" if record["binary"] else "float"
        reason = "" if record["binary"] else f"  ({reasons.get(name, 'full precision')})"
        click.echo(f"{precision}  {record['kind']:10} {name}{reason}")
