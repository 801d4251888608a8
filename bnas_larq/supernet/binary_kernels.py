"""The binary convolutions of a supernet: which layers count as such, and their kernels, which are
quantised once for all cells."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import NamedTuple

from bnas_larq.backend import keras, lq, tf
from bnas_larq.layers.binary_convolution import traced_by_shape
from bnas_larq.layers.convolutions import SymmetricQuantConv2D
from bnas_larq.layers.projection import PCNNProjection
from bnas_larq.layers.quantizers import SignScale
from bnas_larq.supernet.edge_channels import joined


@dataclasses.dataclass(frozen=True)
class BinaryConvolution:
    """A layer of the supernet that this module can evaluate.

    Attributes:
        layer: convolution with a kernel quantizer that gives ±scale, and nothing else.
        relu: whether ReLU follows.
    """

    layer: lq.layers.QuantConv2D
    relu: bool

    @property
    def settings(self) -> tuple:
        """Everything but the kernel that the outputs depend on."""
        layer = self.layer
        size = layer.kernel_size
        return type(layer), size, layer.strides, layer.dilation_rate, layer.padding, self.relu

    @classmethod
    def of(cls, layers: Sequence[keras.layers.Layer]) -> tuple[int, BinaryConvolution] | None:
        """(number of layers before it, the convolution) if `layers` end in one, else None.

        The end is a convolution of the kind above, with or without a plain ReLU behind it.
        """
        relu = bool(layers) and _is_plain_relu(layers[-1])
        place = len(layers) - 1 - relu
        if place < 0 or not _is_binary_convolution(layers[place]):
            return None
        return place, cls(layers[place], relu)


#: Kernel quantizers whose values are ±scale, one scale for each output channel.
_SIGNS = (
    SignScale,
    PCNNProjection,
    lq.quantizers.SteSign,
    lq.quantizers.ApproxSign,
    lq.quantizers.SwishSign,
    lq.quantizers.MagnitudeAwareSign,
)


def _is_plain_relu(layer: keras.layers.Layer) -> bool:
    return (
        type(layer) is keras.layers.ReLU
        and layer.max_value is None
        and not layer.negative_slope
        and not layer.threshold
    )


def _is_binary_convolution(layer: keras.layers.Layer) -> bool:
    return (
        type(layer) in (lq.layers.QuantConv2D, SymmetricQuantConv2D)
        # Not every 1-bit quantizer gives ±scale: `SteHeaviside` gives 0 and 1, `NoOp` anything.
        and isinstance(layer.kernel_quantizer, _SIGNS)
        and layer.data_format == "channels_last"
        and not tf.is_tensor(layer.pad_values)
        and layer.pad_values == 0.0
        and layer.input_quantizer is None
        and not layer.use_bias
        and layer.groups == 1
        and layer.activation is keras.activations.linear
    )


class _Shared(NamedTuple):
    """A binary kernel that has been quantised.

    Attributes:
        value: ±scale, [h, w, in, out]; gradients go through it.
        distance: of a kernel with a projection loss, see `PCNNProjection.latest`.
    """

    value: tf.Tensor
    distance: tf.Tensor | None


class BinaryMixer:
    """How a supernet convolves: the type, the functions its cells share, kernels quantised once.

    Args:
        dtype: what is convolved in: `float32`, or `bfloat16`, in which ±1 is exact.
    """

    def __init__(self, dtype: str = "float32") -> None:
        self.dtype = tf.as_dtype(dtype)
        self._functions: dict = {}
        self._shared: dict[int, _Shared] = {}
        self._settings: dict[keras.layers.Layer, tuple] = {}

    def traced(self, key: Hashable, make: Callable[[], Callable], inline: bool = True) -> Callable:
        """The traced function called `key`, made by the first who asks.

        Whoever gives the same key must mean the same function of its arguments.
        """
        if key not in self._functions:
            self._functions[key] = traced_by_shape(make(), inline)
        return self._functions[key]

    def settings_of(self, thing: keras.layers.Layer) -> tuple:
        """See the function of this name, which is slow; settings do not change."""
        if thing not in self._settings:
            self._settings[thing] = settings_of(thing)
        return self._settings[thing]

    def kernel_of(self, convolution: BinaryConvolution) -> tf.Tensor:
        """The layer's binary kernel, anew or the one of `shared_kernels`.

        ±scale, [h, w, in, out], one scale from 0 up for each output channel; gradients go through
        it to the latent kernel.
        """
        layer = convolution.layer
        shared = self._shared.get(id(layer))
        if shared is None:
            return _quantised([layer])[0].value
        if shared.distance is not None:
            # Others may have quantised it since, in a pass that is over.
            layer.kernel_quantizer.latest = shared.distance
        return shared.value

    @contextlib.contextmanager
    def shared_kernels(self, convolutions: Iterable[BinaryConvolution]) -> Iterator[None]:
        """Quantise kernels once for all evaluations inside the context.

        The quantizers run here: a tape that shall see them must record now. Inside, a context of
        its own takes over: one of no kernels quantises all of them anew.
        """
        groups: dict[Hashable, list[lq.layers.QuantConv2D]] = {}
        for convolution in convolutions:
            layer, quantizer = convolution.layer, convolution.layer.kernel_quantizer
            # One with variables belongs to its one kernel, and a user's may do as it likes.
            own = quantizer.weights or type(quantizer) not in _SIGNS
            alike = id(layer) if own else self.settings_of(quantizer)
            groups.setdefault((alike, *layer.kernel.shape[:-1]), []).append(layer)
        shared = {}
        for layers in groups.values():
            shared.update(zip(map(id, layers), _quantised(layers), strict=True))
        before, self._shared = self._shared, shared
        try:
            yield
        finally:
            self._shared = before


def _quantised(layers: Sequence[lq.layers.QuantConv2D]) -> list[_Shared]:
    """The binary kernels of some layers whose quantizers and kernels are alike but for the number
    of output channels.

    What the quantizers do to one output channel does not depend on the others, so they are all
    quantised as one kernel: a supernet has two hundred.
    """
    latents = [tf.convert_to_tensor(layer.kernel) for layer in layers]
    value = layers[0].kernel_quantizer(joined(latents))
    if len(layers) == 1:
        return [_Shared(value, getattr(layers[0].kernel_quantizer, "latest", None))]
    parts = tf.split(value, [latent.shape[-1] for latent in latents], axis=-1)
    return [_Shared(part, None) for part in parts]


def settings_of(thing: keras.layers.Layer) -> tuple:
    """Type and arguments of a layer or quantizer, without names: its own and those of its parts."""
    config = _without_names(thing.get_config())
    return type(thing), json.dumps(config, sort_keys=True, default=str)


def _without_names(config):
    if isinstance(config, dict):
        return {key: _without_names(value) for key, value in config.items() if key != "name"}
    if isinstance(config, list | tuple):
        return [_without_names(value) for value in config]
    return config
