"""Trials of a search by keras-tuner, their records in its folder, and their Pareto front."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bnas_larq.files import write_atomic, write_json
from bnas_larq.genotype import Genotype
from bnas_larq.search.tuning.encoding import Encoding, Values
from bnas_larq.spaces import KINDS

#: Files in the folder of the search.
TRIALS, FRONT = "trials.jsonl", "pareto.json"


@dataclasses.dataclass(frozen=True)
class TrialResult:
    """The result of a trial.

    Attributes:
        accuracy: on the validation part, 0 to 1.
        cost: of the network for one image, or None if the search has no cost.
    """

    accuracy: float
    cost: float | None = None


#: Trains a network to the end of an epoch and measures it. Arguments: the genotype; the trial's
#: values for keys of the section `train`; the number of epochs; a folder for this genotype with
#: these settings, from whose `checkpoints/` a killed or shorter trial continues (they are removed
#: when no trial needs them any more); the seed, the same for all trials. TrainingStopped if the
#: network cannot be trained: the search continues without it.
TrialFunction = Callable[[Genotype, Mapping[str, Any], int, Path, int], TrialResult]


@dataclasses.dataclass(frozen=True)
class Trial:
    """A trial, decoded from its hyperparameters.

    Attributes:
        number: keras-tuner's id.
        genotype: of the network.
        overrides: values for keys of the section `train`.
        epochs: including those of the trial that it continues.
        continues: the earlier trial of the same network that it continues, or None.
        folder: the same for equal genotypes with equal settings.
    """

    number: str
    genotype: Genotype
    overrides: dict[str, Any]
    epochs: int
    continues: str | None
    folder: Path

    @classmethod
    def of(
        cls, number: str, values: Values, encoding: Encoding, epochs: int, search: Path
    ) -> Trial:
        """The trial with these hyperparameters; Hyperband's number of epochs replaces `epochs`."""
        genotype, overrides = encoding.genotype(values), encoding.overrides(values)
        name = genotype.id
        if overrides:
            text = json.dumps(overrides, sort_keys=True)
            name += "-" + hashlib.sha256(text.encode()).hexdigest()[:8]
        epochs, continues = int(values.get("tuner/epochs", epochs)), values.get("tuner/trial_id")
        return cls(number, genotype, overrides, epochs, continues, search / "trials" / name)

    @property
    def outcome(self) -> Path:
        """The file of its result, which a repeated trial reads."""
        return self.folder / f"outcome-{self.epochs:05d}.json"

    def row(self, outcome: Mapping[str, Any]) -> dict[str, Any]:
        """Its line in trials.jsonl."""
        return {
            "trial": self.number,
            "genotype": self.genotype.id,
            "accuracy": outcome.get("accuracy"),
            "cost": outcome.get("cost"),
            "epochs": self.epochs,
            "seconds": outcome.get("seconds"),
            "hyperparameters": self.overrides,
            "continues": self.continues,
            "failed": outcome.get("failed"),
            **cell_lists(self.genotype),
        }


def cell_lists(genotype: Genotype) -> dict[str, list[list[list]]]:
    """Both cells for a line of trials.jsonl."""
    cells = zip(KINDS, genotype.cells, strict=True)
    return {kind: [[list(edge) for edge in node] for node in cell] for kind, cell in cells}


def write_records(folder: Path, rows: Sequence[Mapping[str, Any]], cost: str | None) -> None:
    """Write trials.jsonl and, with a cost (its name, such as `ops`), pareto.json."""
    write_atomic(folder / TRIALS, "".join(json.dumps(row) + "\n" for row in rows))
    if cost is not None:
        write_front(folder, rows, cost)


def write_front(folder: Path, rows: Sequence[Mapping[str, Any]], cost: str) -> None:
    """Write pareto.json of the rows of trials.jsonl."""
    measured = [row for row in rows if row["accuracy"] is not None and row["cost"] is not None]
    front = pareto_front([(row["accuracy"], row["cost"]) for row in measured])
    keys = ("trial", "genotype", "accuracy", "cost", "epochs", "hyperparameters", *KINDS)
    members = [{key: measured[i][key] for key in keys if key in measured[i]} for i in front]
    write_json(folder / FRONT, {"cost": cost, "trials": len(measured), "front": members})


def best_row(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The most accurate trial; of equal ones the cheapest, then the first. None without trials."""
    measured = [row for row in rows if row["accuracy"] is not None]
    return max(measured, key=lambda row: (row["accuracy"], -(row["cost"] or 0.0)), default=None)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the (accuracy, cost) points that no other point dominates, cheapest first.

    A point dominates another if it is at least as accurate and at most as costly, and better in one
    of the two.
    """
    order = sorted(range(len(points)), key=lambda index: (points[index][1], -points[index][0]))
    front: list[int] = []
    for index in order:
        accuracy, cost = points[index]
        # Only the last point can dominate: it is the most accurate of the cheaper ones.
        best = points[front[-1]] if front else None
        if best is None or accuracy > best[0] or (accuracy, cost) == best:
            front.append(index)
    return front
