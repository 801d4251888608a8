"""Search by keras-tuner: an oracle proposes networks, and each is trained by itself."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bnas_larq.backend import keras
from bnas_larq.checkpoints import Checkpoints
from bnas_larq.console import clock, say
from bnas_larq.errors import RunError, TrainingStopped, one_line
from bnas_larq.files import read_record, read_rows
from bnas_larq.genotype import Genotype
from bnas_larq.run_records import Outcome, TrialRow
from bnas_larq.search.searcher import SearchData, Searcher, SearchResult
from bnas_larq.search.tuning.encoding import Encoding
from bnas_larq.search.tuning.records import TRIALS, Trial, TrialFunction, best_row, write_records
from bnas_larq.settings import TunerSettings
from bnas_larq.spaces import KINDS, SearchSpace

#: keras-tuner's variables: the process' role, and the address of the chief.
TUNER_ID = "KERASTUNER_TUNER_ID"
ORACLE_IP, ORACLE_PORT = "KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT"


def role_of_process() -> str | None:
    """`chief` or `worker`, from keras-tuner's variables; None without them, RunError for a part."""
    names = (TUNER_ID, ORACLE_IP, ORACLE_PORT)
    given = [name for name in names if os.environ.get(name)]
    if not given:
        return None
    if len(given) < len(names):
        raise RunError(
            f"Parallel trials need {', '.join(names)} together. "
            f"Received: {', '.join(given)} alone. Set the others too, or none."
        )
    return "chief" if "chief" in os.environ[TUNER_ID] else "worker"


def _chief_address() -> str:
    """Where this process, the chief, listens; RunError if it cannot. gRPC itself would share a port
    with another chief silently."""
    ip, port = os.environ[ORACLE_IP], os.environ[ORACLE_PORT]
    try:
        socket.create_server((ip, int(port))).close()
    except (OSError, OverflowError, ValueError) as error:
        raise RunError(
            "A chief listens at an address of its own machine, on a free port. "
            f"Received: {ip}:{port} ({one_line(error)}). Change {ORACLE_IP} or {ORACLE_PORT}."
        ) from error
    return f"{ip}:{port}"


class TunerSearch(Searcher):
    """Random search, Bayesian optimisation, Hyperband or regularised evolution over genotypes.

    Args:
        settings: the recipe's section `search.tuner`.
        space: of the genotypes.
        trial: trains and measures a network.
        ops: operations of a genotype's network, for the settings' bounds; None without bounds.
        seed: of the oracle and of every trial.
        prepare: called before any trial by the process that owns the search.
        launch: starts the chief and `settings.workers` workers as processes, each of which calls
            `take_part`, and waits for them.

    Raises:
        RunError: several workers, but neither `launch` nor a role in the environment.
    """

    def __init__(
        self,
        settings: TunerSettings,
        space: SearchSpace,
        trial: TrialFunction,
        *,
        seed: int,
        ops: Callable[[Genotype], float] | None = None,
        prepare: Callable[[], None] | None = None,
        launch: Callable[[], None] | None = None,
    ) -> None:
        if settings.workers > 1 and launch is None and role_of_process() is None:
            raise RunError(
                "Several workers are processes that `launch` starts, or that the user does. "
                f"Received: workers={settings.workers} without launch. Give it, set workers=1, or "
                "start them as docs/scale.md says."
            )
        self.settings, self.trial, self.seed = settings, trial, seed
        self.prepare, self.launch = prepare, launch
        allowed = ops and (lambda genotype: settings.allow(ops(genotype)))
        self.encoding = Encoding(space, settings.hyperparameters, allowed)

    def run(
        self,
        data: SearchData | None = None,
        *,
        folder: Path,
        provenance: dict[str, Any],
        callbacks: Sequence[keras.callbacks.Callback] = (),
    ) -> SearchResult:
        """See `Searcher.run`; writes trials.jsonl, pareto.json, keras-tuner's project in `tuner`
        and the networks' trainings in `trials`.

        With the variables KERASTUNER_TUNER_ID (`chief`), KERASTUNER_ORACLE_IP and
        KERASTUNER_ORACLE_PORT this process is the chief of workers that the user starts.

        Args:
            data, callbacks: not used; `trial` has its own data.

        Raises:
            TrainingStopped: no trial could be measured.
            RunError: a worker calls this, a chief's address is not this machine's or taken, or a
                process of a parallel search failed.
        """
        role = role_of_process()
        if role == "worker":
            raise RunError(
                f"A search runs in its chief. Received: {TUNER_ID}={os.environ[TUNER_ID]}. "
                "Set it to chief here, and start workers with `bnas-larq worker FOLDER`."
            )
        if role == "chief":
            worker = f"bnas-larq worker {folder.parent}"
            say(f"search: chief at {_chief_address()}, waits for `{worker}`")
        if self.prepare is not None:
            self.prepare()
        if role is None and self.settings.workers > 1:
            self.launch()
        else:
            self.take_part(folder)
        for checkpoints in sorted((folder / "trials").glob("*/checkpoints")):
            Checkpoints(checkpoints).clear()
        return self._result(read_rows(folder / TRIALS, TrialRow), provenance)

    def take_part(self, folder: Path) -> None:
        """Run trials until there are no more: alone, or in the environment's role."""
        # keras-tuner must be loaded after the backend.
        from keras_tuner.errors import FatalError

        chief = None
        if role_of_process() == "worker":
            chief = f"{os.environ[ORACLE_IP]}:{os.environ[ORACLE_PORT]}"
            say(f"worker: asks the chief at {chief}")
        try:
            self._run_trials(folder, chief)
        except FatalError as error:
            raise error.__cause__ or error from None

    def _run_trials(self, folder: Path, chief: str | None) -> None:
        from bnas_larq.search.tuning.oracles import make_oracle
        from bnas_larq.search.tuning.tuner import GenotypeTuner

        settings = self.settings
        # keras-tuner prints what it reloads to stdout, which is for results.
        with contextlib.redirect_stdout(io.StringIO()):
            tuner = GenotypeTuner(
                make_oracle(settings, self.encoding, self.seed, partial(self._record, folder)),
                self.trial,
                folder=folder,
                epochs=settings.epochs,
                seed=self.seed,
                may_continue=settings.oracle == "hyperband",
                chief=chief,
            )
        with contextlib.redirect_stdout(sys.stderr):
            tuner.search()

    def _result(self, rows: list[dict[str, Any]], provenance: dict[str, Any]) -> SearchResult:
        best = best_row(rows)
        if best is None:
            reason = rows[-1]["failed"] if rows else "no trial was run"
            way = "Lower train.learning_rate, or choose another search.tuner.oracle."
            if not rows and self.settings.bounded:
                way = "Widen search.tuner.minimum_ops and maximum_ops."
            raise TrainingStopped(
                "A search needs a trial that succeeds. "
                f"Received: none of {len(rows)} ({reason}). {way}"
            )
        genotype = Genotype(
            *(best[kind] for kind in KINDS),
            provenance={
                **provenance,
                "oracle": self.settings.oracle,
                "trials": len(rows),
                "trial": best["trial"],
                "epochs": best["epochs"],
                "train": best["hyperparameters"],
            },
        )
        return SearchResult(genotype, len(rows), best["accuracy"])

    def _record(self, folder: Path, ended: list[Any]) -> None:
        """Write the records and a progress line after a trial."""
        settings, rows = self.settings, []
        for state in ended:
            values = state.hyperparameters.values
            trial = Trial.of(state.trial_id, values, self.encoding, settings.epochs, folder)
            rows.append(trial.row(read_record(trial.outcome, Outcome)))
        write_records(folder, rows, settings.cost)
        say(self._line(rows))

    def _line(self, rows: list[dict[str, Any]]) -> str:
        settings = self.settings
        head = f"search trial {len(rows)}/{settings.trials}"
        best = best_row(rows)
        if not rows or best is None:
            return f"{head}: none measured yet"
        last = rows[-1]
        if last["failed"]:
            return f"{head}: {last['genotype']} failed: {last['failed']}"
        parts = [f"{last['genotype']}", f"accuracy {last['accuracy']:.4f}"]
        if last["cost"] is not None:
            parts.append(f"{last['cost']:.4g} {settings.cost}")
        each = sum(row["seconds"] for row in rows) / len(rows) / settings.workers
        left = clock(each * (settings.trials - len(rows)))
        most = "at most " if settings.oracle == "hyperband" else ""
        return f"{head}: {', '.join(parts)}; best {best['accuracy']:.4f}; {most}{left} left"
