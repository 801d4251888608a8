"""What a recipe's training will ask of a machine, before anything is read or trained."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from bnas_larq.backend import keras, tf
from bnas_larq.benchmark.arithmetic import training_arithmetic
from bnas_larq.costs.training_memory import traced_peak
from bnas_larq.errors import BnasLarqError, RecipeError
from bnas_larq.genotype import Genotype
from bnas_larq.networks.base_config import BaseConfig
from bnas_larq.networks.fast_training import fast_training
from bnas_larq.networks.network import build_network, config_of_kind
from bnas_larq.precision import choose_precision, matmul_rate
from bnas_larq.recipe import Recipe
from bnas_larq.tables import align, duration, scientific
from bnas_larq.train_settings import TrainStage
from bnas_larq.training.recipe_training import stage_config
from bnas_larq.training.trainer import make_accuracy, make_loss, make_optimizer

#: Training images, classes and side of data sets that need not be there.
KNOWN = {
    "imagenet2012": (1_281_167, 1000, 224),
    "cifar10": (50_000, 10, 32),
    "cifar100": (50_000, 100, 32),
}
#: Classes that other data sets are taken to have.
CLASSES = 1000


class Device(NamedTuple):
    """Devices of one kind, and the FLOP/s at which each trains."""

    count: int
    name: str
    rate: float

    @classmethod
    def parse(cls, text: str) -> Device:
        """`8xA100=2e13`; BnasLarqError for other texts."""
        match = re.fullmatch(
            r"(?:([1-9]\d{0,5})x)?(?!\d+x)([^=]+)=(\d+(?:\.\d+)?(?:e\+?\d{1,2})?)", text
        )
        if match is None or not float(match[3]):
            raise BnasLarqError(
                "A device has a name and the FLOP/s at which it trains. "
                f"Received: {text!r}. Write 8xA100=2e13, for example."
            )
        return cls(int(match[1] or 1), match[2], float(match[3]))


def training_memory(
    genotype: Genotype | None, config: BaseConfig, stage: TrainStage, compute: str
) -> dict[str, int]:
    """Bytes of a training step, without TensorFlow itself and the input: `variables` (weights and
    the optimizer's), `step` (what the graph of one part of a batch holds at its peak) and
    `gradients` (summed over the parts). BnasLarqError for impossible sizes."""
    model = build_network(genotype, config, drop_path=stage.drop_path > 0)
    model.compile(
        optimizer=make_optimizer(stage, 1000, model),
        loss=make_loss(stage, config.num_classes),
        metrics=[make_accuracy(stage)],
    )
    model.optimizer.build(model.trainable_variables)
    size = stage.batch_size // stage.accumulate
    labels = tf.TensorSpec([size, config.num_classes] if stage.mixup else [size], tf.float32)
    images = tf.TensorSpec([size, *config.input_shape], tf.float32)
    with fast_training(model, compute):
        step = tf.function(lambda *batch: model.train_step(batch), autograph=False)
        peak = traced_peak(step.get_concrete_function(images, labels).graph)
    gradients = _bytes(model.trainable_variables) if stage.accumulate > 1 else 0
    variables = _bytes([*model.weights, *model.optimizer.variables])
    return {"variables": variables, "step": peak, "gradients": gradients}


def _bytes(variables: Sequence[tf.Variable]) -> int:
    return sum(variable.dtype.size * variable.shape.num_elements() for variable in variables)


def forecast(
    recipe: Recipe, devices: Sequence[Device] = (), images: int | None = None
) -> dict[str, Any]:
    """The stages of a recipe's training, and how long devices need for them.

    Args:
        recipe: whose network is known: it has a genotype, or needs none.
        devices: none for this machine at the rate of its matrix products, which no training
            reaches: see `bnas-larq benchmark train-step`.
        images: training images; None for those of a data set in `KNOWN`.

    Returns:
        For JSON: `classes`, and whether they are known (else 1,000); `stages` with epochs, steps,
        bytes of memory and FLOPs of an image; `devices` with seconds and the images a second that
        the input must deliver. Teachers are not counted.

    Raises:
        RecipeError: the network or the number of images is unknown.
        BnasLarqError: an impossible network.
    """
    if recipe.finetune or recipe.study or (recipe.has_genotype and not recipe.genotype):
        raise RecipeError(
            "A dry run is of a training whose network is known. Received: "
            f"{recipe.name}, which searches, fine-tunes or is a study. Give --genotype, such as "
            "random:0, or the recipe of one training."
        )
    count, classes, side = KNOWN.get(recipe.data.name, (None, None, None))
    count = images or count
    if recipe.data.limit is not None and count is not None:
        count = min(count, recipe.data.limit)
    if recipe.train.on == "train" and count is not None:
        count -= round(recipe.data.validation_fraction * count)
    side = recipe.data.image_size or side
    if count is None or side is None:
        raise RecipeError(
            "A dry run counts the training images and their size. Received: the data set "
            f"{recipe.data.name} with {count} images of size {side}. Give --images, and "
            "--set data.image_size=224."
        )
    height, width = (side, side) if isinstance(side, int) else side
    shape = {"input_shape": (height, width, 3), "num_classes": classes or CLASSES}
    config = config_of_kind(recipe.network.kind, {**recipe.network.model_dump(), **shape})
    genotype = Genotype.load(recipe.genotype) if recipe.has_genotype else None
    stages, computes = [], set()
    for stage in recipe.plan:
        keras.backend.clear_session()
        own = stage_config(stage, config)
        compute = choose_precision(stage.mixed_precision).name
        computes.add(compute)
        flops = training_arithmetic(genotype, own).flops(1)
        steps = stage.epochs * (count // stage.batch_size)
        stages.append(
            {
                "name": stage.name,
                "epochs": stage.epochs,
                "steps": steps,
                "images": steps * stage.batch_size,
                "parts": stage.accumulate,
                "batch_size": stage.batch_size,
                "precision": compute,
                "memory": training_memory(genotype, own, stage, compute),
                "flops_per_image": flops,
            }
        )
    if not devices:
        (compute, *_) = sorted(computes)
        devices = [Device(1, f"this machine's matrix products in {compute}", matmul_rate(compute))]
    return {
        "recipe": recipe.name,
        "data": recipe.data.name,
        "images": count,
        "input_shape": [height, width, 3],
        "classes": config.num_classes,
        "classes_known": classes is not None,
        "stages": stages,
        "devices": [_on(device, stages) for device in devices],
    }


def _on(device: Device, stages: Sequence[dict[str, Any]]) -> dict[str, Any]:
    rate = device.count * device.rate
    return {
        **device._asdict(),
        "seconds": sum(stage["images"] * stage["flops_per_image"] for stage in stages) / rate,
        "images_per_second": max(rate / stage["flops_per_image"] for stage in stages),
    }


def _time(seconds: float) -> str:
    days = seconds / 86400
    return duration(seconds) if days < 2 else f"{days:,.1f} days"


def forecast_text(record: dict[str, Any]) -> str:
    """A forecast in a few lines."""
    side = "×".join(map(str, record["input_shape"][:2]))
    rows = [("stage", "epochs", "steps", "batch", "FLOP/image", "memory")]
    for stage in record["stages"]:
        parts = f" in {stage['parts']} parts" if stage["parts"] > 1 else ""
        rows.append(
            (
                stage["name"],
                str(stage["epochs"]),
                f"{stage['steps']:,}",
                f"{stage['batch_size']}{parts}, {stage['precision']}",
                scientific(stage["flops_per_image"]),
                f"{sum(stage['memory'].values()) / 1e9:.2f} GB",
            )
        )
    times = [("device", "time", "input")]
    for device in record["devices"]:
        count = f"{device['count']} × " if device["count"] > 1 else ""
        times.append(
            (
                f"{count}{device['name']} at {scientific(device['rate'])} FLOP/s",
                _time(device["seconds"]),
                f"{device['images_per_second']:,.0f} images/s",
            )
        )
    assumed = "" if record["classes_known"] else " (assumed: those of the images are unknown)"
    lines = [
        f"{record['recipe']}: {record['images']:,} images of {record['data']}, {side}, "
        f"{record['classes']:,} classes{assumed}",
        *align(rows, 1),
        "",
        *align(times, 1),
        "",
        "Memory: weights, optimizer and activations of a step, computed; TensorFlow and the",
        "input come on top. Time: convolutions alone at the rate given. Matrix products are the",
        "machine's limit: trainings take a multiple of that time, which",
        "`bnas-larq benchmark train-step` measures.",
    ]
    return "\n".join(lines)
