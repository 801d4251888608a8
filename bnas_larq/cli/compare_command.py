"""`bnas-larq compare`: several searches side by side, on the same data, budget and seeds."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bnas_larq.cli.options import Numbers
from bnas_larq.errors import BnasLarqError

if TYPE_CHECKING:
    from bnas_larq.run.comparison import ComparisonFolder
    from bnas_larq.run.comparison_plan import PlannedRun


BUDGET, SEEDS, RANDOM = "compare-cifar10", (0, 1), 2
_DEFAULTS = (("seeds", SEEDS), ("random", RANDOM), ("overrides", ()), ("data_dir", None))


@click.command()
@click.argument("methods", nargs=-1)
@click.option("--budget", help=f"What all runs share: a partial recipe. Default: {BUDGET}.")
@click.option("--seeds", type=Numbers(0), help="Seeds of each method. Default: 0,1.")
@click.option(
    "--random",
    "draws",
    type=click.IntRange(min=1),
    help=f"Random genotypes from each space that is searched. Default: {RANDOM}.",
)
@click.option(
    "--set",
    "overrides",
    metavar="KEY=VALUE",
    multiple=True,
    help="Override a key of every run's recipe, such as search.epochs=3. Repeatable.",
)
@click.option("--data-dir", help="Where the data set is, as for `bnas-larq run`.")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help="The comparison's folder. Default: runs/ and the budget's name.",
)
@click.option("--resume", is_flag=True, help="Go on with the comparison in --out.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier comparison in --out.")
@click.option("--dry-run", is_flag=True, help="Check and show what would be run; write nothing.")
def command(
    methods: tuple[str, ...],
    budget: str | None,
    seeds: list[int] | None,
    draws: int | None,
    overrides: tuple[str, ...],
    data_dir: str | None,
    out: Path | None,
    resume: bool,
    overwrite: bool,
    dry_run: bool,
) -> None:
    """Search with each of METHODS, train every found genotype equally, and compare.

    METHODS are recipes, shipped names or YAML files; the budget says how much each may search and
    how all networks are trained. Random genotypes are always a row.

    \b
      bnas-larq compare bnas darts gdas --data-dir DIR --dry-run
      bnas-larq compare bnas darts gdas --data-dir DIR --out runs/three
      bnas-larq compare --out runs/three --resume
      bnas-larq compare bnas darts gdas --out runs/three --resume --seeds 0,1,2

    A comparison that was killed goes on with --resume; METHODS may then be left out, or name
    further ones, which get the seeds, draws and overrides it began with. All methods together may
    get further seeds and draws. Runs that failed are tried again.
    """
    if resume and overwrite:
        raise BnasLarqError(
            "A comparison is either resumed or replaced. Received: --resume and --overwrite. "
            "Give one of them."
        )
    out = out or Path("runs") / Path(budget or BUDGET).stem
    if not methods:
        given = budget or seeds or draws or overrides or data_dir or dry_run
        if not resume or given:
            raise click.UsageError(
                "A comparison needs METHODS. Received: none. Only --resume, with --out, does "
                "without them: it goes on with what is there."
            )
        from bnas_larq.run.comparison import ComparisonFolder

        _run(ComparisonFolder.open(out))
        return
    from bnas_larq.run.comparison import ComparisonFolder, begun_options
    from bnas_larq.run.comparison_plan import plan, plan_text

    begun = resume and (out / "recipe.yaml").is_file()
    options = {
        "seeds": seeds,
        "random": draws,
        "overrides": list(overrides) or None,
        "data_dir": data_dir and str(Path(data_dir).expanduser().resolve()),
    }
    options = begun_options(out, options) if begun else options
    options = {key: default if options[key] is None else options[key] for key, default in _DEFAULTS}
    given = list(options["overrides"])
    if options["data_dir"] is not None:
        given.append(f"data.data_dir={json.dumps(options['data_dir'])}")
    shared, runs = plan(methods, budget or BUDGET, options["seeds"], options["random"], given)
    from bnas_larq.run.creation import resolve_recipe

    shared = resolve_recipe(shared)
    runs = [run._replace(recipe=resolve_recipe(run.recipe)) for run in runs]
    if dry_run:
        _check(runs)
        click.echo(plan_text(shared, runs))
        return
    if not begun:
        ComparisonFolder.check_new(out, shared, overwrite=overwrite)
        _check_apart(click.get_current_context().params)
    _run(
        ComparisonFolder.begin(
            out, shared, runs, options=options, resume=resume, overwrite=overwrite
        )
    )


def _check(runs: Sequence[PlannedRun]) -> None:
    """Find what does not fit the data before anything is written; BnasLarqError names the method.

    Args:
        runs: of them the first one of each method is looked at.
    """
    from bnas_larq.run.inputs import RunInputs
    from bnas_larq.run.searchers import check_inputs
    from bnas_larq.run_folder import RunFolder

    data, checked = None, set()
    for run in runs:
        if run.method in checked:
            continue
        checked.add(run.method)
        inputs = RunInputs(RunFolder(run.name), run.recipe, data)
        try:
            check_inputs(inputs, ("search", "train"))
        except BnasLarqError as error:
            raise type(error)(f"Method {run.method}: {error}") from error
        data = inputs.data


def _check_apart(params: Mapping[str, Any]) -> None:
    """The same in a process that ends with it: TensorFlow and the data would stay in this one."""
    from bnas_larq.run.processes import own_command, own_environment

    arguments = [*own_command(), "compare", *params["methods"], "--dry-run"]
    for option, value in (
        ("--budget", params["budget"]),
        ("--seeds", ",".join(map(str, params["seeds"] or ()))),
        ("--random", params["draws"]),
        ("--data-dir", params["data_dir"]),
        *(("--set", override) for override in params["overrides"]),
    ):
        arguments += [option, str(value)] if value else []
    done = subprocess.run(
        arguments,
        env=own_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode == 0:
        return
    sentences = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    if not sentences:  # a bug: its traceback is what there is to tell
        click.echo(done.stderr, err=True)
    raise BnasLarqError(sentences[-1].removeprefix("Error: ") if sentences else "The check failed.")


def _run(comparison: ComparisonFolder) -> None:
    """Do what is left of a comparison, show its table and where it is."""
    from bnas_larq.run.comparison import write_comparison

    click.get_current_context().call_on_close(comparison.folder.unlock)
    comparison.run_all(after_each=lambda: write_comparison(comparison))
    text, path = write_comparison(comparison)
    click.echo(f"{text}\n\n{path}")
    failures = comparison.failures()
    if failures and len(failures) == len(comparison.plan()):
        name, sentence = next(iter(failures.items()))
        raise BnasLarqError(f"No run of the comparison has a result. The first, {name}: {sentence}")
