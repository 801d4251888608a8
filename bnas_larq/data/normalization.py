"""Per-channel normalisation, saved with every network."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from bnas_larq.backend import tf
from bnas_larq.data.examples import Examples, data_errors, first_permuted
from bnas_larq.errors import DataError


@dataclasses.dataclass(frozen=True)
class Normalization:
    """`(image / 255 - mean) / std` per channel.

    Args:
        mean: three means of images scaled to [0, 1].
        std: three standard deviations, each above 0.
    """

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        for field in ("mean", "std"):
            object.__setattr__(self, field, tuple(float(value) for value in getattr(self, field)))
        numbers = np.array([*self.mean, *self.std])
        if numbers.shape != (6,) or not np.isfinite(numbers).all() or min(self.std) <= 0:
            raise DataError(
                "A normalisation needs three finite means and three standard deviations above 0. "
                f"Received: mean {self.mean}, std {self.std}. Omit it to have it measured."
            )

    def apply(self, images: tf.Tensor) -> tf.Tensor:
        """Normalise images [..., 3] with values 0 to 255 (uint8 or float); returns float32."""
        scale = np.float32(1.0) / (np.float32(255.0) * np.asarray(self.std, np.float32))
        shift = np.asarray(self.mean, np.float32) / np.asarray(self.std, np.float32)
        images = tf.cast(images, tf.float32)
        if (images.shape.rank or 0) > 1 and images.shape[-2]:
            # Broadcasting whole rows gives the same numbers four times faster than three channels.
            scale, shift = (np.tile(part, (images.shape[-2], 1)) for part in (scale, shift))
        return images * scale - shift

    def to_dict(self) -> dict[str, list[float]]:
        """A dictionary for JSON; the inverse of `from_dict`."""
        return {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Normalization:
        """The inverse of `to_dict`; DataError for missing keys or other than three numbers."""
        try:
            return cls(mean=tuple(values["mean"]), std=tuple(values["std"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                "A normalisation needs `mean` and `std` with three numbers each. "
                f"Received: {values!r}. Take it from the run's network.json."
            ) from error

    @classmethod
    def measure(cls, examples: Examples, sample: int | None = None) -> Normalization:
        """Mean and standard deviation of `sample` examples drawn evenly; of all when None.

        Computed from histograms: exact, and independent of the batch size.
        """
        examples = examples.subset(first_permuted(examples.num_examples, sample, seed=0))
        counts = np.zeros((3, 256), np.int64)
        with data_errors():
            for images, _, _ in examples.batches(512):
                pixels = images.numpy()
                for channel in range(3):
                    counts[channel] += np.bincount(pixels[..., channel].ravel(), minlength=256)
        share = counts / counts.sum(axis=1, keepdims=True)
        values = np.arange(256) / 255.0
        mean = share @ values
        variance = (share * (values - mean[:, None]) ** 2).sum(axis=1)
        # A constant channel is divided by 1, which keeps it at 0.
        std = np.where(variance > 1e-12, np.sqrt(variance), 1.0)
        return cls(mean=tuple(mean.tolist()), std=tuple(std.tolist()))
