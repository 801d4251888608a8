"""What the candidates of a state read: what short chains of layers without trained weights make of
it, such as the sign of its BatchNorm, and each pool."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from bnas_larq.backend import keras, tf
from bnas_larq.layers.batch_norm import PlainBatchNormalization

Layer = keras.layers.Layer


def normalises(layer: Layer) -> bool:
    """Whether it is a BatchNorm without scale and offset."""
    return type(layer) is PlainBatchNormalization


class Prefixes:
    """Chains of layers that read one tensor, as a function that like states can share.

    Args:
        chains: of layers without weights and of BatchNorms without scale and offset. Layers that
            begin several of them are evaluated once.
        training: whether BatchNorm takes the statistics of its input.

    Attributes:
        statistics: (moving mean, moving variance) of each BatchNorm, which calls take, so that
            those of another state can stand for them.
    """

    def __init__(self, chains: Sequence[Sequence[Layer]], training: bool) -> None:
        self.chains, self.training = chains, training
        self.norms = list(dict.fromkeys(x for chain in chains for x in chain if normalises(x)))
        self.statistics = [(norm.moving_mean, norm.moving_variance) for norm in self.norms]

    def key(self, settings_of: Callable[[Layer], Hashable]) -> Hashable:
        """Equal for equal functions of input and statistics, if `settings_of` is for equal layers
        that have no weights."""
        order = {norm: number for number, norm in enumerate(self.norms)}
        chains = tuple(
            tuple(order[x] if x in order else settings_of(x) for x in chain)
            for chain in self.chains
        )
        norms = tuple((norm.epsilon, norm.momentum, norm.trainable) for norm in self.norms)
        return self.training, norms, chains

    def __call__(
        self, inputs: tf.Tensor, statistics: Sequence[tuple], moving: bool = True
    ) -> list[tf.Tensor]:
        """The chains' outputs.

        Args:
            inputs: [batch, height, width, channels], float32.
            statistics: in the order of the attribute.
            moving: whether training moves them.
        """
        of_norm = dict(zip(self.norms, statistics, strict=True))
        known: dict[tuple[Layer, ...], tf.Tensor] = {(): inputs}
        for chain in self.chains:
            for end in range(1, len(chain) + 1):
                part, layer = tuple(chain[:end]), chain[end - 1]
                if part in known:
                    continue
                before = known[part[:-1]]
                if layer in of_norm:
                    moved = of_norm[layer]
                    known[part] = layer.normalise(before, *moved, self.training, moving)
                else:
                    known[part] = layer(before)
        return [known[tuple(chain)] for chain in self.chains]
