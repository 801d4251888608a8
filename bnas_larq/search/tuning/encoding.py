"""Genotypes and training settings as keras-tuner's hyperparameters, and back.

One combination of values is one genotype and the other way round: the inputs of a node are one
choice among unordered pairs of different states, and an operation belongs to the first or second of
them in the order of the states. So nothing that an oracle draws is impossible, and equal genotypes
have equal values.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bnas_larq.errors import GenotypeError
from bnas_larq.genotype import Edge, Genotype
from bnas_larq.settings import TrainSettings
from bnas_larq.spaces import ZEROISE, SearchSpace

if TYPE_CHECKING:
    from keras_tuner import HyperParameters

Values = Mapping[str, Any]

KINDS = ("normal", "reduce")
_TRAIN = "train/"


class Encoding:
    """What a trial may vary.

    Names of the hyperparameters, for node n: `normal/node<n>/inputs` (choices such as `0+2`),
    `normal/node<n>/operation0` and, with two edges a node, `operation1`; the same with `reduce/`;
    and `train/<key>`. A place with only one choice has no hyperparameter.

    Args:
        space: the search space of the genotypes.
        hyperparameters: keys of the recipe's section `train` by what they may be, as in
            `TunerSettings.hyperparameters`: a list of choices, or `min`, `max` and `log`.
    """

    def __init__(
        self, space: SearchSpace, hyperparameters: Mapping[str, Any] | None = None
    ) -> None:
        self.space = space
        self.train = dict(hyperparameters or {})
        self.choices: dict[str, tuple[str, ...]] = {}
        for kind, node in itertools.product(KINDS, range(space.nodes)):
            states = itertools.combinations(range(2 + node), space.edges_per_node)
            self.choices[_inputs(kind, node)] = tuple("+".join(map(str, pair)) for pair in states)
            for place in range(space.edges_per_node):
                self.choices[_operation(kind, node, place)] = getattr(space, kind)

    def hyperparameters(self) -> HyperParameters:
        """All of them for keras-tuner, in a fixed order, with their first values."""
        import keras_tuner

        found = keras_tuner.HyperParameters()
        for name, choices in self.choices.items():
            if len(choices) > 1:
                found.Choice(name, list(choices))
        for key, allowed in self.train.items():
            name = _TRAIN + key
            if isinstance(allowed, Mapping):
                # Settings that are whole numbers stay so: the recipe gives their limits as such.
                whole = isinstance(allowed["min"], int) and isinstance(allowed["max"], int)
                draw = found.Int if whole else found.Float
                sampling = "log" if allowed.get("log") else "linear"
                draw(name, allowed["min"], allowed["max"], sampling=sampling)
            else:
                # As JSON: keras-tuner wants choices of one type, and knows no None.
                found.Choice(name, [json.dumps(choice) for choice in allowed])
        return found

    def genotype(self, values: Values) -> Genotype:
        """The genotype that hyperparameters stand for; all others among them are left out."""

        def value(name: str) -> str:
            return values[name] if len(self.choices[name]) > 1 else self.choices[name][0]

        def cell(kind: str) -> tuple[tuple[Edge, ...], ...]:
            return tuple(
                tuple(
                    Edge(value(_operation(kind, node, place)), int(state))
                    for place, state in enumerate(value(_inputs(kind, node)).split("+"))
                )
                for node in range(self.space.nodes)
            )

        return Genotype(cell("normal"), cell("reduce"))

    def overrides(self, values: Values) -> dict[str, Any]:
        """Keys of the section `train` with what they are in a trial."""
        found = {}
        for key, allowed in self.train.items():
            value = values[_TRAIN + key]
            found[key] = value if isinstance(allowed, Mapping) else json.loads(value)
        return TrainSettings.model_validate(found).model_dump(include=set(found))

    def values(
        self, genotype: Genotype, overrides: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """The inverse of `genotype` and `overrides`.

        Raises:
            GenotypeError: the genotype is not one of the space.
        """
        found: dict[str, Any] = {}
        for kind, cell in zip(KINDS, genotype.cells, strict=True):
            for node, edges in enumerate(cell):
                edges = sorted(edges, key=lambda edge: edge.state)
                found[_inputs(kind, node)] = "+".join(str(edge.state) for edge in edges)
                for place, edge in enumerate(edges):
                    found[_operation(kind, node, place)] = edge.op
        if found.keys() != self.choices.keys() or any(
            value not in self.choices[name] for name, value in found.items()
        ):
            raise GenotypeError(
                f"A genotype must be one of the search space {self.space.name!r}. "
                f"Received: {genotype.id}, which has other nodes, edges or operations."
            )
        found = {name: value for name, value in found.items() if len(self.choices[name]) > 1}
        for key, value in (overrides or {}).items():
            in_range = isinstance(self.train[key], Mapping)
            found[_TRAIN + key] = value if in_range else json.dumps(value)
        return found

    def sensible(self, values: Values) -> bool:
        """Whether both cells carry a signal; `Genotype.random` draws no others either."""
        cells = self.genotype(values).cells
        return all(any(edge.op != ZEROISE for node in cell for edge in node) for cell in cells)


def _inputs(kind: str, node: int) -> str:
    return f"{kind}/node{node}/inputs"


def _operation(kind: str, node: int, place: int) -> str:
    return f"{kind}/node{node}/operation{place}"
