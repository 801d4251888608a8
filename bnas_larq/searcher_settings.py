"""The parts of a recipe's section `search` that one searcher reads alone."""

from __future__ import annotations

from typing import Annotated

import pydantic

from bnas_larq.setting_types import Cells, Count, Large, Natural, Section


class BanditSettings(Section):
    """Sampling and reduction of BNAS-UCB (arXiv 2009.04247), for `searcher: bandit`.

    The last `finish_epochs` of `search.epochs` train α of the surviving candidates by gradient; the
    draws share the epochs before them equally.

    Attributes:
        rounds: T, how often each of an edge's K candidates is drawn before one is abandoned.
        exploration: δ of the upper confidence bound m + δ·sqrt(2·ln N / n). It changes no search:
            draws without replacement leave equal counts n on an edge when one is abandoned, so that
            δ moves all its bounds alike.
        floor: candidates that each edge keeps for the finish; 1 only where Zeroise may be chosen.
        finish_epochs: epochs of the gradient search over them.
        credit_examples: images of the α half, always the same, that a draw is evaluated on; None
            for all.
    """

    rounds: Annotated[int, pydantic.Field(gt=0, le=1000)] = 3
    exploration: float = pydantic.Field(1.0, ge=0)
    floor: Count = 2
    finish_epochs: Natural = 10
    credit_examples: Large | None = None


class ProgressiveSettings(Section):
    """Stages of P-DARTS (arXiv 1904.12760) and BATS (arXiv 2003.01711, §4.3), for `searcher:
    progressive`: each a gradient search in a new supernet, of which the later ones are deeper and
    have fewer candidates.

    The stages share `search.epochs` equally, and `search.alpha_start_epoch` counts in each.

    Attributes:
        cells: of each stage's supernet.
        kept: how many candidates each edge keeps, those with the largest α, behind each stage but
            the last.
    """

    cells: tuple[Cells, ...] = (5, 11, 17)
    kept: tuple[Annotated[int, pydantic.Field(ge=2, le=1000)], ...] = (5, 3)

    @pydantic.model_validator(mode="after")
    def _stages(self) -> ProgressiveSettings:
        if len(self.cells) != len(self.kept) + 1:
            raise ValueError(
                "kept has a number for each of cells but the last; "
                f"cells is {list(self.cells)}, kept {list(self.kept)}"
            )
        if list(self.kept) != sorted(set(self.kept), reverse=True):
            raise ValueError(f"kept falls from stage to stage; it is {list(self.kept)}")
        return self


class OperationBounds(Section):
    """Bounds of the operations of the networks that a search may propose.

    Attributes:
        maximum_ops, minimum_ops: of the final network (size of the section `network`), with
            full-precision shortcuts counted as such; None for none.
    """

    maximum_ops: float | None = pydantic.Field(None, gt=0)
    minimum_ops: float | None = pydantic.Field(None, gt=0)

    @pydantic.model_validator(mode="after")
    def _least_below_most(self) -> OperationBounds:
        if None not in (self.minimum_ops, self.maximum_ops) and self.minimum_ops > self.maximum_ops:
            raise ValueError(
                f"minimum_ops is at most maximum_ops; they are {self.minimum_ops:g} and "
                f"{self.maximum_ops:g}"
            )
        return self

    @property
    def bounded(self) -> bool:
        """Whether there is a bound."""
        return self.minimum_ops is not None or self.maximum_ops is not None

    def allow(self, ops: float) -> bool:
        """Whether a network with these operations is within the bounds.

        Example:
            >>> bounds = OperationBounds(maximum_ops=2e6)
            >>> bounds.allow(1.9e6), bounds.allow(2.1e6)
            (True, False)
        """
        least, most = self.minimum_ops, self.maximum_ops
        return (least is None or least <= ops) and (most is None or ops <= most)


class OneShotSettings(OperationBounds):
    """Evolution over the paths of a supernet (SPOS, arXiv 1904.00420), for `searcher: one-shot`.

    All of `search.epochs` train the supernet on uniformly drawn paths. Then the path of each
    genotype is measured on images of the validation part.

    Attributes:
        population: genotypes of a generation. The first one is random; then a half are crossovers,
            a half mutations.
        generations: number of them.
        parents: the best genotypes so far, which the next generation comes from.
        examples: images of the validation part, always the same, that a path is measured on; None
            for all.
        maximum_ops, minimum_ops: see `OperationBounds`.
    """

    population: int = pydantic.Field(50, gt=1, le=10**5)
    generations: Annotated[int, pydantic.Field(gt=0, le=10**5)] = 20
    parents: int = pydantic.Field(10, gt=1, le=10**5)
    examples: Large | None = None

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> OneShotSettings:
        if self.parents > self.population:
            raise ValueError(
                f"parents come from the population; parents is {self.parents}, population "
                f"{self.population}"
            )
        return self
