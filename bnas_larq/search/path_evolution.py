"""Evolution over the paths of a trained supernet, within bounds of operations."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bnas_larq.errors import RecipeError
from bnas_larq.genotype import Genotype
from bnas_larq.search.genotype_variation import carries_signal, crossover, mutations
from bnas_larq.searcher_settings import OneShotSettings
from bnas_larq.spaces import SearchSpace

#: How often a proposal that does not do is drawn anew, each time in all ways there are.
TRIES = 100
#: Random genotypes that show whether the bounds can be met.
PROBES = 100


class PathEvolution:
    """The evolution of SPOS (Guo et al., arXiv 1904.00420, algorithm 1).

    The first generation is random. Of each later one, a half are crossovers of two different
    parents and a half are mutations of one; parents are the best of all genotypes measured in the
    generations before. No genotype is measured twice, and none outside of the bounds.

    A proposal depends on the seed, its number and the records of those before it alone, so that an
    interrupted evolution goes on from its records.

    Unlike in the paper, a crossover takes whole nodes, with both of their edges, and a mutation
    changes one edge: its operation or its input (arXiv 1802.01548).

    Args:
        settings: the recipe's section `search.one_shot`.
        space: of the genotypes.
        ops: operations of a genotype's final network, counted honestly.
        seed: of all draws.
    """

    def __init__(
        self,
        settings: OneShotSettings,
        space: SearchSpace,
        ops: Callable[[Genotype], float],
        seed: int,
    ) -> None:
        self.settings, self.space, self.ops, self.seed = settings, space, ops, seed

    def check(self) -> None:
        """Raise RecipeError if no random genotype is within the bounds."""
        settings = self.settings
        if settings.maximum_ops is None and settings.minimum_ops is None:
            return
        counted = [self.ops(Genotype.random(self.space, seed)) for seed in range(PROBES)]
        if not any(map(self._within, counted)):
            raise RecipeError(
                "Some cells must be within the bounds of a one-shot search. Received: "
                f"search.one_shot.minimum_ops {settings.minimum_ops}, maximum_ops "
                f"{settings.maximum_ops}; {PROBES} random cells in the size of the section network "
                f"have {min(counted):.3g} to {max(counted):.3g} OPs, counted honestly. "
                "Change the bounds, or the section network."
            )

    def propose(self, rows: Sequence[Mapping[str, Any]]) -> Genotype | None:
        """The next genotype to measure; None if no other one is found.

        Args:
            rows: of those before it, in order: `genotype` (its id), `accuracy`, `cost`, and the
                cells `normal` and `reduce`.
        """
        number, size = len(rows), self.settings.population
        generator = random.Random(f"one-shot {self.seed} {number}")
        ranked = sorted(
            rows[: number - number % size], key=lambda row: (-row["accuracy"], row["cost"])
        )
        parents = [
            Genotype(row["normal"], row["reduce"]) for row in ranked[: self.settings.parents]
        ]
        ways: list[Callable[[], Genotype]] = []
        if len(parents) > 1 and number % size < size // 2:
            ways.append(lambda: crossover(*generator.sample(parents, 2), generator))
        if parents:
            ways.append(lambda: self._mutated(generator.choice(parents), generator))
        ways.append(lambda: Genotype.random(self.space, generator.getrandbits(62)))
        known = {row["genotype"] for row in rows}
        for way in ways:
            for _ in range(TRIES):
                genotype = way()
                new = genotype.id not in known and carries_signal(genotype)
                if new and self._within(self.ops(genotype)):
                    return genotype
        return None

    def _mutated(self, genotype: Genotype, generator: random.Random) -> Genotype:
        kind = generator.choice([kind for kind in mutations(genotype, self.space) if kind])
        return generator.choice(kind)(genotype, generator)

    def _within(self, ops: float) -> bool:
        least, most = self.settings.minimum_ops, self.settings.maximum_ops
        return (least is None or least <= ops) and (most is None or ops <= most)
