"""A search by keras-tuner whose trials train nothing, in as many processes as a real one.

tuner_process.py part FOLDER      what run_chief_and_workers starts: the chief or a worker
tuner_process.py launch FOLDER    a parent that only starts those, and waits for them
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from bnas_larq.run.processes import end_with_parent, run_chief_and_workers

WORKERS = 2


def entry(folder: Path) -> list[str]:
    """The command line of a part."""
    return [sys.executable, __file__, "part", str(folder)]


def make_search(folder: Path, launch=None):
    """The search; its trials wait until both workers run one, and as long as a file `wait` says."""
    from bnas_larq.search.tuning import TrialResult, TunerSearch
    from bnas_larq.settings import TunerSettings
    from bnas_larq.spaces import SearchSpace

    def trial(genotype, train_overrides, epochs, work, seed):
        (folder / f"entered-{os.environ['KERASTUNER_TUNER_ID']}").write_text(work.name)
        while len(list(folder.glob("entered-*"))) < WORKERS or (folder / "wait").exists():
            time.sleep(0.02)
        with open(work / "by", "a", encoding="utf-8") as stream:
            stream.write(f"{os.environ['KERASTUNER_TUNER_ID']}\n")
        # A third is no float32, which is what keras-tuner sends accuracies as.
        return TrialResult(genotype.count("bin_conv_3x3") / 3, 12345678.9)

    names = ("none", "max_pool_3x3", "bin_conv_3x3")
    space = SearchSpace("small", names, names, nodes=2)
    train = {"learning_rate": {"min": 1e-4, "max": 1e-2, "log": True}, "batch_size": [16, 32]}
    settings = TunerSettings(
        oracle="evolution", trials=8, population=3, sample=2, workers=WORKERS, hyperparameters=train
    )
    return TunerSearch(settings, space, trial, seed=1, launch=launch)


if __name__ == "__main__":
    role, place = sys.argv[1], Path(sys.argv[2])
    if role == "part":
        end_with_parent()
        (place / f"pid-{os.environ['KERASTUNER_TUNER_ID']}").write_text(str(os.getpid()))
        make_search(place).take_part(place / "search")
    else:
        run_chief_and_workers(entry(place), WORKERS)
