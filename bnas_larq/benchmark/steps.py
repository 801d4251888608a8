"""Measures a step of search, or of a final network's training, against its floor."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bnas_larq.backend import keras, tf
from bnas_larq.benchmark.arithmetic import StepArithmetic, bilevel_arithmetic, training_arithmetic
from bnas_larq.benchmark.inference import inference_times
from bnas_larq.benchmark.profiling import profile_steps
from bnas_larq.benchmark.timing import StepLoop, machine, matmul_rates, peak_memory
from bnas_larq.data import (
    Augmentation,
    ImageDataset,
    bilevel_pipeline,
    load_dataset,
    training_pipeline,
)
from bnas_larq.determinism import make_deterministic
from bnas_larq.errors import BnasLarqError, DataError
from bnas_larq.genotype import Genotype
from bnas_larq.networks.base_config import BaseConfig
from bnas_larq.networks.fast_training import fast_training
from bnas_larq.networks.network import build_network
from bnas_larq.precision import choose_precision
from bnas_larq.spaces import SearchSpace
from bnas_larq.supernet.super_net import SuperNet
from bnas_larq.train_settings import StageSettings, TrainSettings
from bnas_larq.training.accumulation import accumulated
from bnas_larq.training.trainer import DropPathSchedule, make_accuracy, make_loss, make_optimizer

#: Steps of an epoch, for schedules; no measured step depends on it.
STEPS_PER_EPOCH = 1000
DTYPES = ("float32", "bfloat16")
#: Not a data set: one batch of noise, repeated.
SYNTHETIC = "synthetic"
SYNTHETIC_CLASSES = 10
#: What CIFAR networks are trained with, so that pipelines are measured at their real work.
AUGMENTATION = Augmentation(crop_padding=4, flip=True)


@dataclasses.dataclass(frozen=True)
class Feed:
    """Batches for a step: of a data set, or (`data` is None) of noise, named `"synthetic"`. The
    shape is (height, width, channels)."""

    name: str
    input_shape: tuple[int, int, int]
    num_classes: int
    data: ImageDataset | None = None

    @classmethod
    def open(cls, name: str, data_dir: str | None, image_size: tuple[int, int]) -> Feed:
        """Load a data set as `bnas_larq.data.load_dataset` does, with images of this size;
        DataError if it cannot be read, or a folder is given for data that have none."""
        if name == SYNTHETIC:
            if data_dir is not None:
                raise DataError(
                    "Noise is not read from a folder. "
                    f"Received: {name!r} with a data folder. Name a TFDS data set, or `folder`."
                )
            return cls(name, (*image_size, 3), SYNTHETIC_CLASSES)
        data = load_dataset(name, data_dir=data_dir, image_size=image_size)
        return cls(name, data.image_shape, data.num_classes, data)

    def batches(self, batch_size: int) -> tf.data.Dataset:
        """Endless (images, labels), as training reads them."""
        if self.data is None:
            return self._noise(batch_size, lambda batch: batch)
        return self._pipeline(self.data.train, batch_size, 0).dataset()

    def bilevel_batches(self, batch_size: int) -> tf.data.Dataset:
        """Endless ((images, labels), (images, labels)) of both halves, as a search reads them."""
        if self.data is None:
            return self._noise(batch_size, lambda batch: (batch, batch))
        halves = enumerate(self.data.search_halves(0))
        return bilevel_pipeline(
            *(self._pipeline(half, batch_size, seed) for seed, half in halves)
        ).dataset()

    def _pipeline(self, examples: Any, batch_size: int, seed: int) -> Any:
        return training_pipeline(
            examples,
            batch_size=batch_size,
            seed=seed,
            normalization=self.data.normalization(),
            augmentation=AUGMENTATION,
        )

    def _noise(self, batch_size: int, arrange: Callable[[tuple], tuple]) -> tf.data.Dataset:
        random = np.random.RandomState(0)
        images = random.normal(size=(batch_size, *self.input_shape)).astype(np.float32)
        labels = random.randint(self.num_classes, size=batch_size).astype(np.int64)
        batch = (tf.constant(images), tf.constant(labels))
        return tf.data.Dataset.from_tensors(arrange(batch)).cache().repeat()


@dataclasses.dataclass(frozen=True)
class Measuring:
    """Settings of a measurement.

    Attributes:
        batch_size: examples of a batch; in a search, of each half's batch.
        mixed_precision: `"float32"`, `"bfloat16"` or `"auto"`.
        steps: number of timed steps after the first.
        profile: also record where their time goes.
    """

    batch_size: int = 64
    mixed_precision: str = "float32"
    steps: int = 5
    profile: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.steps < 1:
            raise BnasLarqError(
                "A measurement needs at least one example and one step after the first. "
                f"Received: batch_size={self.batch_size}, steps={self.steps}."
            )


@dataclasses.dataclass(frozen=True)
class _CompiledModel:
    """A compiled model, whose weights and optimizers' weights are built, the names of its
    optimizers, what to call before each step, the context in which it trains, and what measures its
    other passes after the steps."""

    model: keras.Model
    optimizers: tuple[str, ...]
    before_step: Callable[[], None] | None = None
    training: contextlib.AbstractContextManager = contextlib.nullcontext()
    inference: Callable[[StepLoop], dict[str, float]] | None = None


def search_step(
    space: SearchSpace, feed: Feed, measuring: Measuring, *, cells: int, channels: int
) -> dict[str, Any]:
    """Measure the bilevel step of a supernet with the papers' optimizers; see `_measure`.
    BnasLarqError: impossible sizes, an unknown precision or too few data."""
    size = {"cells": cells, "channels": channels}

    def build(precision: str) -> _CompiledModel:
        supernet = SuperNet(
            space, feed.num_classes, **size, input_shape=feed.input_shape, mixed_precision=precision
        )
        supernet.compile()
        supernet.optimizer.build(supernet.network_variables)
        supernet.alpha_optimizer.build(supernet.alphas)
        return _CompiledModel(supernet, (supernet.optimizer.name, supernet.alpha_optimizer.name))

    return _measure(
        "search-step",
        {"space": space.name, **size, "size": f"{cells} cells of {channels} channels"},
        bilevel_arithmetic(space, feed.num_classes, **size, input_shape=feed.input_shape),
        build,
        feed.bilevel_batches(measuring.batch_size),
        feed,
        measuring,
    )


def train_step(
    genotype: Genotype | None,
    config: BaseConfig,
    feed: Feed,
    measuring: Measuring,
    name: str = "",
    train: StageSettings | None = None,
) -> dict[str, Any]:
    """Measure the training step of a final network, which the user calls `name`, with the loss,
    optimizer, drop-path and parts of a batch of `train`, by default those of recipes, and without a
    teacher; see `_measure`. The config has the feed's input shape and classes. BnasLarqError,
    GenotypeError: impossible sizes, unequal parts, an unknown precision or too few data."""
    train = train or TrainSettings()
    if measuring.batch_size % train.accumulate:
        raise BnasLarqError(
            "A batch divides into equal parts. Received: batch size "
            f"{measuring.batch_size} with train.accumulate {train.accumulate}. Use a multiple."
        )

    def build(precision: str) -> _CompiledModel:
        model = build_network(genotype, config, drop_path=train.drop_path > 0)
        model.compile(
            optimizer=make_optimizer(train, STEPS_PER_EPOCH, model),
            loss=make_loss(train, config.num_classes),
            metrics=[make_accuracy(train)],
        )
        model.optimizer.build(model.trainable_variables)
        schedule = DropPathSchedule(train.drop_path, train.epochs * STEPS_PER_EPOCH)
        schedule.set_model(model)
        schedule.on_train_begin()
        return _CompiledModel(
            model,
            (model.optimizer.name,),
            lambda: schedule.on_train_batch_begin(0),
            in_parts(model, precision),
            lambda loop: inference_times(model, loop, measuring.steps),
        )

    @contextlib.contextmanager
    def in_parts(model: keras.Model, precision: str) -> Iterator[None]:
        with fast_training(model, precision), accumulated(model, train.accumulate):
            yield

    return _measure(
        "train-step",
        {
            "target": name or (genotype.id if genotype else config.model_name),
            "genotype": genotype and genotype.id,
            "cells": getattr(config, "cells", None),
            "channels": getattr(config, "channels", None),
            "size": config.size,
            "stem": config.stem,
            "drop_path": train.drop_path > 0,
            **({"accumulate": train.accumulate} if train.accumulate > 1 else {}),
        },
        training_arithmetic(genotype, config),
        build,
        feed.batches(measuring.batch_size),
        feed,
        measuring,
    )


def _measure(
    name: str,
    settings: dict[str, Any],
    arithmetic: StepArithmetic,
    build: Callable[[str], _CompiledModel],
    batches: Any,
    feed: Feed,
    measuring: Measuring,
) -> dict[str, Any]:
    """Measure matrix products and steps in this process.

    Returns:
        For JSON, in seconds, bytes and FLOP/s:
        `matmul`: rate by type, the better of before and after the steps, as the pace of a shared
        machine changes. `floor_seconds`: `arithmetic` at the rate of the step's type; `floors`: at
        those of all.
        `step`, `ratio`: the steps after the first, and how many floors they last. `first_step`:
        from building the model to the first step's results, in parts, without loading TensorFlow
        and the data. `memory`: of the whole process. `waiting`: share of the loop's time spent
        waiting for data. `inference`, of final networks: of a batch, with the floor of the forward
        pass in float32.
    """
    choice = choose_precision(measuring.mixed_precision)
    rates = matmul_rates(*DTYPES)
    if rates[choice.name] is None:
        raise BnasLarqError(
            "A floor needs the rate of matrix products of the step's type. "
            f"Received: {choice.name}, which TensorFlow cannot multiply here. Use float32."
        )
    make_deterministic(0)  # as every search and training does
    before = peak_memory()

    start = time.perf_counter()
    compiled = build(choice.name)
    built = time.perf_counter() - start
    loop = StepLoop(compiled.model, batches, compiled.before_step)
    with compiled.training:
        timing = loop.run(measuring.steps)
        peak = max(before, peak_memory())
        inference = compiled.inference and compiled.inference(loop)
    later = matmul_rates(*DTYPES)
    rates = {dtype: rate and max(rate, later[dtype] or 0.0) for dtype, rate in rates.items()}
    floors = {
        dtype: rate and arithmetic.floor(measuring.batch_size, rate)
        for dtype, rate in rates.items()
    }
    floor = floors[choice.name]

    record = {
        "benchmark": name,
        "settings": {
            **settings,
            "batch_size": measuring.batch_size,
            "mixed_precision": measuring.mixed_precision,
            "data": feed.name,
            "input_shape": list(feed.input_shape),
            "num_classes": feed.num_classes,
            "steps": measuring.steps,
        },
        "precision": dataclasses.asdict(choice),
        "machine": machine(),
        "matmul": rates,
        "arithmetic": arithmetic.to_dict(measuring.batch_size),
        "floor_seconds": floor,
        "floors": floors,
        "step": {
            "median_seconds": timing.median,
            "best_seconds": timing.best,
            "seconds": list(timing.steps),
        },
        "ratio": {"median": timing.median / floor, "best": timing.best / floor},
        "first_step": {
            "build_seconds": built,
            "trace_seconds": timing.trace,
            "compile_and_run_seconds": timing.first_step,
            # An estimate: by how much the first step exceeds the others.
            "compile_seconds": max(0.0, timing.first_step - timing.median),
            "total_seconds": built + timing.trace + timing.first_step,
        },
        "memory": {"before_bytes": before, "peak_bytes": peak},
        "waiting": {
            "share": timing.waiting,
            "seconds": list(timing.waits),
            "first_batch_seconds": timing.first_batch,
        },
    }
    if inference:
        forward = arithmetic.passes["forward"]
        floor = StepArithmetic({"forward": forward}).floor(measuring.batch_size, rates["float32"])
        record["inference"] = {**inference, "floor_seconds": floor}
    if measuring.profile:
        record["profile"] = profile_steps(loop.again, compiled.optimizers)
    return record
