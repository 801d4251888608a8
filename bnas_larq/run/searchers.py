"""Which searcher a recipe asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from bnas_larq.errors import RecipeError
from bnas_larq.run.processes import own_command, run_processes
from bnas_larq.settings import SearchSettings

if TYPE_CHECKING:
    from bnas_larq.backend import tf
    from bnas_larq.data import Augmentation, ImageDataset, Normalization
    from bnas_larq.genotype import Genotype
    from bnas_larq.networks.network import NetworkConfig
    from bnas_larq.recipe import Recipe
    from bnas_larq.run_folder import RunFolder
    from bnas_larq.search import Searcher
    from bnas_larq.search.tuning import TrialResult, TunerSearch
    from bnas_larq.settings import TrainSettings


def in_supernet(settings: SearchSettings) -> bool:
    """Whether the search trains a supernet on both halves of the training part."""
    return settings.searcher != "tuner"


def make_searcher(workflow: RunParts, settings: SearchSettings) -> Searcher:
    """The searcher of a run.

    Args:
        settings: the recipe's section `search`, with the precision that `auto` took.
    """
    if settings.searcher == "tuner":
        return tuner_search(workflow)
    from bnas_larq.search import BanditSearch, GradientSearch

    kind = BanditSearch if settings.searcher == "bandit" else GradientSearch
    data = workflow.data
    return kind(
        settings,
        data.num_classes,
        data.image_shape,
        workflow.recipe.seed,
        network=workflow.network_config,
    )


def check_search(workflow: RunParts, steps_per_epoch: Callable[[], int]) -> None:
    """Find what would stop the search, before anything is written.

    Args:
        steps_per_epoch: gives the steps of a supernet's epoch, and raises for a batch that is too
            large. Not asked where there is no supernet.

    Raises:
        BnasLarqError: a name is unknown, sizes do not fit each other or the data, or the search
            needs data that are not there.
    """
    from bnas_larq.layers.quantizers import get_scheme
    from bnas_larq.spaces import SearchSpace

    settings = workflow.recipe.search
    space = SearchSpace.named(settings.space)
    get_scheme(settings.scheme)
    if not in_supernet(settings):
        NetworkTrial(workflow).check()
        return
    from bnas_larq.search.gradient_search import check_sizes, make_relaxation

    check_sizes(settings)
    make_relaxation(settings)
    network = workflow.network_config
    if settings.cost is not None:
        from bnas_larq.costs.expected_cost import ExpectedCost

        ExpectedCost.from_settings(
            settings.cost,
            space,
            network,
            gamma=settings.gamma,
            zeroise_competes=settings.zeroise_competes,
        )
    steps = steps_per_epoch()
    if settings.searcher == "bandit":
        from bnas_larq.search.bandit_search import check_steps, make_table

        check_steps(settings, make_table(settings, workflow.recipe.seed), steps)


def describe_search(settings: SearchSettings) -> str:
    """What a search is going to do, in one line for people."""
    if settings.searcher == "tuner":
        return f"{settings.tuner.trials} trials of {settings.tuner.oracle} search"
    return (
        f"{settings.epochs} epochs, {settings.cells} cells, {settings.channels} channels; "
        "the first step builds the graph and takes longest"
    )


class NetworkTrial:
    """Trains a genotype's network on the training part and measures it on the validation part.

    The network is that of the recipe's section `network`, the training that of `train` with what
    the trial changes. The learning rate is planned for `search.tuner.epochs`, also where Hyperband
    stops earlier: a trial that goes on ends with the weights of one that never stopped.

    Args:
        workflow: of the run; its data are loaded with the first trial.
    """

    def __init__(self, workflow: RunParts) -> None:
        self.workflow = workflow

    def __call__(
        self,
        genotype: Genotype,
        train_overrides: Mapping[str, Any],
        epochs: int,
        folder: Path,
        seed: int,
    ) -> TrialResult:
        """See `bnas_larq.search.tuning.records.TrialFunction`; also writes metrics.jsonl."""
        from bnas_larq.backend import keras
        from bnas_larq.data import training_pipeline
        from bnas_larq.determinism import make_deterministic
        from bnas_larq.networks.network import build_network
        from bnas_larq.search.tuning import TrialResult
        from bnas_larq.training import evaluate_network, train_network

        workflow, recipe = self.workflow, self.workflow.recipe
        data = workflow.data
        settings = self._settings({**train_overrides, "epochs": recipe.search.tuner.epochs})
        # Every trial starts from the seed: it does not matter which ones ran in this process.
        keras.backend.clear_session()
        make_deterministic(seed)
        model = build_network(genotype, workflow.network_config, drop_path=settings.drop_path > 0)
        pipeline = training_pipeline(
            data.train,
            batch_size=settings.batch_size,
            seed=seed,
            normalization=workflow.normalization,
            augmentation=workflow.augmentation,
        )
        train_network(
            model,
            settings,
            pipeline.dataset,
            pipeline.steps_per_epoch,
            validation_data=None,
            folder=folder,
            title=f"trial {folder.name}",
            until=epochs,
        )
        evaluation = evaluate_network(model, workflow.batches(data.validation))
        return TrialResult(evaluation.metrics()["accuracy"], self._cost(model))

    def prepare(self) -> None:
        """Decide what all processes of a search must do alike, before they begin."""
        self._settings({})

    def _settings(self, overrides: Mapping[str, Any]) -> TrainSettings:
        """The section `train` of a trial, with the precision that `auto` took once for all."""
        from bnas_larq.precision import recorded_precision

        settings = self.workflow.recipe.train.model_copy(update=overrides)
        choice = recorded_precision(self.workflow.folder / "search", settings.mixed_precision)
        return settings.model_copy(update={"mixed_precision": choice.name})

    def _cost(self, model: Any) -> float | None:
        from bnas_larq.costs.accounting import count_costs

        asked = self.workflow.recipe.search.tuner.cost
        if asked is None:
            return None
        costs = count_costs(model)
        return float(costs.ops_paper if asked == "ops" else costs.bytes)

    def check(self) -> None:
        """Find what would stop every trial, before anything is written.

        Raises:
            BnasLarqError: there is no validation part, or a batch or the network does not fit.
        """
        from bnas_larq.data import Normalization, training_pipeline

        workflow, recipe = self.workflow, self.workflow.recipe
        workflow.network_config  # noqa: B018 - raises for an unknown scheme
        if workflow.data.validation is None:
            raise RecipeError(
                "A search by keras-tuner measures its trials on the validation part. Received: "
                f"data.validation_fraction {recipe.data.validation_fraction:g}. Use 0.1."
            )
        training_pipeline(
            workflow.data.train,
            batch_size=_largest_batch(recipe.train, recipe.search.tuner.hyperparameters),
            seed=recipe.seed,
            normalization=Normalization(),
            augmentation=workflow.augmentation,
        )


def _largest_batch(train: TrainSettings, hyperparameters: Mapping[str, Any]) -> int:
    """The largest batch that a trial may have."""
    allowed = hyperparameters.get("batch_size", [train.batch_size])
    return allowed["max"] if isinstance(allowed, Mapping) else max(allowed)


def tuner_search(workflow: RunParts) -> TunerSearch:
    """The search of a recipe whose `search.searcher` is `tuner`."""
    from bnas_larq.search.tuning import TunerSearch
    from bnas_larq.spaces import SearchSpace

    recipe = workflow.recipe
    trial = NetworkTrial(workflow)
    entry = own_command("worker", "--with-parent", workflow.folder.path)

    def launch() -> None:
        run_processes(entry, recipe.search.tuner.workers)

    return TunerSearch(
        recipe.search.tuner,
        SearchSpace.named(recipe.search.space),
        trial,
        seed=recipe.seed,
        prepare=trial.prepare,
        launch=launch,
    )


class RunParts(Protocol):
    """See the attributes of `bnas_larq.run.recipe_run.Run`."""

    folder: RunFolder
    recipe: Recipe
    data: ImageDataset
    normalization: Normalization
    augmentation: Augmentation
    network_config: NetworkConfig

    def batches(self, examples: Any) -> tf.data.Dataset:
        """Examples once, in stored order, for evaluation."""
