"""Searches and trainings under `tf.distribute`: two replicas do what one device does.

The figures come from two_replicas.py, in a process of its own: logical devices can only be set
before TensorFlow computes anything. Two replicas add the halves' gradients, so that sums round
otherwise: weights may differ by 1e-5 after a few steps, and those of a resumed run not at all.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bnas_larq.backend import keras, tf
from bnas_larq.cli import run_commands
from bnas_larq.errors import BnasLarqError
from bnas_larq.strategies import (
    STRATEGIES,
    check_batch,
    gpu_of_worker,
    is_chief,
    make_strategy,
    mean_loss,
    set_gpu_memory,
    use_gpu_of_worker,
    wait_for_all,
)

ROOT = Path(__file__).parents[1]
THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")
EQUAL = (
    *("one-cycle SGD", "drop-path", "mixup, smoothed labels, clipping, decay by kind"),
    *("Adam, slower binary kernels", "teacher", "first order, α from epoch 1", "second order"),
    *("single level, concrete", "drawn paths, edge weights", "partial channels"),
    *("projection losses", "projection loss", "Bayesian losses", "annealed signs"),
    *("learnt scales", "estimated statistics", "centre loss", "Bayesian feature loss"),
    *("paths of a one-shot search", "paths of a bandit search"),
)
RESUMED = ("trained, resumed", "searched, resumed")


def figures_of(folder, threads, *cases):
    """Case → figures, of so many threads; without cases, of all but resumed runs."""
    command = [sys.executable, Path(__file__).with_name("two_replicas.py")]
    done = subprocess.run(
        [*command, folder, *cases],
        env={**os.environ, "PYTHONPATH": str(ROOT), **dict.fromkeys(THREADS, str(threads))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(map(json.loads, done.stdout.splitlines()))


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    """Of one thread, so that rounding repeats: Adam may turn it into 1e-3, see docs/scale.md."""
    return figures_of(tmp_path_factory.mktemp("replicas"), 1)


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """More threads than cores: what depended on their timing would not repeat its bits."""
    return figures_of(tmp_path_factory.mktemp("resumed"), 4, *RESUMED)


@pytest.mark.parametrize("case", EQUAL)
def test_two_replicas_reach_the_weights_of_one_device(figures, case):
    """BatchNorm is frozen: each replica would normalise by its own part of the batch."""
    assert figures["replicas"] == 2
    assert figures[case]["weights"] < 1e-5
    assert figures[case]["metrics"] < 1e-5


@pytest.mark.parametrize("case", RESUMED)
def test_a_resumed_run_has_the_same_bits(resumed, case):
    """With BatchNorm's statistics, whose moving averages differ between replicas in an epoch."""
    assert resumed["replicas"] == 2
    found = resumed[case]
    assert found["weights"] == 0.0 and found["metrics"] is True
    assert found["moved"] > 1e-3


def test_every_case_is_judged(figures):
    assert set(figures) == {"replicas", *EQUAL}


# -- making one ------------------------------------------------------------------------------------


def test_commands_offer_all_strategies():
    for command in (run_commands.run, run_commands.search, run_commands.train):
        (option,) = (option for option in command.params if option.name == "strategy")
        assert tuple(option.type.choices) == STRATEGIES


def test_an_unknown_strategy_is_refused():
    with pytest.raises(BnasLarqError, match="Received: 'miror'; did you mean 'mirrored'"):
        make_strategy("miror")


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        (None, "Received: no cluster in TF_CONFIG. Set it"),
        ("{", "TF_CONFIG holds a cluster and a task as JSON"),
        ('{"cluster": {"ps": ["a:1"]}, "task": {"type": "ps", "index": 0}}', "Received: {'ps': "),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "chief", "index": 0}}', "'a:1'"),
    ],
)
def test_several_workers_need_their_addresses(monkeypatch, cluster, message):
    if cluster is None:
        monkeypatch.delenv("TF_CONFIG", raising=False)
    else:
        monkeypatch.setenv("TF_CONFIG", cluster)
    with pytest.raises(BnasLarqError, match=message):
        make_strategy("multi-worker")


def test_a_batch_that_replicas_cannot_share_is_refused():
    class Three:
        num_replicas_in_sync = 3

    check_batch(32, None)
    check_batch(33, Three)
    with pytest.raises(BnasLarqError, match="batch_size 32 for 3 replicas. Use 33."):
        check_batch(32, Three)


@pytest.mark.parametrize("memory", ["all", "0", "-1", "1.5"])
def test_another_memory_of_gpus_is_refused(memory):
    with pytest.raises(BnasLarqError, match="'growth' or a limit in MB"):
        set_gpu_memory(memory)


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="there is a GPU")
@pytest.mark.parametrize("memory", ["growth", "4000"])
def test_without_a_gpu_its_memory_is_not_set(memory):
    with pytest.raises(BnasLarqError, match="no GPU that TensorFlow sees"):
        set_gpu_memory(memory)


@pytest.mark.parametrize(
    ("numbers", "count", "gpus"),
    [
        ((1, 2, 3), 3, [0, 1, 2]),
        ((1, 2, 3, 4, 5), 2, [0, 1, 0, 1, 0]),
        # The workers of a second machine, with fewer GPUs than the first.
        ((9, 10), 2, [0, 1]),
        ((7, 8, 9, 10), 4, [2, 3, 0, 1]),
        ((0, 1), 2, [1, 0]),
    ],
)
def test_workers_numbered_one_after_the_other_take_a_gpu_each(numbers, count, gpus):
    assert [gpu_of_worker(f"host2-worker{number}", count) for number in numbers] == gpus


def test_a_worker_without_a_number_takes_an_only_gpu():
    assert gpu_of_worker("anna", 1) == 0
    with pytest.raises(BnasLarqError, match="Received: 'worker-1a' for 2 GPUs."):
        gpu_of_worker("worker-1a", 2)


def test_tensorflow_sees_a_workers_gpu_alone(monkeypatch):
    seen, gpus = [], ["GPU:0", "GPU:1"]
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus)
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda *args: seen.append(args))
    for name in ("worker-1", "worker-2", None):
        use_gpu_of_worker(name)
    gpus.clear()
    use_gpu_of_worker("worker-1")
    assert seen == [(["GPU:0"], "GPU"), (["GPU:1"], "GPU"), ([], "GPU"), ([], "GPU")]


def test_a_single_process_is_its_own_chief():
    strategy = make_strategy("mirrored")
    for own in (None, strategy):
        assert is_chief(own)
        wait_for_all(own)


# -- in a step -------------------------------------------------------------------------------------


def test_losses_are_means_of_a_replicas_part():
    """Keras refuses to take the mean of a loss under a strategy."""
    labels, logits = tf.constant([0, 1, 1]), tf.constant([[1.0, 0.0], [0.5, 0.0], [0.0, 2.0]])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    alone = float(mean_loss(loss, labels, logits))
    assert alone == float(loss(labels, logits))

    def of_function(labels, logits):
        return keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)

    strategy = make_strategy("mirrored")
    with strategy.scope():
        for own in (loss, of_function):
            inside = strategy.run(lambda own=own: mean_loss(own, labels, logits))
            assert float(inside) == pytest.approx(alone, rel=1e-6)
        nothing = strategy.run(lambda: mean_loss(loss, labels[:0], logits[:0]))
        assert float(nothing) == 0.0
