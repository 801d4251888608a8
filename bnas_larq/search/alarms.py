"""Alarms: signs of a failing search, checked after every epoch.

supernet.fit(..., callbacks=[Alarms(AlarmSettings(action="stop"), probe=images)])
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bnas_larq.backend import keras, tf
from bnas_larq.console import say
from bnas_larq.errors import TrainingStopped
from bnas_larq.files import append_line, keep_lines_before, read_rows
from bnas_larq.genotype import Genotype
from bnas_larq.layers.batch_norm import BATCH_NORM
from bnas_larq.run_records import AlarmRow
from bnas_larq.settings import AlarmSettings
from bnas_larq.spaces import PARAMETER_FREE, ZEROISE
from bnas_larq.supernet.dead_signs import dead_sign_share

#: File in a stage's folder, with one row per epoch.
RECORD = "alarms.jsonl"
#: Number of images for probing signs.
PROBED = 64

#: Message and advice of each alarm.
_SENTENCES = {
    "zeroise": (
        "Zeroise on {value:.0%} of the kept edges (limit {limit:.0%})",
        "raise search.gamma, or lower search.alpha_learning_rate",
    ),
    "pooling": (
        "pooling or identity on {value:.0%} of the kept edges (limit {limit:.0%})",
        "raise search.entropy_weight or search.alpha_start_epoch",
    ),
    "entropy": (
        "entropy of α at {value:.0%} of its maximum in the first half of the search "
        "(at least {limit:.0%})",
        "lower search.alpha_learning_rate, or raise search.entropy_weight",
    ),
    "dead_signs": (
        "{value:.0%} of the sign activations dead (limit {limit:.0%}): they never change, or "
        "pass no gradient",
        "lower search.learning_rate",
    ),
}


class Alarms(keras.callbacks.Callback):
    """Measures a supernet after each epoch, and warns or stops if a limit is exceeded.

    - `zeroise`, `pooling`: shares of the edges that the current genotype keeps, in both cells;
    - `entropy`: mean entropy over the edges, as a share of its maximum over the candidates that are
      not pruned; only in the first half of the epochs, because it should fall later;
    - `dead_signs`: see `bnas_larq.supernet.dead_signs`; not before BatchNorm's moving statistics
      have settled, which takes 44 steps.

    An alarm that lasts is reported once. With `stop`, `fit` raises TrainingStopped at the beginning
    of the next epoch, or at the end of training, when the epoch has been saved. A resumed `fit`
    stops at once if the last epoch's alarm persists.

    Args:
        settings: limits and action; with `off` nothing is measured.
        epochs: all epochs of the search, including those before a resume; None for `fit`'s epochs
            from 0. Rows of others, such as an earlier stage's, raise no alarm.
        log: JSON-lines file of the numbers by epoch, or None; rows of repeated epochs are replaced.
        probe: images [n, height, width, channels], or a data set of (images, labels) batches, of
            which the first is used; at most `PROBED` images. None skips dead signs.
        genotype: derives the current genotype; default the model's `genotype()`.
    """

    def __init__(
        self,
        settings: AlarmSettings | None = None,
        *,
        epochs: range | None = None,
        log: str | Path | None = None,
        probe: Any = None,
        genotype: Callable[[], Genotype] | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings or AlarmSettings()
        self.epochs = epochs
        self.log = None if log is None else Path(log)
        self.genotype = genotype
        self.rows: list[dict[str, Any]] = []
        self.params: dict[str, Any] = {}
        self._probe = probe
        self._begun = False

    def on_train_begin(self, logs: dict | None = None) -> None:
        self._begun = False

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        if self.settings.action == "off":
            return
        if not self._begun:
            self._begun = True
            if self.log is not None:
                keep_lines_before(self.log, epoch)
                self.rows = self._recorded()
            self.rows = [row for row in self.rows if row["epoch"] < epoch]
        self.check()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if self.settings.action == "off":
            return
        before = self.raised()
        row = {"epoch": epoch, **self.measure()}
        self.rows.append(row)
        raised = self.raised()
        if self.log is not None:
            append_line(self.log, {**row, "alarms": list(raised)})
        for name, (sentence, advice) in raised.items():
            if name not in before:
                say(f"alarm in epoch {epoch + 1}: {sentence}. What may help: {advice}.")

    def on_train_end(self, logs: dict | None = None) -> None:
        self.check()

    def measure(self) -> dict[str, float | None]:
        """The numbers behind the alarms; None where there is nothing to measure."""
        genotype = (self.genotype or self.model.genotype)()
        kept = sum(len(node) for cell in genotype.cells for node in cell)
        # 0 if every edge has a single candidate: the entropy then says nothing.
        maximum = float(np.mean([np.log(edges.sum(axis=1)).mean() for edges in self.model.alive]))
        # With moving statistics near their initial values, any sign would look dead.
        steps = int(self.model.optimizer.iterations.numpy())
        images = self._images() if BATCH_NORM["momentum"] ** steps < 0.01 else None
        return {
            "zeroise": genotype.count(ZEROISE) / kept,
            "pooling": sum(map(genotype.count, PARAMETER_FREE)) / kept,
            "entropy": float(self.model.entropy()) / maximum if maximum > 0 else None,
            "dead_signs": None if images is None else dead_sign_share(self.model, images),
        }

    def raised(self) -> dict[str, tuple[str, str]]:
        """Alarms of the last epoch: name → (message, advice)."""
        if not self.rows or self.settings.action == "off":
            return {}
        row = self.rows[-1]
        raised = {}
        for name, (sentence, advice) in _SENTENCES.items():
            value, limit = row.get(name), getattr(self.settings, name)
            if value is None:
                continue
            applies = name != "entropy" or self._in_first_half(row["epoch"])
            if applies and (value < limit if name == "entropy" else value > limit):
                raised[name] = sentence.format(value=value, limit=limit), advice
        return raised

    def check(self) -> None:
        """Raise TrainingStopped if the last epoch has an alarm and the action is `stop`.

        To be called after `fit`, too, which does nothing if a resumed search has no epochs left.
        """
        if not self.rows and self.log is not None:
            self.rows = self._recorded()
        raised = self.raised()
        if self.settings.action == "stop" and raised:
            sentences, advice = zip(*raised.values(), strict=True)
            raise TrainingStopped(
                "A search with search.alarms.action=stop ends at an alarm. "
                f"Received: {'; '.join(sentences)}, in epoch {self.rows[-1]['epoch'] + 1}. "
                f"What may help: {'; '.join(advice)}. The epoch's checkpoint is kept: resume with "
                "search.alarms.action=warn to continue anyway."
            )

    def _recorded(self) -> list[dict[str, Any]]:
        """The log's rows of these epochs."""
        rows = read_rows(self.log, AlarmRow)
        return [row for row in rows if self.epochs is None or row["epoch"] in self.epochs]

    def _in_first_half(self, epoch: int) -> bool:
        # Without `fit` the number of epochs is unknown: then the search is over.
        epochs = self.epochs or range(self.params.get("epochs", 0))
        return epoch - epochs.start < len(epochs) / 2

    def _images(self) -> tf.Tensor | None:
        """The probe, read once."""
        if isinstance(self._probe, tf.data.Dataset):
            self._probe = next(iter(self._probe))[0]
        if self._probe is not None:
            self._probe = tf.convert_to_tensor(self._probe[:PROBED])
        return self._probe
