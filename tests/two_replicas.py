"""Trains and searches on one device and on two replicas, logical CPUs of a process of its own, and
prints how far apart the weights are: `python two_replicas.py FOLDER`, for test_strategies.py.

BatchNorm's statistics are those of a replica's part of a batch. Where both runs are to be equal,
it is frozen, so that no example depends on others.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import numpy as np

from bnas_larq.backend import keras, tf
from bnas_larq.checkpoints import Checkpoints
from bnas_larq.data import (
    Augmentation,
    EvaluationPipeline,
    Normalization,
    bilevel_pipeline,
    training_pipeline,
)
from bnas_larq.data.examples import InMemoryExamples
from bnas_larq.determinism import make_deterministic
from bnas_larq.fitting.resume import resumable_fit
from bnas_larq.genotype import Genotype
from bnas_larq.layers.bayesian import BayesianFeatureLoss
from bnas_larq.layers.margin_head import CenterLoss
from bnas_larq.networks.network import build_network
from bnas_larq.networks.optimizers import CoupledAdam, CoupledSGD, latent_kernels
from bnas_larq.search.calibrated_path import CalibratedAccuracy
from bnas_larq.search.searcher import SearchData
from bnas_larq.search.single_path import SinglePath
from bnas_larq.spaces import SearchSpace
from bnas_larq.strategies import make_strategy, scope_of
from bnas_larq.supernet import alpha_gradients, relaxations
from bnas_larq.supernet.fixed_choices import FixedPath
from bnas_larq.supernet.path_training import DrawPaths, PathTraining
from bnas_larq.supernet.search_cell import PartialChannels
from bnas_larq.supernet.super_net import SuperNet
from bnas_larq.supernet.temperature_schedule import TemperatureSchedule
from bnas_larq.teacher_settings import TeacherSettings
from bnas_larq.train_settings import TrainSettings
from bnas_larq.training.teachers import Teacher
from bnas_larq.training.trainer import train_network

# Before anything is computed.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

#: Of networks; all other settings are of the training.
OPTIONS = ("scheme", "activation_gradient")
CELL = [[("bin_conv_3x3", 0), ("max_pool_3x3", 1)]]
DECAY = {"binary": 0.01, "kernels": 0.1, "batch_norm": 0.0, "head": 0.3, "other": 0.0}
BATCH = 8
SPACE = SearchSpace("small", *[("none", "max_pool_3x3", "bin_conv_3x3", "identity")] * 2, nodes=1)
HEAT = TemperatureSchedule(5.0, 1.0, epochs=2)
NORM = Normalization((0.5,) * 3, (0.25,) * 3)


def examples(count, seed):
    generator = np.random.default_rng(seed)
    labels = generator.integers(2, size=count)
    images = generator.uniform(0, 80, (count, 8, 8, 3)) + 100 * labels[:, None, None, None]
    return InMemoryExamples(images.astype(np.uint8), labels)


DATA = examples(53, 0), examples(43, 1)
#: Three equal parts of 7 for each replica; the uneven ones have parts of 5 and 6.
HELD_OUT, UNEVEN = (EvaluationPipeline(DATA[1].subset(np.arange(n)), 14, NORM) for n in (42, 43))


def pipeline(part, **settings):
    settings |= {"normalization": NORM, "augmentation": Augmentation(crop_padding=1)}
    few = DATA[part].subset(np.arange(20))
    return training_pipeline(few, batch_size=BATCH, seed=3, num_classes=2, **settings)


def with_statistics(model, frozen):
    """Weights as after training; BatchNorm frozen or not."""
    generator = np.random.default_rng(1)
    for layer in model.submodules:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = not frozen
            layer.moving_mean.assign(generator.normal(0, 0.3, layer.moving_mean.shape))
            layer.moving_variance.assign(generator.uniform(0.5, 1.5, layer.moving_mean.shape))
    return model


def check_learning(model):
    """Assert that pixels vary and that every binary kernel has a gradient: what does not learn is
    equal on any devices. Not for searches, whose paths may leave kernels out."""
    images, *_ = next(iter(pipeline(0).dataset(0)))
    assert 0.5 < np.std(images) < 2.0, f"normalised pixels with a deviation of {np.std(images)}"
    kernels = latent_kernels(model)
    with tf.GradientTape() as tape:
        outputs = model(images, training=False)
    for kernel, gradient in zip(kernels, tape.gradient(outputs, kernels), strict=True):
        assert np.any(gradient), f"no gradient of {kernel.name}"


def result(model):
    """Weights by name; of moving averages that of all replicas."""
    return {f"{number} {w.name}": w.numpy() for number, w in enumerate(model.weights)}


def trained(strategy, folder, frozen=True, epochs=None, attention=0.0, **settings):
    """The weights of a network of one cell, and the metrics of its last epoch."""
    options = {key: settings.pop(key) for key in OPTIONS if key in settings}
    plain = {"epochs": 2, "batch_size": BATCH, "learning_rate": 0.05, "drop_path": 0.0}
    settings = TrainSettings(**{**plain, "mixed_precision": "float32", **settings})
    keras.backend.clear_session()
    make_deterministic(1)
    with scope_of(strategy):
        size = {"input_shape": (8, 8, 3), "num_classes": 2, "channels": 4, "cells": 1}
        size |= {"drop_path": settings.drop_path > 0}
        model = build_network(Genotype(CELL, CELL), **size, **options)
        with_statistics(model, frozen)
        if strategy is None:
            check_learning(model)
        teacher = None
        if attention:
            known = build_network(
                Genotype(CELL, CELL), **{**size, "channels": 6, "drop_path": False}
            )
            known.trainable = False
            teacher = Teacher(known, TeacherSettings(model="unnamed", attention=attention))
        batches = pipeline(0, mixup=settings.mixup)
        train_network(
            model,
            settings,
            batches.dataset,
            batches.steps_per_epoch,
            validation_data=HELD_OUT if teacher else UNEVEN,
            folder=folder,
            seed=1,
            teacher=teacher,
            until=epochs,
        )
        return result(model), last_line(folder)


def searched(strategy, folder, frozen=True, epochs=2, order=1, start=0, relaxation=None, **options):
    """The weights and α of a supernet of two cells, and the metrics of its last epoch."""
    keras.backend.clear_session()
    make_deterministic(1)
    gradient = {1: alpha_gradients.FirstOrder, 2: alpha_gradients.SecondOrder}
    gradient["single-level"] = alpha_gradients.SingleLevel
    batches = bilevel_pipeline(pipeline(0), pipeline(1))
    with scope_of(strategy):
        options |= {"relaxation": relaxation and relaxation(), "input_shape": (8, 8, 3)}
        supernet = SuperNet(SPACE, 2, cells=2, channels=4, **options)
        with_statistics(supernet, frozen)
        supernet.compile(
            CoupledSGD(0.05, momentum=0.9, l2=1e-3, clip_norm=0.5),
            CoupledAdam(3e-3, beta_1=0.5, l2=1e-3),
            alpha_gradient=gradient[order](),
            alpha_start_epoch=start,
        )
        resumable_fit(
            supernet,
            batches.dataset,
            steps_per_epoch=batches.steps_per_epoch,
            epochs=epochs,
            checkpoints=Checkpoints(folder / "checkpoints"),
            log=folder / "metrics.jsonl",
            optimizers={
                "optimizer": (supernet.optimizer, supernet.network_variables),
                "alpha_optimizer": (supernet.alpha_optimizer, supernet.architecture_variables),
            },
            validation_data=HELD_OUT,
        )
        return result(supernet), last_line(folder)


def centred(strategy, folder, layer, epochs=1):
    """The centres, of each replica, that a layer has after a batch."""
    strategy = strategy or tf.distribute.get_strategy()
    generator = np.random.default_rng(1)
    features, labels = generator.normal(size=(BATCH, 2)).astype(np.float32), np.arange(BATCH) % 3
    with strategy.scope():
        made = layer(3)
        made.build([(None, 2), (None,)])

    @tf.function
    def step(*batch):
        strategy.run(lambda *part: made(part, training=True), batch)

    batches = tf.data.Dataset.from_tensors((features, labels)).unbatch().batch(BATCH)
    for batch in strategy.experimental_distribute_dataset(batches):
        step(*batch)
    (centres,) = made.non_trainable_weights
    copies = strategy.experimental_local_results(centres)
    return {"centres": np.stack([copy.numpy() for copy in copies])}, {}


def path_trained(strategy, folder, epochs, searcher):
    """The weights of a supernet that trained drawn paths, or as a bandit one; the metrics of its
    steps, and the accuracies of paths."""
    keras.backend.clear_session()
    make_deterministic(1)
    path, batches = FixedPath(), pipeline(0)
    data = SearchData(batches, None, credit=HELD_OUT.dataset(), validation=None)
    with scope_of(strategy):
        supernet = SuperNet(SPACE, 2, cells=2, channels=4, relaxation=path, input_shape=(8, 8, 3))
        with_statistics(supernet, frozen=True)
        supernet.compile(CoupledSGD(0.5, momentum=0.9, l2=1e-3))
        supernet.build_optimizers()
        steps = batches.steps_per_epoch
        if searcher == "one-shot":
            resumable_fit(
                PathTraining(supernet),
                batches.dataset,
                steps_per_epoch=steps,
                epochs=epochs,
                checkpoints=Checkpoints(folder / "checkpoints"),
                log=folder / "metrics.jsonl",
                optimizers={"optimizer": (supernet.optimizer, supernet.network_variables)},
                callbacks=[DrawPaths(path, partial(Genotype.random, SPACE), steps)],
            )
        else:
            path.assign_genotype(Genotype.random(SPACE, 0), SPACE)
    if searcher == "one-shot":
        measured, metrics = CalibratedAccuracy(supernet, data, strategy), last_line(folder)
    else:
        measured = SinglePath(supernet, data, 40, strategy)
        measured.start(0)
        metrics = measured.train(epochs * steps)
    weights = result(supernet)
    # A path is measured with statistics of its own, on one device.
    with_statistics(supernet, frozen=False)
    for number in range(3):
        path.assign_genotype(Genotype.random(SPACE, number), SPACE)
        metrics[f"path {number}"] = measured.accuracy()
    return weights, metrics


def last_line(folder):
    row = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    return {key: value for key, value in row.items() if key != "seconds"}


def distance(one, other):
    return max(float(np.abs(one[key] - other[key]).max()) for key in one)


TRAININGS = {
    "one-cycle SGD": {"schedule": "one-cycle", "weight_decay": 1e-3},
    "drop-path": {"drop_path": 0.5},
    "mixup, smoothed labels, clipping, decay by kind": {
        **{"mixup": 0.2, "label_smoothing": 0.1, "clip_norm": 0.05, "weight_decay": DECAY},
    },
    "Adam, slower binary kernels": {"optimizer": "adam", "binary_multiplier": 0.5},
    "teacher": {"attention": 1.0, "label_smoothing": 0.1},
    "projection loss": {"scheme": "pcnn"},
    "Bayesian losses": {"scheme": "bonn"},
    "annealed signs": {"activation_gradient": "annealed"},
    "learnt scales": {"scheme": "real-to-binary"},
    # The weights do not move: the statistics are those of whole batches.
    "estimated statistics": {
        **{"frozen": False, "learning_rate": 1e-12, "weight_decay": 0.0},
        **{"reestimate_batch_norm": 2, "epochs": None},
    },
}
SEARCHES = {
    "first order, α from epoch 1": {"start": 1, "epochs": 2},
    "second order": {"order": 2},
    "single level, concrete": {
        "order": "single-level",
        "relaxation": partial(relaxations.Concrete, HEAT),
    },
    "drawn paths, edge weights": {
        "relaxation": partial(relaxations.GumbelHard, HEAT),
        "edge_normalization": True,
    },
    "partial channels": {"channel_sampling": PartialChannels(2)},
    "projection losses": {"scheme": "pcnn"},
}
PATHS = {f"paths of a {name} search": {"searcher": name} for name in ("one-shot", "bandit")}
CENTRES = {
    "centre loss": {"layer": CenterLoss},
    "Bayesian feature loss": {"layer": BayesianFeatureLoss},
}


def compared(work, strategy, folder, settings):
    """How far weights and metrics of two replicas are from those of one device, after one epoch of
    two steps: later, rounding may turn the sign of a value near 0."""
    settings = {"epochs": 1, **settings}
    one, metrics = work(None, folder / "one", **settings)
    two, of_two = work(strategy, folder / "two", **settings)
    # In training each replica normalises its own part.
    same = [key for key in metrics if settings.get("frozen", True) or key.startswith("val_")]
    differences = [abs(metrics[key] - of_two[key]) for key in same]
    return {"weights": distance(one, two), "metrics": max(differences, default=0.0)}


def resumed(work, strategy, folder):
    """Two epochs at once and with an end between them, BatchNorm not frozen."""
    whole, metrics = work(strategy, folder / "whole", frozen=False)
    begin, _ = work(strategy, folder / "parts", epochs=1, frozen=False)
    again, of_again = work(strategy, folder / "parts", frozen=False)
    same = metrics == of_again
    return {"weights": distance(whole, again), "metrics": same, "moved": distance(begin, whole)}


def main(folder, *wanted):
    """Print the figures of all cases that are compared, or of those wanted, one JSON line each;
    those of resumed runs only if they are wanted."""
    strategy = make_strategy("mirrored")
    print(json.dumps(["replicas", strategy.num_replicas_in_sync]), flush=True)
    works = (trained, TRAININGS), (searched, SEARCHES), (path_trained, PATHS), (centred, CENTRES)
    for work, cases in works:
        for number, (name, settings) in enumerate(cases.items()):
            if not wanted or name in wanted:
                figures = compared(work, strategy, folder / work.__name__ / str(number), settings)
                print(json.dumps([name, figures]), flush=True)
        name = f"{work.__name__}, resumed"
        if name in wanted:
            figures = resumed(work, strategy, folder / work.__name__)
            print(json.dumps([name, figures]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
