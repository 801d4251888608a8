"""Partial channels: only a part of a state's channels passes through the candidates."""

from __future__ import annotations

import dataclasses

from bnas_larq.backend import tf
from bnas_larq.errors import BnasLarqError


@dataclasses.dataclass(frozen=True)
class PartialChannels:
    """1/proportion of the channels goes through the candidates, the rest bypasses them.

    The bypassing channels are joined to the node behind the mixed ones, and the channels are
    shuffled, so that others are mixed in the next node. Source: PC-DARTS, arXiv 1907.05737, §3.1.

    Args:
        proportion: S; the mixed channels are the first 1/S. 1 mixes all channels.

    Raises:
        BnasLarqError: a proportion below 1.
    """

    proportion: int = 4

    def __post_init__(self) -> None:
        if self.proportion < 1:
            raise BnasLarqError(
                "Partial channels need a whole proportion of at least 1 (1 mixes all channels). "
                f"Received: {self.proportion}. PC-DARTS uses 4."
            )

    def mixed_filters(self, filters: int) -> int:
        """How many of a node's channels the candidates see.

        Raises:
            BnasLarqError: the channels cannot be cut so, or less than two would be left to mix.
        """
        if filters % self.proportion or filters // self.proportion < 2:
            raise BnasLarqError(
                "Partial channels cut a node's channels into equal parts of at least two (a binary "
                f"kernel is centred over its input channels). Received: {filters} channels, "
                f"proportion {self.proportion}. Use channels that are a multiple of it, "
                f"{2 * self.proportion} or more."
            )
        return filters // self.proportion

    def split(self, state: tf.Tensor, strides: int) -> tuple[tf.Tensor, tf.Tensor]:
        """(channels to mix, bypassing channels brought to the strided shape by 2×2 max pooling)."""
        channels = state.shape[-1]
        mixed = self.mixed_filters(channels)
        # Gradients of two slices would be two padded tensors and their sum, a third of a step.
        chosen, bypass = tf.split(state, [mixed, channels - mixed], axis=-1)
        if strides > 1:
            bypass = tf.nn.max_pool2d(bypass, 2, strides, "SAME")
        return chosen, bypass

    def join(self, mixed: tf.Tensor, bypass: tf.Tensor) -> tf.Tensor:
        """A node of its mixed and its bypassing channels, shuffled over the S groups."""
        joined = tf.concat([mixed, bypass], axis=-1)
        batch = tf.shape(joined)[0]
        _, height, width, channels = joined.shape
        groups = self.proportion
        shape = [batch, height, width, groups, channels // groups]
        shuffled = tf.transpose(tf.reshape(joined, shape), [0, 1, 2, 4, 3])
        return tf.reshape(shuffled, [batch, height, width, channels])
