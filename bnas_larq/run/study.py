"""A study: several networks of one recipe, each an ordinary run in a folder of its own."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from bnas_larq.console import say
from bnas_larq.data import ImageDataset, load_described
from bnas_larq.files import read_record
from bnas_larq.recipe import Recipe
from bnas_larq.run.creation import one_precision
from bnas_larq.run.inputs import RunInputs
from bnas_larq.run.recipe_run import Run
from bnas_larq.run.team import Team
from bnas_larq.run_records import Result


class Study:
    """The networks of a study, in `networks/<name>` of its folder; killed, it resumes as one run.

    Subclasses say what the networks are.

    Args:
        study: the run that holds the study's recipe.
    """

    def __init__(self, study: Run) -> None:
        self.study = study
        self.recipe = study.recipe
        self.folder = study.folder
        self._data: dict[int, ImageDataset] = {}

    @classmethod
    def create(cls, recipe: Recipe, out: str | Path | None = None, **settings: Any) -> Study:
        """A new study, or with `resume` the one in `out`.

        Args:
            recipe: has the study's section.
            out, settings: as for `Run.create`, which lists what is raised.
        """
        return cls(Run.create(recipe, out, stages=("train", "study"), check=cls.check, **settings))

    def close(self) -> None:
        """Let other processes work in the folder."""
        self.study.close()

    # -- of each kind of study ---------------------------------------------------------------------

    @staticmethod
    def check(inputs: RunInputs, team: Team) -> None:
        """Raise BnasLarqError unless every network fits the data and the team."""
        raise NotImplementedError

    def names(self) -> list[str]:
        """Names of all networks, in the order of training."""
        raise NotImplementedError

    def recipe_of(self, name: str) -> Recipe:
        """A network's recipe, which is the same each time."""
        raise NotImplementedError

    def write(self) -> tuple[str, Path]:
        """Write the results of the networks that are done; returns as `run` does."""
        raise NotImplementedError

    # -- running -----------------------------------------------------------------------------------

    def run(self) -> tuple[str, Path] | None:
        """Train and evaluate every network that is not done yet.

        Returns:
            The table, and the path of its JSON file; a CSV file and a picture lie beside it. None
            as another worker than the chief.
        """
        names, team, results = self.names(), self.study.team, None
        # Of all, before any is done: other workers have a copy of the folder as it was then.
        done = [name for name in names if self.result(name).get("finished")]
        for number, name in enumerate(names, 1):
            if name in done:
                say(f"network {number}/{len(names)}, {name}: already done")
                continue
            say(f"network {number}/{len(names)}, {name}")
            with self._open(name) as run:
                run.run()
            if team.is_chief:
                self.write()
        if team.is_chief:
            results = self.write()
        team.wait()
        return results

    def _open(self, name: str) -> Run:
        path, recipe = self.path(name), self.recipe_of(name)
        team = self.study.team.of_network(recipe)
        settings = {
            "data": self._loaded(recipe),
            "tensorboard": self.study.tensorboard,
            "callbacks": self.study.callbacks,
        }
        if (path / "recipe.yaml").is_file():
            run = Run.open(path, **settings)
        else:
            choose = partial(one_precision, recipe, self.folder.path)
            overrides = self.study.team.with_record(self.folder.path, choose)
            run = Run.create(recipe, path, overrides=overrides, **settings)
        # Only now: each process makes the network's folder in its own folder of the study.
        run.team = team
        return run

    def _loaded(self, recipe: Recipe) -> ImageDataset:
        """The data set, loaded once for all networks of a seed, which decides the split."""
        if recipe.seed == self.recipe.seed:
            return self.study.inputs.data
        if recipe.seed not in self._data:
            crops = self.recipe.crops_originals  # those of any network
            data = load_described(recipe.data, recipe.seed, keep_originals=crops)
            self._data[recipe.seed] = data
        return self._data[recipe.seed]

    def path(self, name: str) -> Path:
        """The folder of a network's run."""
        return self.folder / "networks" / name

    def result(self, name: str) -> dict[str, Any]:
        """A network's result.json, empty before it is written."""
        path = self.path(name) / "result.json"
        return read_record(path, Result) if path.exists() else {}
