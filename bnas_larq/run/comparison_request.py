"""What is asked of a comparison, and the check of it before anything is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pydantic

from bnas_larq.console import say
from bnas_larq.errors import BnasLarqError, RunError
from bnas_larq.files import expand_home, read_json
from bnas_larq.recipe import Recipe
from bnas_larq.run.comparison_plan import PlannedRun, plan, plan_text
from bnas_larq.run.creation import override_texts
from bnas_larq.run.processes import ProcessCrash, run_command, share_gpu_memory
from bnas_larq.run_folder import RunFolder
from bnas_larq.setting_types import Section

BUDGET = "compare-cifar10"
OPTIONS = "options.json"
_DEFAULTS = {"seeds": (0, 1), "random": 2, "overrides": (), "data_dir": None}


class Options(Section):
    """What all runs of a comparison share; options.json keeps it for runs that are added later."""

    seeds: tuple[pydantic.NonNegativeInt, ...] = pydantic.Field(min_length=1)
    random: pydantic.PositiveInt
    overrides: tuple[str, ...]
    data_dir: str | None
    random_ops: tuple[float, float] | None = None

    @classmethod
    def parse(cls, values: Any, source: object) -> Options:
        """Checked options; RunError names the `source` of wrong values."""
        try:
            return cls.model_validate(values)
        except pydantic.ValidationError as error:
            raise RunError(
                f"A comparison's {OPTIONS} must hold {', '.join(cls.model_fields)}, with at least "
                f"one seed and one random genotype. Received: {source}. Correct it."
            ) from error

    def extended(self, given: Mapping[str, Any], file: Path) -> Options:
        """These options, with further seeds and random genotypes.

        Raises:
            RunError: fewer of them, or another option than the comparison's `file` holds.
        """
        wanted = self.parse(self.model_dump() | given, given)
        compatible = {
            "--seeds": set(self.seeds) <= set(wanted.seeds),
            "--random": self.random <= wanted.random,
            "--set": self.overrides == wanted.overrides,
            "--data-dir": self.data_dir == wanted.data_dir,
            "--random-ops": self.random_ops == wanted.random_ops,
        }
        differing = [flag for flag, allowed in compatible.items() if not allowed]
        if differing:
            raise RunError(
                "A comparison keeps its options; only --seeds and --random may grow. "
                f"Received: another {', '.join(differing)} than in {file}. "
                "Undo the change, or choose another --out."
            )
        # Random genotypes take their seeds by position: the first seeds stay first.
        further = [seed for seed in wanted.seeds if seed not in self.seeds]
        return wanted.model_copy(update={"seeds": (*self.seeds, *further)})


@dataclass(frozen=True)
class ComparisonRequest:
    """The arguments of `Comparison.create`, which describes them."""

    methods: Sequence[str | Path]
    out: str | Path | None = None
    budget: str | Path | None = None
    seeds: Sequence[int] | None = None
    random: int | None = None
    overrides: Mapping[str, Any] | Iterable[str] = ()
    data_dir: str | Path | None = None
    random_ops: tuple[float, float] | None = None
    resume: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.resume and self.overwrite:
            raise RunError(
                "A comparison is either resumed or replaced. Received: --resume and --overwrite. "
                "Give one of them."
            )

    @property
    def path(self) -> Path:
        """The comparison's folder."""
        return Path(self.out or Path("runs") / Path(self.budget or BUDGET).stem)

    @property
    def resumes(self) -> bool:
        """Whether there is something to resume."""
        return self.resume and (self.path / "recipe.yaml").is_file()

    @cached_property
    def options(self) -> Options:
        """The options that are given, or kept where they are not; RunError if they differ."""
        given = {
            "seeds": self.seeds,
            "random": self.random,
            "overrides": override_texts(self.overrides) or None,
            "data_dir": self.data_dir and str(Path(expand_home(self.data_dir)).resolve()),
            "random_ops": self.random_ops,
        }
        given = {key: value for key, value in given.items() if value is not None}
        file = self.path / OPTIONS
        if self.resumes and file.is_file():
            return Options.parse(read_json(file), file).extended(given, file)
        return Options.parse(_DEFAULTS | given, given)

    def plan(self) -> tuple[Recipe, list[PlannedRun]]:
        """The budget and all runs; see `bnas_larq.run.comparison_plan.plan`."""
        share_gpu_memory()  # before the images are counted, with TensorFlow
        options = self.options
        located = {"data.data_dir": options.data_dir} if options.data_dir is not None else {}
        overrides = [*options.overrides, *override_texts(located)]
        return plan(
            self.methods,
            self.budget or BUDGET,
            options.seeds,
            options.random,
            overrides,
            options.random_ops,
        )

    def dry_run(self) -> str:
        """Check each method's first run against the data; returns the plan as text.

        Raises:
            BnasLarqError: a recipe is wrong, or `Method NAME` does not fit the data.
        """
        from bnas_larq.run.inputs import RunInputs
        from bnas_larq.run.searchers import check_inputs

        budget, runs = self.plan()
        first: dict[str, PlannedRun] = {}
        for run in runs:
            first.setdefault(run.method, run)
        data = None
        for method, run in first.items():
            inputs = RunInputs(RunFolder(run.name), run.recipe, data)
            try:
                check_inputs(inputs, ("search", "train"))
            except BnasLarqError as error:
                raise type(error)(f"Method {method}: {error}") from error
            data = inputs.data
        return plan_text(budget, runs)

    def check(self) -> None:
        """`dry_run` in a child process: the images and networks would stay in this one."""
        options, messages = self.options, []
        arguments = ["--budget", self.budget or BUDGET, "--random", options.random]
        arguments += ["--seeds", ",".join(map(str, options.seeds))]
        arguments += ["--data-dir", options.data_dir] if options.data_dir else []
        arguments += ["--random-ops", *options.random_ops] if options.random_ops else []
        arguments += [text for override in options.overrides for text in ("--set", override)]
        try:
            run_command(
                "compare", *self.methods, *arguments, "--dry-run", on_message=messages.append
            )
        except ProcessCrash:
            say("\n".join(messages))  # a bug, and its traceback
            raise
