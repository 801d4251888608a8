"""A comparison: several methods on one budget, each run in a process of its own.

Its folder holds

recipe.yaml          the budget
options.json         seeds, random genotypes, overrides and data folder, for runs added later
plan.json            the runs in order, and the settings that are scaled to the budget
recipes/<run>.yaml   each run's complete recipe
runs/<run>/          an ordinary run folder
logs/<run>.log       the run's messages
failures.json        why runs ended without a result
comparison.*         the table and the picture
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bnas_larq.console import say
from bnas_larq.errors import RecipeError, RunError
from bnas_larq.files import read_json, read_record, write_atomic, write_json
from bnas_larq.recipe import Recipe, load_recipe, parse_recipe
from bnas_larq.run.comparison_plan import PlannedRun, searcher_notes, stage_numbers
from bnas_larq.run.comparison_request import OPTIONS, ComparisonRequest, Options
from bnas_larq.run.creation import check_same_recipe, environment, one_precision
from bnas_larq.run.processes import ProcessCrash, run_command, share_gpu_memory
from bnas_larq.run_folder import RunFolder, recipe_of
from bnas_larq.run_records import Failures, Plan, Result
from bnas_larq.text_files import read_yaml

#: What a comparison writes before plan.json.
_BEFORE_PLAN = {"recipe.yaml", "environment.json", OPTIONS, "recipes"}


class Comparison:
    """Searches side by side on the same data, budget and seeds; make it with `create` or `open`.

    It locks its folder until `close`, or the end of a `with` block. Its runs are child processes,
    one after the other, which know operations of your own only through `bnas-larq --plugin`.

        with Comparison.create(["bnas", "gdas"], "runs/two", data_dir="data") as comparison:
            table, path = comparison.run()
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    # -- creating and opening ----------------------------------------------------------------------

    @classmethod
    def create(
        cls, methods: Sequence[str | Path], out: str | Path | None = None, **settings: Any
    ) -> Comparison:
        """A new comparison, or with `resume` the one in `out`, perhaps with further runs.

        Args:
            methods: recipes, shipped names or YAML files.
            out: the comparison's folder. Default: `runs/` and the budget's name.
            settings: any of
                budget: what all runs share, a partial recipe. Default: compare-cifar10.
                seeds: of each method. Default: 0 and 1.
                random: random genotypes from each space that is searched. Default: 2.
                random_ops: least and most operations of their networks, counted honestly.
                overrides: keys of every run's recipe, `{"a.b": value}` or texts `a.b=value`.
                data_dir: where the data set is.
                resume: continue in `out`. Further methods get the options it began with; `seeds`
                    and `random` may grow if all methods are named.
                overwrite: replace an earlier comparison in `out`.

        Raises:
            RunError: the folder exists (without `resume` or `overwrite`), or belongs to another
                comparison or none.
            BnasLarqError: a recipe is wrong, or does not fit the data.
        """
        request = ComparisonRequest(methods, out, **settings)
        path, options = request.path, request.options
        budget, runs = request.plan()
        if request.resumes:
            _check_comparison(path, budget)
            folder = RunFolder.open(path, lock=True)
        else:
            if budget.data.name == "folder":
                RunFolder.check_outside(path, budget.data.data_dir)
            RunFolder.check_new(path, overwrite=request.overwrite)
            if (path / "recipe.yaml").is_file():
                _check_comparison(path, budget)
            request.check()
            folder = RunFolder.create(path, budget.to_yaml(), overwrite=request.overwrite)
        comparison = cls(folder)
        try:
            if (folder / "plan.json").is_file():
                comparison._extend(budget, runs, options)
            else:
                write_json(folder / "environment.json", environment(budget.seed))
                write_json(folder / OPTIONS, options.model_dump(mode="json"))
                comparison._write_plan(runs)
        except BaseException:
            comparison.close()
            raise
        return comparison

    @classmethod
    def open(cls, out: str | Path) -> Comparison:
        """The comparison in a folder; RunError if there is none."""
        if not (Path(out) / "plan.json").is_file():
            raise RunError(
                f"A comparison's folder holds plan.json. Received: {out}, which does not. "
                "Give METHODS to begin one."
            )
        return cls(RunFolder.open(out, lock=True))

    def close(self) -> None:
        """Let other processes work in the folder."""
        self.folder.unlock()

    def __enter__(self) -> Comparison:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _extend(self, budget: Recipe, runs: Sequence[PlannedRun], options: Options) -> None:
        """Plan further runs; those that have started must be the same, others may be changed."""
        check_same_recipe(budget, recipe_of(self.folder), self.folder.path)
        planned = self.plan()
        file = self.folder / OPTIONS
        grown = file.is_file() and Options.parse(read_json(file), file) != options
        missing = {entry["method"] for entry in planned} - {run.method for run in runs}
        if grown and missing:
            raise RunError(
                "Further seeds and random genotypes are for all methods of a comparison. "
                f"Received: no {', '.join(sorted(missing))}. Add them to METHODS."
            )
        seeds = {entry["name"]: entry["seed"] for entry in planned}
        # A random genotype's seed depends on how many seeds there were when it was planned.
        runs = [run.with_seed(seeds.get(run.name, run.seed)) for run in runs]
        started = [run for run in runs if run.name in seeds and self.run_path(run.name).exists()]
        for run in started:
            path = self._recipe_path(run.name)
            if _recipe_in(path) != run.recipe:
                raise RunError(
                    "A run that has started keeps its recipe. "
                    f"Received: another recipe for {run.name} than {path}. "
                    "Undo the change, or choose another --out."
                )
        self._write_plan([run for run in runs if run not in started])
        if grown:
            write_json(file, options.model_dump(mode="json"))

    def _write_plan(self, runs: Sequence[PlannedRun]) -> None:
        """Write the recipes of runs and add them to the plan, or replace those of their names."""
        for run in runs:
            write_atomic(self._recipe_path(run.name), run.recipe.to_yaml())
        # Last: every run in the plan has its recipe.
        entries = {entry["name"]: entry for entry in self.plan()}
        entries |= {run.name: run.describe() for run in runs}
        write_json(self.folder / "plan.json", list(entries.values()))

    # -- running -----------------------------------------------------------------------------------

    def run(self) -> tuple[str, Path]:
        """Do all runs that have no result yet, also those that failed before.

        Returns:
            The table, and the path of comparison.json; CSV, Markdown and a picture lie beside it.

        Raises:
            KeyboardInterrupt: a run was interrupted.
        """
        planned = self.plan()
        share_gpu_memory()  # costs and precisions are computed here, between the runs
        for number, entry in enumerate(planned, 1):
            name = entry["name"]
            path = self.run_path(name) / "result.json"
            result = read_record(path, Result) if path.exists() else {}
            if result.get("finished"):
                say(f"run {number}/{len(planned)}, {name}: already done")
                continue
            say(f"run {number}/{len(planned)}, {name}")
            failures = self.failures()
            failures.pop(name, None)
            if failure := self._run(name):
                failures[name] = failure
                say(f"run {name} failed: {failure}")
            write_json(self.folder / "failures.json", failures)
            self.write()
        return self.write()

    def _run(self, name: str) -> str | None:
        """Start or resume a run; returns None, or why it ended without a result."""
        path, log = self.run_path(name), self.folder / "logs" / f"{name}.log"
        resume = ["--resume"] if (path / "recipe.yaml").is_file() else []
        log.parent.mkdir(exist_ok=True)
        with open(log, "a", encoding="utf-8", buffering=1) as stream:

            def show(line: str) -> None:
                stream.write(f"{line}\n")
                if not line.startswith("Error: "):
                    say(line)

            try:
                source = self._recipe_path(name)
                chosen = one_precision(load_recipe(source), self.folder.path).items()
                overrides = [part for key, own in chosen for part in ("--set", f"{key}={own}")]
                run_command("run", source, "--out", path, *overrides, *resume, on_message=show)
            except ProcessCrash as error:
                return f"{error} See {log}."
            except (RunError, RecipeError) as error:
                return str(error)
        return None

    def check_results(self) -> None:
        """Raise RunError if every run failed."""
        failures = self.failures()
        if failures and len(failures) == len(self.plan()):
            name, failure = next(iter(failures.items()))
            raise RunError(f"No run of the comparison has a result. The first, {name}: {failure}")

    # -- the folder --------------------------------------------------------------------------------

    def plan(self) -> list[dict[str, Any]]:
        """The runs in order, as `PlannedRun.describe` gives them."""
        path = self.folder / "plan.json"
        return read_record(path, Plan) if path.exists() else []

    def failures(self) -> dict[str, str]:
        """Why runs ended without a result, by name."""
        path = self.folder / "failures.json"
        return read_record(path, Failures) if path.exists() else {}

    def run_path(self, name: str) -> Path:
        """The folder of a run."""
        return self.folder / "runs" / name

    def _recipe_path(self, name: str) -> Path:
        return self.folder / "recipes" / f"{name}.yaml"

    def write(self) -> tuple[str, Path]:
        """Write comparison.* from what is there; returns as `run` does.

        Raises:
            RunError: a file cannot be written, or a run's result cannot be read.
        """
        from bnas_larq.report import comparison_report as report

        folder, failures, planned = self.folder, self.failures(), self.plan()
        budget = recipe_of(folder)
        runs = [
            report.run_facts(self.run_path(entry["name"]), entry, failures.get(entry["name"]))
            for entry in planned
        ]
        rows, notes = report.method_rows(runs), table_notes(budget, planned)
        title = f"Comparison {folder.path.resolve().name}: {budget.data.name}, budget {budget.name}"
        path = write_json(
            folder / "comparison.json",
            {
                "budget": budget.model_dump(mode="json"),
                "finished": all(run["status"] == "finished" for run in runs),
                "methods": rows,
                "runs": runs,
                "adapted": {entry["name"]: entry["adapted"] for entry in planned},
                "notes": notes,
            },
        )
        write_atomic(folder / "comparison.csv", report.comparison_csv(rows))
        write_atomic(folder / "comparison.md", report.comparison_markdown(rows, runs, notes, title))
        report.save_comparison_picture(rows, runs, folder / "comparison.png", title)
        return f"{title}\n\n{report.comparison_text(rows, runs, notes)}", path


def _check_comparison(path: Path, budget: Recipe) -> None:
    """Raise RunError unless `path` holds a comparison, or this one killed before it had a plan."""
    if (path / "plan.json").is_file():
        return
    names = {entry.name for entry in path.iterdir() if not entry.name.startswith(".")}
    same_budget = _recipe_in(path / "recipe.yaml") == budget
    if not (same_budget and names <= _BEFORE_PLAN):
        raise RunError(
            f"A comparison's folder holds plan.json. Received: {path}, which does not, and is no "
            "beginning of this comparison. Choose another --out."
        )


def _recipe_in(path: Path) -> Recipe | None:
    """The resolved recipe in a file, perhaps as an earlier release wrote it; None if it cannot be
    read."""
    try:
        return parse_recipe(read_yaml(path))
    except (OSError, ValueError, RecipeError):
        return None


def table_notes(budget: Recipe, planned: Sequence[Mapping[str, Any]] = ()) -> list[str]:
    """How the numbers of a comparison's table came about; `planned` are entries of plan.json."""
    search, network, (epochs, batches) = budget.search, budget.network, stage_numbers(budget)
    images = "all images" if search.limit is None else f"{search.limit:,} images"
    held_out = " and what was held out from it for validation" if budget.train.on == "all" else ""
    return [
        f"Search: {search.epochs} epochs, {search.cells} cells, {search.channels} channels, batch "
        f"{search.batch_size}, on {images} of the training part: one half trains the weights, the "
        "other α. The validation part only selects the epoch whose genotype is taken, where "
        "search.select is `best`; methods that search otherwise are named "
        "below. plan.json lists the settings of each method that were scaled to this budget.",
        *searcher_notes(planned),
        f"Every genotype was then trained in the same way on the whole training part{held_out}: "
        f"{network.cells} cells, {network.channels} channels, shortcut {network.shortcut}, scheme "
        f"{network.scheme}, {epochs} epochs, batch {batches}. "
        "Supernets had the same stem, shortcuts and scheme.",
        "The test part was used once for each network, after its training, for the test accuracy.",
        "a ± b: mean and sample standard deviation over the finished runs; OPs, size and shares "
        "are means.",
        "Search time: wall time of the search, building and compiling included; one run after the "
        "other, each in a process of its own.",
        "OPs, honest: only 1-bit MACs divided by 64; OPs, papers': the full-precision shortcuts "
        "too. Size: 1 bit for each binary weight, 4 bytes for each other weight and each scale.",
        "Zeroise, pools: share of the genotype's edges with Zeroise, and with pooling or identity.",
        "Random genotypes are uniform draws from a space, of those within `random_ops` if "
        "options.json has such bounds; `-none`: without Zeroise, which the methods in that space "
        "may not choose.",
    ]
