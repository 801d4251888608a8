"""keras-tuner's oracles, made crash-safe. Imports keras-tuner: import it lazily."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras_tuner

from bnas_larq.errors import BnasLarqError, RunError, one_line
from bnas_larq.files import is_plain_name, read_json, write_json
from bnas_larq.search.tuning.encoding import Encoding

#: keras-tuner's name for the file of an oracle's state.
STATE = "oracle.json"
#: How often a proposal that was made before, or is not sensible, is drawn again; keras-tuner's 20
#: would end a search within narrow bounds.
DRAWS = 2000


class DurableOracle(keras_tuner.Oracle):
    """First base class of all oracles here.

    keras-tuner writes an oracle's state and every trial to files of their own. Here files are
    written atomically, and the state decides: a trial that it does not know was never created, and
    one that has not ended there is run again. A killed oracle therefore proposes the same trials.

    Args:
        encoding: of genotypes and settings as hyperparameters.
        on_end: called with all ended trials, in the order of their end, after each end and after
            reading them from disk.
        settings: of the keras-tuner oracle.
    """

    def __init__(
        self,
        encoding: Encoding,
        on_end: Callable[[list[Any]], None],
        max_trials: int,
        **settings: Any,
    ) -> None:
        super().__init__(
            objective=keras_tuner.Objective("accuracy", "max"),
            hyperparameters=encoding.hyperparameters(),
            allow_new_entries=False,
            tune_new_entries=False,
            # A trial fails if its loss is not finite, and would fail again. keras-tuner's limit of
            # failures ends a chief without telling its workers.
            max_consecutive_failed_trials=max_trials + 1,
            **settings,
        )
        # Not an argument of every oracle.
        self.max_trials = max_trials
        self._max_collisions = DRAWS
        self.encoding = encoding
        self.on_end = on_end
        self.verbose = 0

    def save(self) -> None:
        write_json(self._get_oracle_fname(), self.get_state())

    def _save_trial(self, trial: Any) -> None:
        write_json(f"{self._get_trial_dir(trial.trial_id)}/trial.json", trial.get_state())

    def reload(self) -> None:
        # What keras-tuner opens, bounded and as JSON.
        project = Path(self._project_dir)
        for path in (project / STATE, *project.glob("trial_*/trial.json")):
            read_json(path)
        try:
            self._reload()
        except BnasLarqError:
            raise
        except Exception as error:  # whatever is missing or of another type
            raise RunError(
                f"keras-tuner's state must be what it wrote. Received: {project} "
                f"({type(error).__name__}: {one_line(error)[:120]}). "
                "Restore the folder, or delete it to repeat the search; trained trials are kept."
            ) from error

    def _reload(self) -> None:
        super().reload()
        for trial_id in self.trials:  # names the trial's folder
            if not is_plain_name(str(trial_id)):
                raise RunError(
                    "A trial's id is a short name. "
                    f"Received: {trial_id!r} in {self._project_dir}. Restore the folder's files."
                )
        self.trials = {trial_id: self.trials[trial_id] for trial_id in self.start_order}
        ended = set(self.end_order)
        # keras-tuner takes the last one first.
        self._retry_queue = sorted(set(self._retry_queue) - ended, reverse=True)
        for trial_id in self._retry_queue:
            trial = self.trials[trial_id]
            blank = type(trial)(trial.hyperparameters, trial_id, "RUNNING")
            trial.set_state(blank.get_state())
        self.on_end(self._ended())

    @keras_tuner.synchronized
    def end_trial(self, trial: Any) -> None:
        if trial.trial_id in self.end_order:
            # A restarted chief hands out trials that other workers are still running.
            ongoing = self.ongoing_trials.items()
            self.ongoing_trials = {k: t for k, t in ongoing if t.trial_id != trial.trial_id}
            return
        known = self.trials[trial.trial_id]
        if trial.status == "COMPLETED" and not known.metrics.exists(self.objective.name):
            # The chief that was told the accuracy was killed: the trial is handed out again, and
            # its result, which is on disk, told again.
            return
        self._retry_queue = [number for number in self._retry_queue if number != trial.trial_id]
        super().end_trial(trial)
        self.on_end(self._ended())

    def _ended(self) -> list[Any]:
        return [self.trials[trial_id] for trial_id in self.end_order]

    def _duplicate(self, values: dict[str, Any]) -> bool:
        # keras-tuner redraws duplicates; here also networks that carry no signal.
        return not self.encoding.sensible(values) or super()._duplicate(values)
