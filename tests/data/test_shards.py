"""The parts of the processes of a strategy: together they are the batches of one."""

from __future__ import annotations

import numpy as np
import pytest

from bnas_larq.backend import tf
from bnas_larq.data import (
    Augmentation,
    EvaluationPipeline,
    Normalization,
    bilevel_pipeline,
    distributed,
    load_dataset,
    training_pipeline,
)
from bnas_larq.data.shards import Shard
from bnas_larq.errors import DataError

BATCH = 24
#: Pipelines and replicas: one machine with two GPUs, two workers, two workers with two GPUs each.
TEAMS = ((1, 2), (2, 2), (2, 4))


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits", limit=200).train


def pipeline(examples, seed=0, **settings):
    settings |= {"normalization": Normalization(), "augmentation": Augmentation(crop_padding=2)}
    return training_pipeline(examples, batch_size=BATCH, seed=seed, num_classes=10, **settings)


def together(pipelines, replicas, dataset, steps):
    """The global batches: of each step the parts of all replicas, in their order."""
    shards = [Shard(number, pipelines, replicas) for number in range(pipelines)]
    parts = [list(dataset(shard=s).take(steps * s.fed).as_numpy_iterator()) for s in shards]
    fed, merge = replicas // pipelines, lambda *arrays: np.concatenate(arrays)
    for step in range(steps):
        own = [part for of_one in parts for part in of_one[step * fed : (step + 1) * fed]]
        yield tf.nest.map_structure(merge, *own)


@pytest.mark.parametrize(("pipelines", "replicas"), TEAMS)
@pytest.mark.parametrize(("mixup", "first"), [(0.0, 0), (0.3, 0), (0.3, 2)])
def test_the_union_is_the_batch_of_one_process(digits, pipelines, replicas, mixup, first):
    """Image by image, from any batch over the end of an epoch; mixup's partners stand in others'
    parts, too."""
    stream = pipeline(digits, mixup=mixup)
    steps = stream.steps_per_epoch + 2
    whole = stream.dataset(1, first).take(steps).as_numpy_iterator()
    dataset = lambda shard: stream.dataset(1, first, shard)  # noqa: E731
    for one, union in zip(whole, together(pipelines, replicas, dataset, steps), strict=True):
        assert len(one[0]) == BATCH
        for ours, theirs in zip(one, union, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_both_halves_of_a_search_are_shared(digits):
    halves = bilevel_pipeline(pipeline(digits), pipeline(digits, seed=1))
    whole = halves.dataset(0, 1).take(3).as_numpy_iterator()
    dataset = lambda shard: halves.dataset(0, 1, shard)  # noqa: E731
    for one, union in zip(whole, together(2, 2, dataset, 3), strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, one, union)


def test_pictures_of_others_are_not_read(varied_pictures):
    """Streamed pictures are decoded only by the process whose part they are in."""
    examples = load_dataset(
        **varied_pictures.source("folder"), memory_limit_mb=0, image_size=16
    ).train
    assert examples.streamed
    read = []

    def spied(index):
        read.append(tf.numpy_function(seen, [index], tf.int64))
        with tf.control_dependencies(read[-1:]):
            return original(index)

    decoded, original = [], examples._read

    def seen(index):
        decoded.append(int(index))
        return index

    examples._read = spied
    shard, batch = Shard(1, 2, 2), 4
    order = examples.order(0, 0, True).numpy()
    batches = examples.batches(batch, shuffle=True, shard=shard)
    indices = np.concatenate([part.numpy() for _, _, part in batches])
    steps = len(order) // batch
    wanted = order[: steps * batch].reshape(steps, batch)[:, 2:].ravel()
    assert indices.tolist() == wanted.tolist()
    assert sorted(decoded) == sorted(wanted.tolist())


@pytest.mark.parametrize(("pipelines", "replicas"), TEAMS)
def test_an_evaluation_shares_every_image_once(digits, pipelines, replicas):
    """In as many steps for each replica, of parts that differ by one image."""
    held_out = EvaluationPipeline(digits.subset(np.arange(101)), 40, Normalization())
    assert held_out.steps == 3
    seen, sizes = [], []
    for number in range(pipelines):
        shard = Shard(number, pipelines, replicas)
        parts = [labels.numpy() for _, labels in held_out.dataset(shard)]
        assert len(parts) == held_out.steps * shard.fed
        seen += parts
        sizes += map(len, parts)
    assert max(sizes) - min(sizes) <= 1
    labels = np.concatenate(seen)
    assert sorted(labels.tolist()) == sorted(digits.labels[:101].tolist())


def test_an_evaluation_without_an_image_for_each_replica_is_refused(digits):
    held_out = EvaluationPipeline(digits.subset(np.arange(3)), 40, Normalization())
    with pytest.raises(DataError, match="Received: 3 images for 8 replicas"):
        held_out.dataset(Shard(0, 1, 8))


def test_without_a_strategy_nothing_is_shared(digits):
    stream = pipeline(digits)
    assert isinstance(distributed(stream.dataset), tf.data.Dataset)
    held_out = EvaluationPipeline(digits, 40, Normalization())
    assert held_out.for_fit()["validation_steps"] is None
