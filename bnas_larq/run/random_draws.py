"""Which random genotypes a comparison trains beside those that are searched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bnas_larq.errors import RecipeError
from bnas_larq.genotype import Genotype
from bnas_larq.recipe import Recipe
from bnas_larq.run_folder import RunFolder
from bnas_larq.spaces import ZEROISE, SearchSpace

if TYPE_CHECKING:
    from bnas_larq.data import ImageDataset

#: Draws that are tried to find some within bounds of operations.
_TRIED = 2000


def random_seeds(
    space: str,
    count: int,
    random_ops: tuple[float, float] | None,
    budget: Recipe,
    data: ImageDataset,
) -> list[int]:
    """Seeds of random genotypes of a space, the first ones within the bounds.

    Args:
        random_ops: least and most operations, counted honestly, of the networks that the `budget`
            makes of them for the `data`; None for any.

    Raises:
        RecipeError: there are fewer than `count`.
    """
    if random_ops is None:
        return list(range(count))
    from bnas_larq.costs.genotype_ops import ops_counter
    from bnas_larq.run.inputs import RunInputs

    ops = ops_counter(RunInputs(RunFolder(budget.name), budget, data).network_config)
    least, most = random_ops
    found, counted = [], []
    for seed in range(_TRIED):
        genotype = Genotype.random(SearchSpace.named(space), seed)
        counted.append(ops(genotype))
        if least <= counted[-1] <= most:
            found.append(seed)
            if len(found) == count:
                return found
    raise RecipeError(
        f"Random genotypes are looked for among {_TRIED:,} draws of a space. Received: "
        f"{least:.3g} to {most:.3g} OPs, which {len(found)} of {space} have, not {count}; "
        f"the draws have {min(counted):.3g} to {max(counted):.3g}. Change --random-ops."
    )


def drawn_space(recipe: Recipe) -> str:
    """The space that a method's random genotypes come from: without Zeroise if the method may not
    choose it."""
    space, zeroise = recipe.search.space, f"-{ZEROISE}"
    operations = SearchSpace.named(space).normal
    excluded = not recipe.search.zeroise_competes and ZEROISE in operations
    return space + zeroise if excluded else space
