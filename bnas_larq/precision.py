"""The type in which networks are computed during training: float32, or bfloat16 where it pays.

The operands ±1 are exact in bfloat16, which some CPUs and GPUs multiply several times as fast. What
stands between convolutions, and the operands of those that are not binary, is rounded to 8 bits.
Weights, BatchNorm's statistics, losses and optimizers, and all of evaluation and export, stay
float32: the type changes how a network is trained, not the network.
"""

from __future__ import annotations

import dataclasses
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pydantic

from bnas_larq.backend import tf
from bnas_larq.errors import BnasLarqError, RunError, nearest, one_line
from bnas_larq.files import write_json
from bnas_larq.text_files import read_text

#: What recipes and models accept. `auto` measures, see `choose_precision`.
PRECISIONS = ("float32", "bfloat16", "auto")

#: `auto` takes bfloat16 if convolutions need at most this share of float32's time. A smaller gain
#: would not be noticed.
PAYS_BELOW = 0.8

RECORD = "precision.json"


def check_precision(name: str) -> None:
    """Raise BnasLarqError unless `name` is one of `PRECISIONS`."""
    if name not in PRECISIONS:
        raise BnasLarqError(
            "The precision of training is 'float32', 'bfloat16' or 'auto'. "
            f"Received: {name!r}; {nearest(str(name), PRECISIONS)}"
        )


@dataclasses.dataclass(frozen=True)
class PrecisionChoice:
    """The type that a training computes in, and the reason: one clause for people, with the rates
    if they were measured."""

    name: Literal["float32", "bfloat16"]
    reason: str


def choose_precision(name: str) -> PrecisionChoice:
    """Resolve a precision, or raise BnasLarqError: `auto` measures this machine, others stay.

    `auto` times a matrix product and a 3×3 convolution with both its gradients in both types, on
    TensorFlow's default device, in under a second. The outcome depends on the machine and its load:
    see `recorded_precision`.
    """
    check_precision(name)
    if name != "auto":
        return PrecisionChoice(name, "as asked for")
    try:
        products = {dtype: matmul_rate(dtype, 1024, 3) for dtype in ("float32", "bfloat16")}
        convolutions = {dtype: _convolution_rate(dtype) for dtype in products}
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
        "bfloat16" if pays else "float32", f"bfloat16 {verb} on this machine: {measured} in float32"
    )


def matmul_rate(dtype: str | tf.DType, size: int = 2048, repeats: int = 5) -> float:
    """FLOP/s of a product of two `size` × `size` matrices, the best of `repeats`; tf.errors.OpError
    without a kernel or enough memory.
    """
    a, b = _signs([size, size], dtype, 0), _signs([size, size], dtype, 1)

    @tf.function(autograph=False)
    def product():
        return tf.matmul(a, b)[0, 0]

    return 2 * size**3 / _best_time(product, repeats)


def _convolution_rate(dtype: str) -> float:
    """FLOP/s of a convolution of ±1 together with both its gradients, the best of three; with the
    casts from and to float32 that a training step needs."""
    batch, size, channels, filters, kernel_size = 64, 16, 32, 64, 3
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
    return passes * 2 * macs / _best_time(step, 3)


def _signs(shape: list[int], dtype: str | tf.DType, seed: int) -> tf.Tensor:
    """Random ±1. Stateless, so that measuring does not advance a run's random streams."""
    draw = tf.random.stateless_uniform(shape, [seed, 0])
    return tf.cast(tf.where(draw < 0.5, -1.0, 1.0), dtype)


def _best_time(function: Callable[[], tf.Tensor], repeats: int) -> float:
    """Shortest seconds of a call, after a first one that traces."""
    function().numpy()
    return max(min(timeit.repeat(lambda: function().numpy(), repeat=repeats, number=1)), 1e-9)


def recorded_precision(folder: Path, asked: str) -> PrecisionChoice:
    """The precision of a stage: `auto` is measured once and then read from the folder's
    precision.json, also on another machine.

    BnasLarqError for an unknown precision; RunError if the record is damaged or cannot be written.
    """
    path = Path(folder) / RECORD
    if asked != "auto" or not path.exists():
        choice = choose_precision(asked)
        if asked == "auto":
            write_json(path, dataclasses.asdict(choice))
        return choice
    try:
        return pydantic.TypeAdapter(PrecisionChoice).validate_json(read_text(path))
    except (OSError, ValueError) as error:
        raise RunError(
            f"A run continues in the precision it began with. Received: {path}, which does not "
            "name one. Restore the file, or start a new run."
        ) from error
