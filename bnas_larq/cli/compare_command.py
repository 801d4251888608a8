"""`bnas-larq compare`: several searches side by side, on the same data, budget and seeds."""

from __future__ import annotations

from typing import Any

import click

from bnas_larq.cli.options import NAME_OR_PATH, PATH, Numbers, closed_at_the_end
from bnas_larq.console import print_result


@click.command()
@click.argument("methods", type=NAME_OR_PATH, nargs=-1)
@click.option(
    "--budget",
    type=NAME_OR_PATH,
    help="What all runs share: a partial recipe. Default: compare-cifar10.",
)
@click.option("--seeds", type=Numbers(0), help="Seeds of each method. Default: 0,1.")
@click.option(
    "--random",
    type=click.IntRange(min=1),
    help="Random genotypes from each space that is searched. Default: 2.",
)
@click.option(
    "--random-ops",
    type=click.FloatRange(min=0),
    nargs=2,
    metavar="LEAST MOST",
    help="Draw random genotypes until their networks have so many operations, counted honestly.",
)
@click.option(
    "--set",
    "overrides",
    metavar="KEY=VALUE",
    multiple=True,
    help="Override a key of every run's recipe, such as search.epochs=3. Repeatable.",
)
@click.option(
    "--data-dir", type=NAME_OR_PATH, help="Where the data set is, as for `bnas-larq run`."
)
@click.option(
    "-o", "--out", type=PATH, help="The comparison's folder. Default: runs/ and the budget's name."
)
@click.option("--resume", is_flag=True, help="Continue the comparison in --out.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier comparison in --out.")
@click.option("--dry-run", is_flag=True, help="Check and show what would be run; write nothing.")
def command(methods: tuple[str, ...], dry_run: bool, **settings: Any) -> None:
    """Search with each of METHODS, train every genotype in the same way, and compare.

    METHODS are recipes, shipped names or YAML files; the budget says how much each may search and
    how all networks are trained. Random genotypes are always a row of the table.

    \b
      bnas-larq compare bnas darts gdas --data-dir DIR --dry-run
      bnas-larq compare bnas darts gdas --data-dir DIR --out runs/three
      bnas-larq compare --out runs/three --resume
      bnas-larq compare bnas darts gdas --out runs/three --resume --seeds 0,1,2

    A comparison that was killed continues with --resume. Omit METHODS then, or name further ones,
    which get the seeds, draws and overrides it began with. With all METHODS named, further seeds
    and draws may be added. Runs that failed are tried again.
    """
    from bnas_larq.run.comparison import Comparison
    from bnas_larq.run.comparison_request import ComparisonRequest

    request = ComparisonRequest(methods, **settings)
    given = {key for key, value in settings.items() if value} - {"out", "resume"}
    if not methods and (not request.resume or given or dry_run):
        raise click.UsageError(
            "A comparison needs METHODS. Received: none. Only --resume, with --out, works without "
            "them: it continues what is there."
        )
    if dry_run:
        if request.overwrite:
            raise click.UsageError("--dry-run replaces nothing. Received: --overwrite with it.")
        print_result(request.dry_run())
        return
    comparison = (
        Comparison.create(methods, **settings) if methods else Comparison.open(request.path)
    )
    table, path = closed_at_the_end(comparison).run()
    print_result(f"{table}\n\n{path}")
    comparison.check_results()
