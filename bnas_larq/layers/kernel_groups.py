"""Binary kernels quantised in groups: one by one, the hundred small kernels of a network need
thousands of operations."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

from bnas_larq.backend import keras, lq, tf
from bnas_larq.layers.merging import joined
from bnas_larq.strategies import OfReplica

#: ±scale [h, w, in, out], through which gradients go, and for a kernel with a projection loss its
#: distance, see `PCNNProjection.latest`.
QuantisedKernel = tuple[tf.Tensor, tf.Tensor | None]
Convolution = lq.layers.QuantConv2D


def grouped(
    layers: Iterable[Convolution],
    settings_of: Callable[[keras.layers.Layer], Hashable],
    known: Sequence[type],
) -> list[list[Convolution]]:
    """Layers whose kernels can be quantised as one: of equal shape but for the output channels,
    with equal quantizers of `known` types, which treat each output channel by itself."""
    groups: dict[Hashable, list[Convolution]] = {}
    for layer in layers:
        quantizer = layer.kernel_quantizer
        # Variables belong to one kernel, and a user's quantizer may mix output channels.
        alone = quantizer.weights or type(quantizer) not in known
        settings = id(layer) if alone else settings_of(quantizer)
        groups.setdefault((settings, *layer.kernel.shape[:-1]), []).append(layer)
    return [*groups.values()]


def quantised(layers: Sequence[Convolution]) -> list[QuantisedKernel]:
    """The binary kernels of a group."""
    latents = [tf.convert_to_tensor(layer.kernel) for layer in layers]
    value = layers[0].kernel_quantizer(joined(latents))
    if len(layers) == 1:
        return [(value, getattr(layers[0].kernel_quantizer, "latest", None))]
    parts = tf.split(value, [latent.shape[-1] for latent in latents], axis=-1)
    return [(part, None) for part in parts]


def settings_of(layer: keras.layers.Layer) -> tuple:
    """Type and arguments of a layer or quantizer, its parts' included, without names."""
    config = json.dumps(_without_names(layer.get_config()), sort_keys=True, default=str)
    return type(layer), config


def _without_names(config):
    if isinstance(config, dict):
        return {key: _without_names(value) for key, value in config.items() if key != "name"}
    if isinstance(config, list | tuple):
        return [_without_names(value) for value in config]
    return config


class StepKernels:
    """The binary kernels of a network's convolutions, quantised once in a training step.

    Args:
        layers: convolutions whose quantizers treat each output channel by itself.
    """

    def __init__(self, layers: Sequence[Convolution]) -> None:
        known = {type(layer.kernel_quantizer) for layer in layers}
        self._groups = {
            id(layer): group for group in grouped(layers, settings_of, known) for layer in group
        }
        self._kernels: OfReplica = OfReplica(None)

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Inside, the first layer of a group to ask quantises all of it; a tape that is to see the
        kernels must be recording by then."""
        self._kernels.value = {}
        try:
            yield
        finally:
            self._kernels.value = None

    def of(self, layer: Convolution) -> tf.Tensor | None:
        """The layer's kernel, ±scale [h, w, in, out]; None outside a step."""
        known: dict[int, tf.Tensor] | None = self._kernels.value
        if known is None:
            return None
        if id(layer) not in known:
            group = self._groups[id(layer)]
            kernels = (kernel for kernel, _ in quantised(group))
            known.update(zip(map(id, group), kernels, strict=True))
        return known[id(layer)]
