"""`Run`: one recipe carried out in one folder, from images to a checked .tflite and a report."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from bnas_larq.backend import keras
from bnas_larq.console import say
from bnas_larq.costs.accounting import count_costs
from bnas_larq.data import ImageDataset
from bnas_larq.errors import RunError
from bnas_larq.files import write_json
from bnas_larq.genotype import Genotype
from bnas_larq.networks.network import build_network
from bnas_larq.networks.network_files import StoredNetwork
from bnas_larq.recipe import Recipe
from bnas_larq.report.html_report import write_report
from bnas_larq.run.creation import (
    check_new,
    check_request,
    check_same_recipe,
    environment,
    needs_search,
    pin_source,
    resolve_recipe,
)
from bnas_larq.run.export_stage import check_exported, export_trained
from bnas_larq.run.inputs import RunInputs, inputs_to_run
from bnas_larq.run.searchers import (
    check_inputs,
    describe_search,
    describe_training,
    in_supernet,
    make_searcher,
    provenance,
)
from bnas_larq.run.stages import Stages, collect_result
from bnas_larq.run.team import Team
from bnas_larq.run_folder import RunFolder, recipe_of
from bnas_larq.strategies import Strategy
from bnas_larq.training import evaluate_network, train_stored


class Run:
    """One run of a recipe: search, train, evaluate, export and report, each step resumable.

    Make one with `Run.create` or `Run.open`. It locks its folder until `close`, or the end of a
    `with` block; a second process is refused meanwhile.

    Args:
        inputs: the run's folder, recipe and data.
        tensorboard: also write TensorBoard logs to `tensorboard/`.
        callbacks: further Keras callbacks of search and training.
        team: the processes of its strategy; None for one device.

    Example:
        >>> import tempfile
        >>> from bnas_larq import Run
        >>> folder = tempfile.TemporaryDirectory()
        >>> with Run.create("quickstart", f"{folder.name}/run", overrides={"seed": 3}) as run:
        ...     run.recipe.seed, run.result["finished"]
        (3, False)
        >>> folder.cleanup()

        `run.run()` then does everything; `run.search()`, `run.train()`, … single steps.
        `run.genotype`, `run.network()` and `run.result` are what came out.
    """

    def __init__(
        self,
        inputs: RunInputs,
        *,
        tensorboard: bool = False,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        team: Team | None = None,
    ) -> None:
        self.team = team or Team()
        self.inputs = inputs
        self.folder = inputs.folder
        self.recipe = inputs.recipe
        self.stages = Stages(inputs.folder, inputs.recipe.seed)
        self.tensorboard = tensorboard
        self.callbacks = tuple(callbacks)

    # -- creating and opening ----------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        recipe: str | Path | Recipe,
        out: str | Path | None = None,
        *,
        overrides: Mapping[str, Any] | Iterable[str] = (),
        stages: Collection[str] = ("search", "train"),
        check: Callable[[RunInputs, Team], None] | None = None,
        resume: bool = False,
        overwrite: bool = False,
        data: ImageDataset | None = None,
        strategy: str | Strategy | None = None,
        **settings: Any,
    ) -> Run:
        """A new run, or with `resume` the one in `out`; written only once everything is checked.

        Args:
            recipe: a shipped name (`bnas-larq recipes list`), a YAML file, or a recipe.
            out: the run's folder. Default: `runs/` and the recipe's name.
            overrides: keys of the recipe, `{"train.epochs": 5}` or `["train.epochs=5"]`.
            stages: what will be done, of `search` and `train` (`study`: the networks of a study).
            check: of a study: raises BnasLarqError unless all of its networks fit the data and the
                team.
            resume: continue the run in `out`, which must have the same recipe.
            overwrite: replace an earlier run in `out`.
            data: the recipe's data set, if it is loaded already.
            strategy: of search and training, by `tf.distribute` or a name, see `make_strategy`.
                Several workers make the same calls; all but the chief work in a copy of `out`.
            settings: `tensorboard`, `callbacks`: see the class.

        Raises:
            RunError: the folder exists (without `resume` or `overwrite`), belongs to another
                recipe, or another process works in it.
            BnasLarqError: the recipe names what does not exist, or does not fit the data.
        """
        recipe = resolve_recipe(recipe, overrides)
        path = Path(out) if out is not None else Path("runs") / recipe.name
        resumed = resume and (path / "recipe.yaml").is_file()
        check_request(recipe, path, stages, resume=resume, overwrite=overwrite)
        team = settings["team"] = Team.of(strategy, recipe, stages)
        recipe = pin_source(recipe, path, resumed)
        if resumed or not team.is_chief:
            run = cls._resumed(recipe, team.home(path), data, settings)
            team.share()
            return run
        check_new(recipe, path, overwrite=overwrite)
        if resume:
            say(f"nothing to resume in {path}: a new run begins")
        inputs = inputs_to_run(RunFolder(path), recipe, data)
        (check or (lambda inputs, _: check_inputs(inputs, stages)))(inputs, team)
        inputs.folder = RunFolder.create(path, recipe.to_yaml(), overwrite=overwrite)
        write_json(inputs.folder / "environment.json", environment(recipe.seed))
        team.share()
        return cls(inputs, **settings)

    @classmethod
    def _resumed(
        cls, recipe: Recipe, path: Path, data: ImageDataset | None, settings: Mapping[str, Any]
    ) -> Run:
        run = cls.open(path, data=data, **settings)
        # These change no weight: a search that an alarm stopped may continue with others.
        free = {"search": ("alarms", "checkpoint_minutes"), "train": ("checkpoint_minutes",)}
        begun = run.recipe.model_copy(
            update={
                section: getattr(run.recipe, section).model_copy(
                    update={key: getattr(getattr(recipe, section), key) for key in keys}
                )
                for section, keys in free.items()
            }
        )
        try:
            check_same_recipe(recipe, begun, path)
        except RunError:
            run.close()
            raise
        run.recipe = run.inputs.recipe = begun
        if not (run.folder / "environment.json").is_file():  # killed before it was written
            write_json(run.folder / "environment.json", environment(begun.seed))
        return run

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        lock: bool = True,
        data: ImageDataset | None = None,
        **settings: Any,
    ) -> Run:
        """An existing run, with the recipe it began with.

        Args:
            lock: refuse if another process works in the folder, and keep others out.
            data, settings: as of `create`.

        Raises:
            RunError: no run's folder, its recipe cannot be read, or another process is at work.
        """
        opened = RunFolder.open(folder, lock=lock)
        return cls(inputs_to_run(opened, recipe_of(opened), data), **settings)

    def close(self) -> None:
        """Let other processes work in the folder."""
        self.folder.unlock()
        self.team.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- results -----------------------------------------------------------------------------------

    @property
    def genotype(self) -> Genotype | None:
        """The run's genotype, once it is found or given; None for a network without cells."""
        return Genotype.load(self.folder / "genotype.json") if self.recipe.has_genotype else None

    def network(self) -> keras.Model:
        """The trained network."""
        return StoredNetwork.load(self.folder.path).load_model()

    @cached_property
    def cost(self) -> dict[str, Any]:
        """What the trained network costs, in all conventions, without the list of layers."""
        stored = StoredNetwork.load(self.folder.path)
        costs = count_costs(build_network(stored.genotype, stored.config)).to_dict()
        return {key: value for key, value in costs.items() if key != "layers"}

    @property
    def result(self) -> dict[str, Any]:
        """Accuracies, cost, time and files so far: what `report` writes to result.json."""
        trained = self.stages.is_done("train")
        return collect_result(self.stages, self.recipe, self.cost if trained else None)

    # -- stages ------------------------------------------------------------------------------------

    def run(self) -> Path:
        """All stages that are not done yet, then the report; returns the path of result.json."""
        self.search()
        self.train()
        self.evaluate()
        if self.recipe.export.enabled and self.team.is_chief:
            self.export()
        self.report()
        return self.folder / "result.json"

    def search(self) -> None:
        """Search a genotype, or take the one that the recipe or its source names, if it has one."""
        self.stages.do("search", self._search)

    def _search(self) -> dict[str, Any]:
        recipe, inputs = self.recipe, self.inputs
        if not recipe.has_genotype:
            return {"searched": False}
        if not needs_search(recipe):
            genotype = inputs.given_genotype
            genotype.save(self.folder / "genotype.json")
            say(genotype.pretty())
            return {"searched": False, "genotype": genotype.id}
        settings, search_data = recipe.search, None
        if in_supernet(settings):  # keras-tuner's trials are final networks on the whole part
            settings = self.team.with_precision(inputs, "search", settings)
            search_data = inputs.search_data()
        searcher = make_searcher(inputs, settings, self.team.strategy)
        say(f"search: {inputs.data.name}, {describe_search(settings)}")
        workers = 1 if in_supernet(settings) else settings.tuner.workers
        earlier = self.stages.recorded_seconds("search", workers)
        with self.team.working():
            result = searcher.run(
                search_data,
                folder=self.folder / "search",
                provenance=provenance(inputs),
                callbacks=self._callbacks("search"),
            )
        result.genotype.save(self.folder / "genotype.json")
        say(result.genotype.pretty())
        return {
            "searched": True,
            "genotype": result.genotype.id,
            "epoch": result.epoch,
            "supernet_validation_accuracy": result.validation_accuracy,
            "earlier_seconds": earlier,
        }

    def train(self) -> None:
        """Train the network."""
        if not needs_search(self.recipe) and not self.stages.is_done("search"):
            self.search()
        if self.recipe.has_genotype and not (self.folder / "genotype.json").is_file():
            raise RunError(
                "Training needs a genotype. "
                f"Received: {self.folder.path}, whose search is not done. Search first."
            )
        self.stages.do("train", self._train)

    def _train(self) -> dict[str, Any]:
        inputs, data = self.inputs, self.inputs.data
        recipe = inputs.training_recipe()
        described = inputs.described_network(self.genotype)
        described.save()
        say(f"train: {describe_training(recipe, data)}, {described.body}")
        for stage in {stage.mixed_precision: stage for stage in recipe.plan}.values():
            self.team.with_precision(inputs, "train", stage)
        seconds = self.stages.recorded_seconds("train")
        loaders = inputs.load_start, inputs.load_teacher
        with self.team.working(scope=True):
            accuracy = train_stored(described, recipe, data, self._callbacks("train"), *loaders)
        return {"validation_accuracy": accuracy, "earlier_seconds": seconds}

    def evaluate(self) -> None:
        """Evaluate on the test split, once; as all that follows, the chief does it alone."""
        if self.team.is_chief:
            self.stages.do("evaluate", self._evaluate)

    def _evaluate(self) -> dict[str, Any]:
        data = self.inputs.data
        evaluation = evaluate_network(self.network(), self.inputs.batches(data.test))
        folder, names = self.folder, data.class_names
        evaluation.write_predictions(folder / "predictions.csv", names, data.test_files)
        evaluation.write_confusion(folder / "confusion.csv", names)
        metrics = evaluation.metrics()
        say(f"evaluate: test accuracy {metrics['accuracy']:.4f} on {metrics['examples']} images")
        return {"test": metrics}

    def export(self, again: bool = False, float_storage: str | None = None) -> None:
        """Write model.tflite and compare it with Keras on test images.

        Args:
            again: also if that is done.
            float_storage: type of full-precision kernels; None: the recipe's, or what was exported.

        Raises:
            ExportError: the file is there with kernels of another type than `float_storage`, and it
                is not to be written again.
        """
        if float_storage and not again and self.stages.is_done("export"):
            check_exported(self.folder, float_storage)
        storage = float_storage or self.recipe.export.float_storage
        self.stages.do("export", partial(self._export, storage), again)

    def _export(self, float_storage: str) -> None:
        count = self.recipe.export.parity_images
        export_trained(self.folder, self.network(), self.inputs, count, float_storage)

    def report(self) -> None:
        """Draw what there is to draw, and write result.json and report.html; all workers end
        here together."""
        if self.team.is_chief:
            write_json(self.folder / "result.json", self.result)
            write_report(self.folder.path)
            write_json(self.folder / "result.json", self.result)  # with the names of all files
        self.team.wait()

    def _callbacks(self, stage: str) -> tuple[keras.callbacks.Callback, ...]:
        if not self.tensorboard:
            return self.callbacks
        logs = str(self.folder / "tensorboard" / stage)
        return (*self.callbacks, keras.callbacks.TensorBoard(logs, profile_batch=0))
