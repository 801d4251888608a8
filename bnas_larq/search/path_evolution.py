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

#: How often a child that does not do is made anew.
TRIES = 100
#: How often a random genotype, or then a mutant of any measured one, is. Counting the operations of
#: one takes some 2.5 ms, so that bounds that nothing meets are known after a minute.
DRAWS = 20_000
#: Random genotypes whose operations a message tells.
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
        """Raise RecipeError if the first generation is not found within the bounds."""
        settings = self.settings
        if not settings.bounded:
            return
        rows: list[dict[str, Any]] = []
        while len(rows) < settings.population:
            genotype = self.propose(rows)
            if genotype is None:
                drawn = (Genotype.random(self.space, seed) for seed in range(PROBES))
                counted = sorted(map(self.ops, drawn))
                raise RecipeError(
                    "A whole generation of a one-shot search must be within its bounds. Received: "
                    f"search.one_shot.minimum_ops {settings.minimum_ops}, maximum_ops "
                    f"{settings.maximum_ops}, which {len(rows)} different cells of "
                    f"{settings.population} were found for; {PROBES} random cells in the size of "
                    f"the section network have {counted[0]:.3g} to {counted[-1]:.3g} OPs, counted "
                    "honestly. Change the bounds, the section network, or "
                    "search.one_shot.population."
                )
            cells = {"normal": genotype.normal, "reduce": genotype.reduce}
            rows.append({"genotype": genotype.id, **cells})

    def propose(self, rows: Sequence[Mapping[str, Any]]) -> Genotype | None:
        """The next genotype to measure; None if no other one is found.

        A generation's children that fail are replaced by random genotypes, and these, where bounds
        are tight, by mutants of all measured ones.

        Args:
            rows: of those before it, in order: `genotype` (its id), `accuracy`, `cost`, and the
                cells `normal` and `reduce`.
        """
        number, size = len(rows), self.settings.population
        generator = random.Random(f"one-shot {self.seed} {number}")
        ranked = sorted(
            rows[: number - number % size], key=lambda row: (-row["accuracy"], row["cost"])
        )
        parents = list(map(genotype_of, ranked[: self.settings.parents]))
        ways: list[tuple[int, Callable[[], Genotype]]] = []
        if len(parents) > 1 and number % size < size // 2:
            ways.append((TRIES, lambda: crossover(*generator.sample(parents, 2), generator)))
        if parents:
            ways.append((TRIES, lambda: self._mutated(generator.choice(parents), generator)))
        ways.append((DRAWS, lambda: Genotype.random(self.space, generator.getrandbits(62))))
        if rows:
            ways.append(
                (DRAWS, lambda: self._mutated(genotype_of(generator.choice(rows)), generator))
            )
        known = {row["genotype"] for row in rows}
        for tries, way in ways:
            for _ in range(tries):
                genotype = way()
                new = genotype.id not in known and carries_signal(genotype)
                if new and self.settings.allow(self.ops(genotype)):
                    return genotype
        return None

    def _mutated(self, genotype: Genotype, generator: random.Random) -> Genotype:
        kind = generator.choice([kind for kind in mutations(genotype, self.space) if kind])
        return generator.choice(kind)(genotype, generator)


def genotype_of(row: Mapping[str, Any]) -> Genotype:
    """The genotype of a measured path's row."""
    return Genotype(row["normal"], row["reduce"])
