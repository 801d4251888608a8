"""Which searcher a recipe asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bnas_larq.cli.run_parts import RunParts
from bnas_larq.settings import SearchSettings

if TYPE_CHECKING:
    from bnas_larq.search import Searcher


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


def check_search(workflow: RunParts) -> None:
    """Find what would stop the search, before anything is written.

    Raises:
        BnasLarqError: a name is unknown, or the search needs data that are not there.
    """
    from bnas_larq.layers.quantizers import get_scheme
    from bnas_larq.spaces import SearchSpace

    settings = workflow.recipe.search
    SearchSpace.named(settings.space)
    get_scheme(settings.scheme)
    if settings.searcher == "tuner":
        from bnas_larq.cli.tuner_trials import NetworkTrial

        NetworkTrial(workflow).check()
    elif settings.cost is not None:
        from bnas_larq.models.expected_cost import ExpectedCost

        ExpectedCost.from_settings(
            settings.cost,
            SearchSpace.named(settings.space),
            workflow.network_config,
            gamma=settings.gamma,
            zeroise_competes=settings.zeroise_competes,
        )


def describe_search(settings: SearchSettings) -> str:
    """What a search is going to do, in one line for people."""
    if settings.searcher == "tuner":
        return f"{settings.tuner.trials} trials of {settings.tuner.oracle} search"
    return (
        f"{settings.epochs} epochs, {settings.cells} cells, {settings.channels} channels; "
        "the first step builds the graph and takes longest"
    )
