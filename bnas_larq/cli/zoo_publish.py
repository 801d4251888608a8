"""`bnas-larq zoo publish`: a finished run in, a zoo entry with model card and sums out."""

from __future__ import annotations

from pathlib import Path

import click

from bnas_larq.cli.console import say


@click.command(short_help="Make an entry of a finished run.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="Of small letters, digits and hyphens.")
@click.option(
    "--variant",
    help="Network of the papers it belongs to, such as bnas-d, at whatever size. Default: the one "
    "it equals, else none.",
)
@click.option("--dataset", help="What `weights=` finds it by. Default: the data set's name.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of entries. Default: yours.")
@click.option("--data-dir", help="Where the data set is now, if not where the run had it.")
@click.option("--license", default="Apache-2.0", show_default=True, help="Of the weights.")
@click.option("--description", default="", help="One line for lists. Default: from the facts.")
@click.option(
    "--note", "notes", multiple=True, help="A sentence for the card's limits. Repeatable."
)
@click.option(
    "--weights-url",
    help="Where you are going to put weights.h5: the entry then works without that file, too.",
)
@click.option("--overwrite", is_flag=True, help="Replace an earlier entry of that name.")
def command(
    run: Path,
    name: str,
    variant: str | None,
    dataset: str | None,
    out: Path | None,
    data_dir: str | None,
    license: str,
    description: str,
    notes: tuple[str, ...],
    weights_url: str | None,
    overwrite: bool,
) -> None:
    """Publish the network of the finished run RUN as a zoo entry.

    Its weights are evaluated on the test split again, and refused if they do not get exactly the
    recorded number of images right. The entry is one folder: model card, recipe, genotype, weights,
    metrics, and the SHA-256 of each file.
    """
    say("publish: checking the run, then evaluating its weights again")

    from bnas_larq.zoo.publishing import publish_run

    entry = publish_run(
        run,
        name,
        variant=variant,
        dataset=dataset,
        out=out,
        license=license,
        description=description,
        notes=notes,
        weights_url=weights_url,
        data_dir=data_dir,
        overwrite=overwrite,
    )
    say(f"publish: {entry.summary()}")
    if entry.variant is None:
        say(
            f"publish: of no variant, so load it with find_entry({name!r}).load_model(); "
            "--variant bnas-d would make it weights of BNASD"
        )
    if not entry.redistributable:
        say(f"publish: not to be passed on. Licence: {entry.license}")
    click.echo(entry.folder)
