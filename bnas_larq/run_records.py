"""What a run, a comparison and a search by keras-tuner write down, as it is read again.

One model for each kind of file, for `bnas_larq.files.read_record` and `read_rows`. Keys that are
not named here are kept unchecked; those of a metrics row are all numbers.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import pydantic
from pydantic import FiniteFloat

from bnas_larq.setting_types import PlainName
from bnas_larq.spaces import MAX_NODES, edges_of_cell


class _Record(pydantic.BaseModel):
    #: For messages: completes "… must hold", and the way out.
    holds: ClassVar[str]
    remedy: ClassVar[str] = "Restore the file, or start a new run."
    model_config = pydantic.ConfigDict(strict=True, extra="allow")


_Count = Annotated[int, pydantic.Field(ge=0, le=10**12)]
_Seconds = Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)]
#: A measurement, or null where there was nothing to measure.
_Measured = FiniteFloat | None


class _Metrics(_Record):
    """Of the test part."""

    accuracy: float
    examples: _Count | None = None
    __pydantic_extra__: dict[str, float]


# -- stages and results ----------------------------------------------------------------------------


class _Stage(_Record):
    done: bool = False
    seconds: _Seconds = 0.0
    genotype: str | None = None
    validation_accuracy: float | None = None
    supernet_validation_accuracy: float | None = None


class _Evaluation(_Stage):
    # Its values are compared with those of the weights when a run is published.
    test: dict[str, Any]


class State(_Record):
    """state.json: the facts of each stage. An evaluation has metrics; null is a lost stage."""

    holds: ClassVar[str] = "an object for each stage"
    remedy: ClassVar[str] = "Delete it to check all stages again."
    evaluate: _Evaluation | None = None
    __pydantic_extra__: dict[str, _Stage | None]


class _Cost(_Record):
    ops_honest: _Measured = None
    ops_paper: _Measured = None
    bytes: _Measured = None
    bytes_by_kind: dict[str, dict[str, _Count]] = {}
    peak_activation_bytes: _Measured = None


class Result(_Record):
    """result.json."""

    holds: ClassVar[str] = "a run's results"
    finished: bool = False
    genotype: str | None = None
    test_accuracy: _Measured = None
    test: _Metrics | None = None
    validation_accuracy: _Measured = None
    supernet_validation_accuracy: _Measured = None
    seconds: dict[str, _Seconds | None] = {}
    wall_seconds: _Seconds = 0.0
    cost: _Cost | None = None


class _Parity(_Record):
    images: _Count
    equal_predictions: FiniteFloat
    max_abs_difference: FiniteFloat
    accuracy: _Measured = None
    keras_accuracy: _Measured = None


class _Convolution(_Record):
    name: str | None = None
    kind: str | None = None
    binary: bool = False
    kernel: list[int] | None = None
    stored: str | None = None
    bytes: _Count | None = None


class Convolutions(_Record):
    """export.json as far as the HTML report needs it."""

    holds: ClassVar[str] = "the whole report"
    remedy: ClassVar[str] = "Delete it to export again."
    convolutions: list[_Convolution] = []
    not_binary_because: dict[str, str] = {}


class Export(Convolutions):
    """export.json, the report of `bnas_larq.export.exporter.export_network`."""

    file: str
    bytes: _Count
    sha256: str
    binary_convolutions: _Count
    float_convolutions: _Count
    parity: _Parity
    parity_images: str = ""
    float_storage: str = "float32"
    memory: dict[str, _Count] = {}


class _Verified(_Record):
    accuracy: FiniteFloat
    accuracy_std: FiniteFloat
    tar: FiniteFloat
    threshold: FiniteFloat


class Verified(_Record):
    """verification.json: how well a recipe's networks tell faces apart, and what they look at."""

    holds: ClassVar[str] = "images' shape and normalisation, and accuracies of networks"
    image_shape: Annotated[list[_Count], pydantic.Field(min_length=3, max_length=3)]
    normalization: dict[str, list[FiniteFloat]]
    networks: dict[PlainName, _Verified]


# -- series ----------------------------------------------------------------------------------------


class Timed(_Record):
    """Any series: how long a row's work took, where it says so."""

    holds: ClassVar[str] = "seconds on each line"
    seconds: _Seconds | None = None


class Epoch(Timed):
    """metrics.jsonl: Keras' metrics after an epoch, and the stage of a plan that has several."""

    holds: ClassVar[str] = "an epoch and numbers on each line"
    epoch: _Count
    stage: str | None = None
    __pydantic_extra__: dict[str, float | None]

    @pydantic.model_validator(mode="after")
    def _few(self) -> Epoch:
        if len(self.model_extra) > 200:
            raise ValueError("at most 200 numbers")
        return self


_Edge = Annotated[list[FiniteFloat], pydantic.Field(min_length=1, max_length=200)]
_Logits = Annotated[
    list[_Edge], pydantic.Field(min_length=1, max_length=len(edges_of_cell(MAX_NODES)))
]


class Alphas(_Record):
    """alphas.jsonl: logits [edges, operations] after an epoch, and the edges' weights."""

    holds: ClassVar[str] = "an epoch and both cells' logits on each line"
    epoch: Annotated[int, pydantic.Field(ge=-1, le=10**12)]
    val_accuracy: _Measured = None
    normal: _Logits
    reduce: _Logits
    betas_normal: list[FiniteFloat] | None = None
    betas_reduce: list[FiniteFloat] | None = None

    @pydantic.model_validator(mode="after")
    def _rectangular(self) -> Alphas:
        for logits in (self.normal, self.reduce):
            if len(set(map(len, logits))) > 1:
                raise ValueError("as many operations on each edge of a cell")
        return self


class AlarmRow(_Record):
    """alarms.jsonl: what alarms watch after an epoch, and those that were raised."""

    holds: ClassVar[str] = "an epoch and shares on each line"
    epoch: _Count
    zeroise: _Measured = None
    pooling: _Measured = None
    entropy: _Measured = None
    dead_signs: _Measured = None
    alarms: list[str] = []


class UcbState(_Record):
    """The record in a checkpoint of BNAS-UCB's draws."""

    round: _Count
    drawn: _Count
    alive: list[list[bool | Annotated[int, pydantic.Field(ge=0, le=1)]]]
    credits: list[list[list[FiniteFloat]]]


class PerturbationRow(Timed):
    """perturbation.jsonl: accuracies before a decision and without each candidate of an edge (or
    each edge of a node), and what is kept."""

    holds: ClassVar[str] = "accuracies and what is kept on each line"
    decision: _Count
    cell: str
    node: _Count
    state: _Count | None = None
    before: _Measured
    without: dict[str, FiniteFloat]
    kept: str | list[_Count]


# -- searches by keras-tuner -----------------------------------------------------------------------


class Outcome(Timed):
    """outcome-*.json: a trial's accuracy, or why it failed."""

    holds: ClassVar[str] = "an accuracy, or why the trial failed"
    accuracy: _Measured = None
    cost: _Measured = None
    failed: str | None = None

    @pydantic.model_validator(mode="after")
    def _ended(self) -> Outcome:
        if (self.accuracy is None) == (not self.failed):
            raise ValueError("an accuracy, or a reason for the failure")
        return self


class TrialRow(Outcome):
    """trials.jsonl."""

    holds: ClassVar[str] = "an accuracy, or why the trial failed, on each line"
    genotype: str | None = None


#: A node's edges: operation and state, in JSON a list of two.
_Node = list[Annotated[tuple[str, _Count], pydantic.Field(strict=False)]]


class PathRow(TrialRow):
    """trials.jsonl of a one-shot search: every path has been measured."""

    holds: ClassVar[str] = "a cell's edges, accuracy and cost on each line"
    genotype: str
    accuracy: FiniteFloat
    cost: FiniteFloat
    normal: list[_Node]
    reduce: list[_Node]


class _Point(_Record):
    accuracy: FiniteFloat
    cost: FiniteFloat
    genotype: str = ""


class Front(_Record):
    """pareto.json: the measure of cost, and the trials that no other one dominates."""

    holds: ClassVar[str] = "a measure of cost, and a front of trials with accuracy and cost"
    cost: str
    front: list[_Point]


# -- comparisons -----------------------------------------------------------------------------------


class _TunerOfPlan(_Record):
    oracle: str
    trials: int
    epochs: int


class _OneShotOfPlan(_Record):
    population: int
    generations: int
    examples: int | None


class _Planned(_Record):
    name: PlainName
    method: str
    seed: int
    searcher: str | None
    space: str
    genotype: str | None
    adapted: list[dict[str, Any]]
    tuner: _TunerOfPlan | None = None
    one_shot: _OneShotOfPlan | None = None


class Plan(pydantic.RootModel[list[_Planned]]):
    """plan.json: see `bnas_larq.run.comparison_plan.PlannedRun.describe`."""

    holds: ClassVar[str] = "a list of planned runs"
    remedy: ClassVar[str] = "Restore it, or choose another --out."


class Failures(pydantic.RootModel[dict[str, str]]):
    """failures.json: why runs ended without a result, by name."""

    holds: ClassVar[str] = "a reason for each run that failed"
    remedy: ClassVar[str] = "Delete it."
