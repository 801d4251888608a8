"""Which searcher a recipe asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from bnas_larq.cli.run_parts import RunParts
from bnas_larq.settings import SearchSettings

if TYPE_CHECKING:
    from bnas_larq.search import Searcher


def in_supernet(settings: SearchSettings) -> bool:
    """Whether the search trains a supernet on both halves of the training part."""
    return settings.searcher != "tuner"


def make_searcher(workflow: RunParts, settings: SearchSettings) -> Searcher:
    """The searcher of a run.

    Args:
        settings: the recipe's section `search`, with the precision that `auto` took.
    """
    if settings.searcher == "tuner":
        from bnas_larq.cli.tuner_trials import tuner_search

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
        from bnas_larq.cli.tuner_trials import NetworkTrial

        NetworkTrial(workflow).check()
        return
    from bnas_larq.search.gradient import check_sizes, make_relaxation

    check_sizes(settings)
    make_relaxation(settings)
    network = workflow.network_config
    if settings.cost is not None:
        from bnas_larq.models.expected_cost import ExpectedCost

        ExpectedCost.from_settings(
            settings.cost,
            space,
            network,
            gamma=settings.gamma,
            zeroise_competes=settings.zeroise_competes,
        )
    steps = steps_per_epoch()
    if settings.searcher == "bandit":
        from bnas_larq.search.bandit import check_steps, make_table

        check_steps(settings, make_table(settings, workflow.recipe.seed), steps)


def describe_search(settings: SearchSettings) -> str:
    """What a search is going to do, in one line for people."""
    if settings.searcher == "tuner":
        return f"{settings.tuner.trials} trials of {settings.tuner.oracle} search"
    return (
        f"{settings.epochs} epochs, {settings.cells} cells, {settings.channels} channels; "
        "the first step builds the graph and takes longest"
    )
