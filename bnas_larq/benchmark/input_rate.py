"""The rate at which a data set's pictures become augmented training batches, without a network."""

from __future__ import annotations

import time
from typing import Any

from bnas_larq.benchmark.timing import machine, peak_memory
from bnas_larq.data import Augmentation, Normalization, load_dataset, training_pipeline
from bnas_larq.data.geometry import CENTER_CROP
from bnas_larq.determinism import make_deterministic
from bnas_larq.errors import BnasLarqError

#: All that BNAS does to ImageNet's pictures (arXiv 2002.06963).
AUGMENTATION = Augmentation(random_resized_crop=True, flip=True, color_jitter=(0.4, 0.4, 0.4, 0.2))


def input_rate(
    name: str, data_dir: str | None, image_size: tuple[int, int], batch_size: int, batches: int
) -> dict[str, Any]:
    """Read batches of the training part of a data set, which `load_dataset` finds by name and
    folder, with `AUGMENTATION`, as fast as the machine can.

    Returns:
        For JSON: `images_per_second` after the first batch, `cpu_seconds_per_image` of all cores
        (steady where other programs share them), seconds of opening the data set and of the first
        batch, and bytes of the whole process before and at its peak.

    Raises:
        DataError: as of `load_dataset` and `training_pipeline`.
        BnasLarqError: no batch after the first.
    """
    if batches < 1:
        raise BnasLarqError(
            f"A rate needs one or more batches after the first. Received: {batches}. Use 10."
        )
    make_deterministic(0)
    start = time.perf_counter()
    data = load_dataset(
        name,
        data_dir=data_dir,
        image_size=image_size,
        evaluation=CENTER_CROP,
        validation_fraction=0.0,
        memory_limit_mb=1,  # the pictures of a data set like ImageNet stay on disk
        keep_originals=True,
    )
    opened = time.perf_counter() - start
    pipeline = training_pipeline(
        data.train,
        batch_size=batch_size,
        seed=0,
        normalization=Normalization(),
        augmentation=AUGMENTATION,
    )
    before = peak_memory()
    start = time.perf_counter()
    stream = iter(pipeline.dataset())
    next(stream)
    first = time.perf_counter() - start
    start, used = time.perf_counter(), time.process_time()
    for _ in range(batches):
        next(stream)
    seconds, used = time.perf_counter() - start, time.process_time() - used
    images = batches * batch_size
    return {
        "benchmark": "input",
        "settings": {
            "data": name,
            "images": data.train.num_examples,
            "image_size": list(image_size),
            "batch_size": batch_size,
            "batches": batches,
            "augmentation": AUGMENTATION.to_dict(),
        },
        "machine": machine(),
        "images_per_second": images / seconds,
        "cpu_seconds_per_image": used / images,
        "open_seconds": opened,
        "first_batch_seconds": first,
        "memory": {"before_bytes": before, "peak_bytes": max(before, peak_memory())},
    }


def input_text(record: dict[str, Any]) -> str:
    """A measurement in a few lines."""
    settings, memory = record["settings"], record["memory"]
    side = "×".join(map(str, settings["image_size"]))
    return (
        f"input: {record['images_per_second']:.0f} images a second ({settings['data']}, "
        f"{settings['images']:,} pictures, {side}, batches of {settings['batch_size']})\n"
        f"  {1000 * record['cpu_seconds_per_image']:.2f} ms of a core for each image; "
        f"{record['machine']['cores']} cores, {record['machine']['cpu']}\n"
        f"  opened in {record['open_seconds']:.1f} s, first batch after "
        f"{record['first_batch_seconds']:.1f} s, memory {memory['peak_bytes'] / 1e6:.0f} MB "
        f"({memory['before_bytes'] / 1e6:.0f} MB before)"
    )
