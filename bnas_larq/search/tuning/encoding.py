"""Genotypes and training settings as keras-tuner's hyperparameters, and back.

The mapping is one-to-one: a node's inputs are one choice among unordered pairs of different states,
and its operations follow the order of the states. Every combination that an oracle draws is a valid
genotype, and equal genotypes have equal values.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from bnas_larq.errors import GenotypeError
from bnas_larq.genotype import Edge, Genotype
from bnas_larq.search.genotype_variation import carries_signal
from bnas_larq.spaces import KINDS, SearchSpace
from bnas_larq.train_settings import TrainSettings

if TYPE_CHECKING:
    from keras_tuner import HyperParameters

Values = Mapping[str, Any]

_TRAIN = "train/"


class Encoding:
    """The hyperparameters of a trial.

    For node n: `normal/node<n>/inputs` (choices such as `0+2`), `normal/node<n>/operation0` and,
    with two edges per node, `operation1`; the same with `reduce/`; and `train/<key>`. There is no
    hyperparameter where there is no choice.

    Args:
        space: the search space of the genotypes.
        hyperparameters: keys of the section `train`, with a list of choices, or `min`, `max` and
            `log`; see `TunerSettings.hyperparameters`.
        allowed: whether a genotype may be proposed; None if all may.
    """

    def __init__(
        self,
        space: SearchSpace,
        hyperparameters: Mapping[str, Any] | None = None,
        allowed: Callable[[Genotype], bool] | None = None,
    ) -> None:
        self.space = space
        self.allowed = allowed
        self.train = dict(hyperparameters or {})
        self.choices: dict[str, tuple[str, ...]] = {}
        for kind, node in itertools.product(KINDS, range(space.nodes)):
            states = itertools.combinations(range(2 + node), space.edges_per_node)
            self.choices[_inputs(kind, node)] = tuple("+".join(map(str, pair)) for pair in states)
            for number in range(space.edges_per_node):
                self.choices[_operation(kind, node, number)] = getattr(space, kind)

    def hyperparameters(self) -> HyperParameters:
        """All of them for keras-tuner, in a fixed order, with their first values."""
        import keras_tuner

        hyperparameters = keras_tuner.HyperParameters()
        for name, choices in self.choices.items():
            if len(choices) > 1:
                hyperparameters.Choice(name, list(choices))
        for key, allowed in self.train.items():
            name = _TRAIN + key
            if isinstance(allowed, Mapping):
                # Integer limits mean an integer setting.
                whole = isinstance(allowed["min"], int) and isinstance(allowed["max"], int)
                draw = hyperparameters.Int if whole else hyperparameters.Float
                sampling = "log" if allowed.get("log") else "linear"
                draw(name, allowed["min"], allowed["max"], sampling=sampling)
            else:
                # As JSON: keras-tuner wants choices of one type, and None is not allowed.
                hyperparameters.Choice(name, [json.dumps(choice) for choice in allowed])
        return hyperparameters

    def genotype(self, values: Values) -> Genotype:
        """The genotype of hyperparameters; values of other things are ignored."""

        def value(name: str) -> str:
            return values[name] if len(self.choices[name]) > 1 else self.choices[name][0]

        def cell(kind: str) -> tuple[tuple[Edge, ...], ...]:
            return tuple(
                tuple(
                    Edge(value(_operation(kind, node, number)), int(state))
                    for number, state in enumerate(value(_inputs(kind, node)).split("+"))
                )
                for node in range(self.space.nodes)
            )

        return Genotype(cell("normal"), cell("reduce"))

    def overrides(self, values: Values) -> dict[str, Any]:
        """The trial's values for keys of the section `train`."""
        overrides = {}
        for key, allowed in self.train.items():
            value = values[_TRAIN + key]
            overrides[key] = value if isinstance(allowed, Mapping) else json.loads(value)
        return TrainSettings.model_validate(overrides).model_dump(include=set(overrides))

    def values(
        self, genotype: Genotype, overrides: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """The inverse of `genotype` and `overrides`.

        Raises:
            GenotypeError: the genotype is not one of the space.
        """
        values: dict[str, Any] = {}
        for kind, cell in zip(KINDS, genotype.cells, strict=True):
            for node, edges in enumerate(cell):
                edges = sorted(edges, key=lambda edge: edge.state)
                values[_inputs(kind, node)] = "+".join(str(edge.state) for edge in edges)
                for number, edge in enumerate(edges):
                    values[_operation(kind, node, number)] = edge.op
        if values.keys() != self.choices.keys() or any(
            value not in self.choices[name] for name, value in values.items()
        ):
            raise GenotypeError(
                f"A genotype must be one of the search space {self.space.name!r}. "
                f"Received: {genotype.id}, which has other nodes, edges or operations."
            )
        values = {name: value for name, value in values.items() if len(self.choices[name]) > 1}
        for key, value in (overrides or {}).items():
            in_range = isinstance(self.train[key], Mapping)
            values[_TRAIN + key] = value if in_range else json.dumps(value)
        return values

    def sensible(self, values: Values) -> bool:
        """Whether both cells carry a signal, as those of `Genotype.random` do, and the genotype is
        allowed."""
        genotype = self.genotype(values)
        return carries_signal(genotype) and (self.allowed is None or self.allowed(genotype))


def _inputs(kind: str, node: int) -> str:
    return f"{kind}/node{node}/inputs"


def _operation(kind: str, node: int, number: int) -> str:
    return f"{kind}/node{node}/operation{number}"
