"""In which type binary convolutions are computed while training: float32, or bfloat16 where it
pays.

The operands ±1 are exact in bfloat16, which some CPUs and GPUs multiply at twice the rate. It is a
way of execution, no part of a network: weights, files, evaluation and export know nothing of it.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

from bnas_larq.backend import tf
from bnas_larq.errors import BnasLarqError, RunError, nearest, one_line
from bnas_larq.files import read_json, write_json

#: What recipes and models take. `auto` measures, see `choose_precision`.
PRECISIONS = ("float32", "bfloat16", "auto")

#: `auto` takes bfloat16 if convolutions need at most this share of float32's time: what else a
#: step does stays float32, so that a small gain would not be felt.
PAYS_BELOW = 0.8


def check_precision(name: str) -> None:
    """Raise BnasLarqError unless `name` is one of `PRECISIONS`."""
    if name not in PRECISIONS:
        raise BnasLarqError(
            "The precision of training is 'float32', 'bfloat16' or 'auto'. "
            f"Received: {name!r}; {nearest(str(name), PRECISIONS)}"
        )


@dataclasses.dataclass(frozen=True)
class PrecisionChoice:
    """What a training computes its binary convolutions in, and why.

    Attributes:
        name: `"float32"` or `"bfloat16"`.
        reason: one clause for people; after a measurement with the measured rates.
    """

    name: str
    reason: str


def choose_precision(name: str) -> PrecisionChoice:
    """Resolve a precision: `auto` measures this machine (below a second), others stay.

    `auto` times a matrix product and a 3×3 convolution with both its gradients in both types on the
    device TensorFlow would choose, and takes bfloat16 if the convolution needs at most 0.8 times
    float32's time. The outcome depends on the machine and its load: whoever promises equal bits
    records it.

    Raises:
        BnasLarqError: an unknown name.
    """
    check_precision(name)
    if name != "auto":
        return PrecisionChoice(name, "as asked for")
    try:
        products = {dtype: matmul_rate(dtype, 1024, 3) for dtype in ("float32", "bfloat16")}
        convolutions = {dtype: convolution_rate(dtype) for dtype in products}
    except tf.errors.OpError as error:
        return PrecisionChoice("float32", f"bfloat16 cannot be measured here ({one_line(error)})")
    return _choice(products, convolutions)


def _choice(products: dict[str, float], convolutions: dict[str, float]) -> PrecisionChoice:
    """The choice from FLOP/s by type."""
    pays = convolutions["float32"] <= PAYS_BELOW * convolutions["bfloat16"]
    measured = "; ".join(
        f"{what} {rates['bfloat16'] / 1e9:.0f} GFLOP/s against {rates['float32'] / 1e9:.0f}"
        for what, rates in (("convolutions", convolutions), ("matrix products", products))
    )
    verb = "pays" if pays else "does not pay"
    return PrecisionChoice(
        "bfloat16" if pays else "float32",
        f"bfloat16 {verb} on this machine: {measured} in float32",
    )


def matmul_rate(dtype: str | tf.DType, size: int = 2048, repeats: int = 5) -> float:
    """FLOP/s of a square matrix product, the best of `repeats`.

    Args:
        dtype: of both factors and the product, such as `"bfloat16"`.
        size: rows and columns.

    Raises:
        tf.errors.OpError: there is no such kernel, or too little memory.
    """
    a, b = _signs([size, size], dtype, 0), _signs([size, size], dtype, 1)

    @tf.function(autograph=False)
    def product():
        return tf.matmul(a, b)[0, 0]

    return 2 * size**3 / _best_time(product, repeats)


def convolution_rate(
    dtype: str | tf.DType,
    *,
    batch: int = 64,
    size: int = 16,
    channels: int = 32,
    filters: int = 64,
    kernel_size: int = 3,
    repeats: int = 3,
) -> float:
    """FLOP/s of a convolution of ±1 together with both its gradients, the best of `repeats`.

    The casts from and to float32 that a training step needs are part of the time.

    Args:
        dtype: what is multiplied in.
        batch, size, channels: the input is [batch, size, size, channels].
        filters, kernel_size: the kernel is [kernel_size, kernel_size, channels, filters].

    Raises:
        tf.errors.OpError: there is no such kernel, or too little memory.
    """
    images = _signs([batch, size, size, channels], "float32", 0)
    kernel = _signs([kernel_size, kernel_size, channels, filters], "float32", 1)
    upstream = _signs([batch, size, size, filters], "float32", 2)

    @tf.function(autograph=False)
    def step():
        with tf.GradientTape() as tape:
            tape.watch((images, kernel))
            low = tf.cast(images, dtype), tf.cast(kernel, dtype)
            outputs = tf.cast(tf.nn.conv2d(*low, 1, "SAME"), tf.float32)
        gradients = tape.gradient(outputs, (images, kernel), upstream)
        return sum(tf.reshape(tensor, [-1])[0] for tensor in (outputs, *gradients))

    passes = 3  # forward, gradient of the images, gradient of the kernel
    macs = batch * size**2 * filters * kernel_size**2 * channels
    return passes * 2 * macs / _best_time(step, repeats)


def _signs(shape: list[int], dtype: str | tf.DType, seed: int) -> tf.Tensor:
    """Random ±1. Stateless, so that measuring leaves all random streams of a run where they are."""
    draw = tf.random.stateless_uniform(shape, [seed, 0])
    return tf.cast(tf.where(draw < 0.5, -1.0, 1.0), dtype)


def _best_time(function: Callable[[], tf.Tensor], repeats: int) -> float:
    """Shortest seconds of a call, after a first one that traces; waits for the result's value."""
    function().numpy()
    times = []
    for _ in range(max(1, repeats)):
        start = time.perf_counter()
        function().numpy()
        times.append(time.perf_counter() - start)
    return max(min(times), 1e-9)


RECORD = "precision.json"


def recorded_precision(folder: Path, asked: str) -> PrecisionChoice:
    """What a stage computes its binary convolutions in.

    `auto` depends on the machine and on what else it does, so that it is measured once: the choice
    stands in the folder's precision.json from then on, also on another machine. What is asked for
    by name needs no record; the recipe is one.

    Args:
        folder: of the stage, inside the run folder.
        asked: one of `bnas_larq.precision.PRECISIONS`.

    Raises:
        BnasLarqError: an unknown precision.
        RunError: the record is damaged, or cannot be written.
    """
    path = Path(folder) / RECORD
    if asked != "auto":
        return choose_precision(asked)
    if path.exists():
        return _read(path)
    choice = choose_precision(asked)
    write_json(path, dataclasses.asdict(choice))
    return choice


def _read(path: Path) -> PrecisionChoice:
    record = read_json(path)
    if not (
        isinstance(record, dict)
        and record.get("name") in ("float32", "bfloat16")
        and isinstance(record.get("reason"), str)
    ):
        raise RunError(
            "A run goes on in the precision it began with. "
            f"Received: {path}, which does not name one. "
            "Restore the file, or start a new run."
        )
    return PrecisionChoice(record["name"], record["reason"])
