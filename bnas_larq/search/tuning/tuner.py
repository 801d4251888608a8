"""A keras-tuner tuner whose trials train genotypes. Imports keras-tuner: import it lazily."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import grpc
import keras_tuner
from filelock import FileLock
from keras_tuner.errors import FailedTrialError, FatalError

from bnas_larq.checkpoints import Checkpoints
from bnas_larq.errors import RunError, TrainingStopped, one_line
from bnas_larq.files import read_record, write_json
from bnas_larq.run_records import Outcome
from bnas_larq.search.tuning.durable import STATE, DurableOracle
from bnas_larq.search.tuning.records import Trial, TrialFunction

PROJECT = "tuner"
#: How gRPC's calls end when the connection is lost before the answer.
LOST = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
#: Seconds before such a call is made again, and between two looks for a chief.
PAUSE = 1.0


class ChiefCalls(grpc.UnaryUnaryClientInterceptor):
    """A worker's calls to its chief: made again when the chief is lost before it answers.

    gRPC itself waits for a chief that is not there yet. A call may arrive twice, or at a chief that
    was started again: a worker in a trial is given the same one, and a trial ends once.

    Args:
        where: address of the chief, `IP:port`.
    """

    def __init__(self, where: str) -> None:
        self.where = where

    def channel(self) -> grpc.Channel:
        """A connection to the chief."""
        # gRPC itself looks every two minutes: the chief may have come and ended by then.
        options = [("grpc.max_reconnect_backoff_ms", round(1000 * PAUSE))]
        return grpc.intercept_channel(grpc.insecure_channel(self.where, options), self)

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        """See `grpc.UnaryUnaryClientInterceptor`; `details.timeout` (s) bounds the repetitions."""
        end = time.monotonic() + details.timeout
        while (call := continuation(details, request)).code() in LOST and time.monotonic() < end:
            time.sleep(PAUSE)
        if call.code() != grpc.StatusCode.OK:
            # keras-tuner would take any other error for one of the trial.
            raise FatalError from RunError(
                f"The chief and the workers of a search must reach each other at {self.where}. "
                f"Received: {call.code().name}: {one_line(call.details())}. Check "
                "KERASTUNER_ORACLE_IP and KERASTUNER_ORACLE_PORT; if the chief has ended, start it "
                "again with --resume, then the workers."
            )
        return call


class GenotypeTuner(keras_tuner.Tuner):
    """Runs the trials of an oracle, here or as chief and workers (KERASTUNER_TUNER_ID etc.).

    Args:
        oracle: proposes trials; a worker asks the chief's instead.
        run: trains and measures.
        folder: of the search; keras-tuner's project is its folder `tuner`.
        epochs: of a trial, unless the oracle sets another number.
        seed: of every trial.
        may_continue: whether a trial may continue an earlier one (Hyperband).
        chief: `IP:port`, if this process is a worker.
    """

    def __init__(
        self,
        oracle: DurableOracle,
        run: TrialFunction,
        *,
        folder: Path,
        epochs: int,
        seed: int,
        may_continue: bool,
        chief: str | None = None,
    ) -> None:
        self.encoding = oracle.encoding
        self.run, self.folder = run, folder
        self.epochs, self.seed, self.may_continue = epochs, seed, may_continue
        self._idle = False
        super().__init__(oracle, directory=str(folder), project_name=PROJECT)
        if chief is not None:
            self.oracle.stub = type(self.oracle.stub)(ChiefCalls(chief).channel())

    def run_trial(self, trial: Any, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The validation accuracy of a trial; see `keras_tuner.Tuner.run_trial`."""
        values = trial.hyperparameters.values
        decoded = Trial.of(trial.trial_id, values, self.encoding, self.epochs, self.folder)
        try:
            decoded.folder.mkdir(parents=True, exist_ok=True)
            # A second process gets the trial when the chief is started again, or when two workers
            # have one name: it waits for the first one's result, or goes on if that one is lost.
            with FileLock(decoded.folder / ".lock"):
                if not decoded.outcome.is_file():
                    write_json(decoded.outcome, self._measure(decoded))
                outcome = read_record(decoded.outcome, Outcome)
                if not self.may_continue:
                    Checkpoints(decoded.folder / "checkpoints").clear()
        except Exception as error:
            # keras-tuner would record any error as a failed trial and continue.
            raise FatalError(one_line(error)) from error
        if outcome.get("failed"):
            raise FailedTrialError(outcome["failed"])
        return {"accuracy": outcome["accuracy"]}

    def _measure(self, trial: Trial) -> dict[str, Any]:
        start = time.monotonic()
        try:
            result = self.run(
                trial.genotype, trial.overrides, trial.epochs, trial.folder, self.seed
            )
            outcome = {"accuracy": result.accuracy, "cost": result.cost}
        except TrainingStopped as error:
            outcome = {"failed": one_line(error)}
        return {**outcome, "seconds": round(time.monotonic() - start, 3)}

    # keras-tuner polls an oracle that waits for other workers' trials without a pause.

    def pre_create_trial(self) -> None:
        if self._idle:
            time.sleep(0.5)
        self._idle = True

    def on_trial_begin(self, trial: Any) -> None:
        self._idle = False
        super().on_trial_begin(trial)

    def on_trial_end(self, trial: Any) -> None:
        if trial.status == "INVALID":
            # The network is fine, but its result was not recorded: the trial must run again.
            raise RunError(
                "A trial's result must reach the oracle. "
                f"Received: {one_line(trial.message.strip().splitlines()[-1])}. Fix it and resume."
            )
        super().on_trial_end(trial)

    # The tuner has no state of its own: it can resume if the oracle's state exists.

    def _get_tuner_fname(self) -> str:
        return str(Path(self.project_dir) / STATE)

    def save(self) -> None:
        if not self._is_worker():
            self.oracle.save()

    def reload(self) -> None:
        if not self._is_worker():
            self.oracle.reload()
