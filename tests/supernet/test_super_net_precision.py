"""A search in bfloat16 follows the search in float32: 200 steps on real images, α compared."""

from __future__ import annotations

import os

import numpy as np
import pytest
from sklearn.datasets import load_digits

from bnas_larq.backend import keras, tf
from bnas_larq.spaces import SearchSpace
from bnas_larq.supernet.super_net import SuperNet

STEPS = 200

pytestmark = pytest.mark.skipif(
    "BNAS_LARQ_STUDIES" not in os.environ,
    reason="three searches take two minutes: set BNAS_LARQ_STUDIES=1 (docs/search-speed.md has "
    "the result)",
)


def trajectory(precision: str, seed: int = 0) -> np.ndarray:
    """α behind every 20th of 200 steps, [10, 2·14·7]."""
    keras.utils.set_random_seed(seed)
    digits = load_digits()
    images = np.repeat(digits.images[..., None].astype("float32") / 8.0 - 1.0, 3, axis=-1)
    half = len(images) // 2
    data = [
        tf.data.Dataset.from_tensor_slices((images[part], digits.target[part]))
        .repeat()
        .batch(32, drop_remainder=True)
        for part in (slice(0, half), slice(half, None))
    ]
    net = SuperNet(
        SearchSpace.bnas(),
        10,
        cells=3,
        channels=4,
        mixed_precision=precision,
        input_shape=(8, 8, 3),
    )
    # The published rate, 3e-4, would hardly move α in 200 steps.
    net.compile(alpha_optimizer=keras.optimizers.Adam(3e-3, beta_1=0.5))
    rows = []
    record = keras.callbacks.LambdaCallback(
        on_batch_end=lambda batch, logs: (batch + 1) % 20
        or rows.append(np.concatenate([alpha.numpy().ravel() for alpha in net.alphas]))
    )
    net.fit(tf.data.Dataset.zip(tuple(data)), steps_per_epoch=STEPS, verbose=0, callbacks=[record])
    return np.array(rows)


def test_bfloat16_follows_float32():
    """Rounding makes two searches drift apart, as two seeds do, but far less."""
    exact, rounded, other = trajectory("float32"), trajectory("bfloat16"), trajectory("float32", 1)
    assert len(exact) == len(rounded) == STEPS // 20
    moved = np.linalg.norm(exact[-1] - exact[0])
    distance = np.linalg.norm(rounded[-1] - exact[-1])
    by_seed = np.linalg.norm(other[-1] - exact[-1])
    direction = [
        float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        for a, b in zip(exact, rounded, strict=True)
    ]
    print(f"moved {moved:.3f}, bfloat16 apart {distance:.3f}, seeds apart {by_seed:.3f}")
    print("cosine every 20 steps:", " ".join(f"{value:.3f}" for value in direction))
    assert distance < by_seed
    assert min(direction) > 0.5
