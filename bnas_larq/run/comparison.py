"""The folder of a comparison, and its runs one after the other, each in a process of its own.

recipe.yaml          the budget
options.json         seeds, random genotypes and overrides, for what is added later
plan.json            the runs in order, and what the budget changed of their methods' settings
recipes/<run>.yaml   each run's recipe, complete
runs/<run>/          an ordinary run folder
logs/<run>.log       what the run said
failures.json        why runs ended without a result
comparison.*         the table and the picture
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnas_larq.console import say
from bnas_larq.errors import RunError
from bnas_larq.files import read_json, write_atomic, write_json
from bnas_larq.run.comparison_plan import tuner_notes
from bnas_larq.run.creation import check_same_recipe, environment, recipe_of
from bnas_larq.run.processes import dies_with_parent, own_command, own_environment
from bnas_larq.run_folder import RunFolder

if TYPE_CHECKING:
    from bnas_larq.recipe import Recipe
    from bnas_larq.run.comparison_plan import PlannedRun


#: Exit code of a run that Ctrl-C ended.
INTERRUPTED = 130
OPTIONS = "options.json"
#: What a comparison has written when its plan.json is not there yet.
_BEGINNING = {"recipe.yaml", "environment.json", OPTIONS, "recipes"}
#: Keys of options.json, and what they are called on the command line.
_FLAGS = {
    "seeds": "--seeds",
    "random": "--random",
    "overrides": "--set",
    "data_dir": "--data-dir",
}


def begun_options(path: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that the comparison in a folder began with, or goes on with: further seeds and
    further random genotypes may be given; those given where none are kept.

    Args:
        given: by the keys of options.json; None for what is not given.

    Raises:
        RunError: something else is given than it began with, or options.json cannot be read.
    """
    file = path / OPTIONS
    kept = read_json(file) if file.is_file() else given
    if not isinstance(kept, Mapping) or not set(_FLAGS) <= set(kept):
        raise RunError(
            f"A comparison's {OPTIONS} must hold {', '.join(_FLAGS)}. Received: {file}. "
            "Restore the file, or choose another --out."
        )
    differing = [
        flag
        for key, flag in _FLAGS.items()
        if given[key] is not None and not _goes_on(key, kept[key], given[key])
    ]
    if differing:
        raise RunError(
            "A comparison goes on with the options it began with, or with further --seeds and "
            f"more --random besides. Received: another {', '.join(differing)} than in {file}. "
            "Leave the change away, or choose another --out."
        )
    options = {key: kept[key] if given[key] is None else given[key] for key in _FLAGS}
    if given["seeds"] is not None:
        # Random genotypes take their seeds by place: the first ones stay the first.
        further = [seed for seed in given["seeds"] if seed not in kept["seeds"]]
        options["seeds"] = [*kept["seeds"], *further]
    return options


def _goes_on(key: str, kept: Any, given: Any) -> bool:
    """Whether an option of a begun comparison may become `given`."""
    if key == "seeds":
        return set(kept) <= set(given)
    return given >= kept if key == "random" else given == kept


def _is_beginning(path: Path, budget: Recipe) -> bool:
    """Whether a comparison with this budget was killed here before it wrote plan.json."""
    names = {entry.name for entry in path.iterdir() if not entry.name.startswith(".")}
    same = (path / "recipe.yaml").read_bytes() == budget.to_yaml().encode()
    return names <= _BEGINNING and same


class ComparisonFolder:
    """A comparison's folder, locked by whoever opened it."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    @classmethod
    def begin(
        cls,
        path: Path,
        budget: Recipe,
        runs: Sequence[PlannedRun],
        *,
        options: Mapping[str, Any],
        resume: bool,
        overwrite: bool,
    ) -> ComparisonFolder:
        """A new comparison, or with `resume` one that goes on, perhaps with further runs.

        Args:
            options: what `begun_options` gives when it goes on.

        Raises:
            RunError: the folder exists and is not to be resumed or replaced; or it was begun with
                another budget, or with other recipes; or it is no comparison's.
        """
        if resume and (path / "recipe.yaml").is_file():
            if not (path / "plan.json").is_file():
                return cls._begin_again(path, budget, runs, options)
            opened = cls.open(path)
            opened._add(budget, runs, options)
            return opened
        cls.check_new(path, budget, overwrite=overwrite)
        folder = RunFolder.create(path, budget.to_yaml(), overwrite=overwrite)
        created = cls(folder)
        created._start(budget, runs, options)
        return created

    @classmethod
    def _begin_again(
        cls, path: Path, budget: Recipe, runs: Sequence[PlannedRun], options: Mapping[str, Any]
    ) -> ComparisonFolder:
        """A comparison that was killed before it had a plan."""
        if not _is_beginning(path, budget):
            raise RunError(
                f"A comparison's folder holds plan.json. Received: {path}, which does not, and is "
                "no beginning of this comparison. Choose another --out."
            )
        begun = cls(RunFolder.open(path, lock=True))
        begun._start(budget, runs, options)
        return begun

    def _start(
        self, budget: Recipe, runs: Sequence[PlannedRun], options: Mapping[str, Any]
    ) -> None:
        write_json(self.folder / "environment.json", environment(budget.seed))
        write_json(self.folder / OPTIONS, {key: options[key] for key in _FLAGS})
        self._write(runs, [])

    @staticmethod
    def check_new(path: Path, budget: Recipe, *, overwrite: bool) -> None:
        """Raise RunError unless a new comparison may be made here; nothing is touched."""
        if budget.data.name == "folder":
            RunFolder.check_outside(path, budget.data.data_dir)
        RunFolder.check_new(path, overwrite=overwrite)
        if not (path / "recipe.yaml").is_file() or (path / "plan.json").is_file():
            return
        if not _is_beginning(path, budget):
            raise RunError(
                "Only an earlier comparison is replaced. "
                f"Received: {path}, which holds no plan.json. Choose another --out."
            )

    @classmethod
    def open(cls, path: Path) -> ComparisonFolder:
        """The comparison in a folder; RunError when there is none."""
        if not (path / "plan.json").is_file():
            raise RunError(
                f"A comparison's folder holds plan.json. Received: {path}, which does not. "
                "Give METHODS to begin one."
            )
        return cls(RunFolder.open(path, lock=True))

    def _add(self, budget: Recipe, runs: Sequence[PlannedRun], options: Mapping[str, Any]) -> None:
        """Plan further runs; those that have begun must be the same, others may be mended."""
        check_same_recipe(budget, recipe_of(self.folder), self.folder.path)
        known = self.plan()
        file = self.folder / OPTIONS
        grown = file.is_file() and read_json(file) != options
        missing = {one["method"] for one in known} - {run.method for run in runs}
        if grown and missing:
            raise RunError(
                "Further seeds and random genotypes are for all methods of a comparison. "
                f"Received: no {', '.join(sorted(missing))}. Add them to METHODS."
            )
        names = {one["name"] for one in known}
        for run in runs:
            path = self._recipe(run.name)
            begun = run.name in names and self.run_path(run.name).exists()
            if begun and path.read_text(encoding="utf-8") != run.recipe.to_yaml():
                raise RunError(
                    "A comparison goes on with the recipes it began with. "
                    f"Received: another recipe for {run.name} than {path}. "
                    "Leave the change away, or choose another --out."
                )
        waiting = [
            run for run in runs if run.name not in names or not self.run_path(run.name).exists()
        ]
        self._write(waiting, known)
        if grown:
            write_json(file, dict(options))

    def _write(self, runs: Sequence[PlannedRun], known: Sequence[dict[str, Any]]) -> None:
        """Write the recipes of `runs` and the plan, in which they replace known ones."""
        for run in runs:
            write_atomic(self._recipe(run.name), run.recipe.to_yaml())
        # Last: a run that stands in the plan has its recipe.
        planned = {one["name"]: one for one in (*known, *(run.describe() for run in runs))}
        write_json(self.folder / "plan.json", list(planned.values()))

    def _recipe(self, name: str) -> Path:
        return self.folder / "recipes" / f"{name}.yaml"

    def run_path(self, name: str) -> Path:
        """The run folder called `name`."""
        return self.folder / "runs" / name

    def plan(self) -> list[dict[str, Any]]:
        """The runs in order, as `PlannedRun.describe` gives them."""
        path = self.folder / "plan.json"
        return read_json(path) if path.is_file() else []

    def failures(self) -> dict[str, str]:
        """By the run's name, why it ended without a result."""
        path = self.folder / "failures.json"
        return read_json(path) if path.is_file() else {}

    def is_done(self, name: str) -> bool:
        """Whether a run has its result."""
        path = self.run_path(name) / "result.json"
        return path.is_file() and bool(read_json(path).get("finished"))

    def run_all(self, after_each: Any) -> None:
        """Do all runs that have no result yet, also those that failed before.

        Args:
            after_each: called without arguments when a run has ended.

        Raises:
            KeyboardInterrupt: a run was interrupted.
        """
        planned = self.plan()
        for number, one in enumerate(planned, 1):
            name = one["name"]
            if self.is_done(name):
                say(f"run {number}/{len(planned)}, {name}: already done")
                continue
            say(f"run {number}/{len(planned)}, {name}")
            failure = self._run(name)
            failures = {key: text for key, text in self.failures().items() if key != name}
            if failure is not None:
                failures[name] = failure
                say(f"run {name} failed: {failure}")
            write_json(self.folder / "failures.json", failures)
            after_each()

    def _run(self, name: str) -> str | None:
        """Start or go on with one run; None, or why it ended without a result."""
        arguments = [*own_command(), "run", str(self._recipe(name))]
        path = self.run_path(name)
        arguments += ["--out", str(path)]
        arguments += ["--resume"] if (path / "recipe.yaml").is_file() else []
        log = self.folder / "logs" / f"{name}.log"
        log.parent.mkdir(exist_ok=True)
        last = ""
        with (
            open(log, "a", encoding="utf-8") as stream,
            subprocess.Popen(
                arguments,
                env=own_environment(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
                preexec_fn=dies_with_parent(),
            ) as process,
        ):
            for line in process.stderr:
                stream.write(line)
                line = line.rstrip()
                last = line or last
                if not line.startswith("Error: "):
                    say(line)
        code = process.returncode
        if code == INTERRUPTED or code == -signal.SIGINT:
            raise KeyboardInterrupt
        if code == 0:
            return None
        if last.startswith("Error: "):
            return last.removeprefix("Error: ")
        if code < 0:
            return f"The process was ended by signal {-code}, perhaps for its memory. See {log}."
        return f"The process ended with exit code {code}: {last}. See {log}."


def write_comparison(comparison: ComparisonFolder) -> tuple[str, Path]:
    """Write all of them; the table as text, and the path of comparison.json.

    Raises:
        RunError: a file cannot be written, or a run's result cannot be read.
    """
    from bnas_larq.report.comparison_report import (
        comparison_csv,
        comparison_markdown,
        comparison_text,
        method_rows,
        run_facts,
        save_comparison_picture,
    )

    folder, failures, planned = comparison.folder, comparison.failures(), comparison.plan()
    budget = recipe_of(folder)
    runs = [
        run_facts(comparison.run_path(one["name"]), one, failures.get(one["name"]))
        for one in planned
    ]
    rows, said = method_rows(runs), notes(budget, planned)
    title = f"Comparison {folder.path.resolve().name}: {budget.data.name}, budget {budget.name}"
    path = write_json(
        folder / "comparison.json",
        {
            "budget": budget.model_dump(mode="json"),
            "finished": all(run["status"] == "finished" for run in runs),
            "methods": rows,
            "runs": runs,
            "adapted": {one["name"]: one["adapted"] for one in planned},
            "notes": said,
        },
    )
    write_atomic(folder / "comparison.csv", comparison_csv(rows))
    write_atomic(folder / "comparison.md", comparison_markdown(rows, runs, said, title))
    save_comparison_picture(rows, runs, folder / "comparison.png", title)
    return f"{title}\n\n{comparison_text(rows, runs, said)}", path


def notes(budget: Recipe, planned: Sequence[Mapping[str, Any]] = ()) -> list[str]:
    """How the numbers came about, for whoever reads the table.

    Args:
        planned: the runs, as plan.json has them.
    """
    search, network, train = budget.search, budget.network, budget.train
    images = "all images" if search.limit is None else f"{search.limit:,} images"
    template = "with" if network.shortcut else "without"
    return [
        f"Search: {search.epochs} epochs, {search.cells} cells, {search.channels} channels, batch "
        f"{search.batch_size}, on {images} of the training part: one half moves the weights, the "
        "other α. The validation part only says which epoch's genotype is taken, where "
        "search.select is `best`. What of the methods' own settings was scaled to this is in "
        "plan.json.",
        *tuner_notes(planned),
        "Every genotype was then trained in the same way on the whole training part: "
        f"{network.cells} cells, {network.channels} channels, {template} shortcuts, scheme "
        f"{network.scheme}, {train.epochs} epochs, batch {train.batch_size}. "
        "Networks are trained with this scheme, the budget's, whatever scheme searched them.",
        "The test part was used once for each network, after its training, for the test accuracy.",
        "a ± b: mean and sample standard deviation over the finished runs; OPs, size and shares "
        "are means.",
        "Search time: wall time of the stage, with building and compiling; one run after the "
        "other, each in a process of its own.",
        "OPs, honest: only 1-bit MACs divided by 64; OPs, papers': the full-precision shortcuts "
        "too. Size: 1 bit for each binary weight, 4 bytes for each other one and each scale.",
        "Zeroise, pools: share of the genotype's edges with Zeroise, and with pooling or identity.",
        "Random genotypes are uniform draws from the space, Zeroise included.",
    ]
