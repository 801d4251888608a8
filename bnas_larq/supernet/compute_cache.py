"""What the cells of a supernet share while it computes: traced functions and quantised kernels.

Tracing and quantising would otherwise be repeated for each of some two hundred convolutions, in
each half of a step. `BinaryConvolution` says which layers take this fast path.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Hashable, Iterable, Iterator

from bnas_larq.backend import keras, lq, tf
from bnas_larq.layers.activations import is_relu
from bnas_larq.layers.binary_convolution import only_convolves
from bnas_larq.layers.convolutions import SymmetricQuantConv2D
from bnas_larq.layers.kernel_groups import QuantisedKernel, grouped, quantised, settings_of
from bnas_larq.layers.operations import Chain
from bnas_larq.layers.projection import PCNNProjection
from bnas_larq.layers.quantizers import SignScale
from bnas_larq.layers.traced import traced_by_shape
from bnas_larq.strategies import OfReplica
from bnas_larq.supernet.residual_tail import ResidualTail

#: Kernel quantizers whose values are ±scale, one scale for each output channel.
_SIGNS = (
    SignScale,
    PCNNProjection,
    lq.quantizers.SteSign,
    lq.quantizers.ApproxSign,
    lq.quantizers.SwishSign,
    lq.quantizers.MagnitudeAwareSign,
)


@dataclasses.dataclass(frozen=True)
class BinaryConvolution:
    """A convolution that the supernet evaluates as signs times a scale.

    Attributes:
        layer: without bias, activation and input quantizer; its kernel quantizer gives ±scale.
        relu: whether ReLU follows.
        tail: what follows in a residual candidate, else None.
    """

    layer: lq.layers.QuantConv2D
    relu: bool
    tail: ResidualTail | None = None

    @property
    def settings(self) -> tuple:
        """Everything but the kernel that the outputs depend on."""
        layer = self.layer
        own = layer.kernel_size, layer.strides, layer.dilation_rate, layer.padding
        return type(layer), *own, self.relu, self.tail and self.tail.settings

    @classmethod
    def of(cls, layers: Chain) -> tuple[int, BinaryConvolution] | None:
        """(number of layers before it, the convolution) if `layers` end in one, else None; a plain
        ReLU or a residual tail may follow it."""
        relu = bool(layers) and is_relu(layers[-1])
        tail = ResidualTail.of(layers)
        index = len(layers) - 1 - relu - 3 * (tail is not None)
        if index < 0 or not _is_binary_convolution(layers[index]):
            return None
        return index, cls(layers[index], relu, tail)


def _is_binary_convolution(layer: keras.layers.Layer) -> bool:
    return (
        type(layer) in (lq.layers.QuantConv2D, SymmetricQuantConv2D)
        # Not every 1-bit quantizer gives ±scale: `SteHeaviside` gives 0 and 1, `NoOp` anything.
        and isinstance(layer.kernel_quantizer, _SIGNS)
        and layer.input_quantizer is None
        and not layer.use_bias
        and only_convolves(layer)
    )


class ComputeCache:
    """The compute type of a supernet (`float32`, or `bfloat16`, in which ±1 is exact), its traced
    functions, and its kernels, quantised once."""

    def __init__(self, dtype: str = "float32") -> None:
        self.dtype = tf.as_dtype(dtype)
        self._functions: dict = {}
        self._kernels: OfReplica = OfReplica({})
        self._settings: dict[keras.layers.Layer, tuple] = {}

    def traced(self, key: Hashable, make: Callable[[], Callable], inline: bool = True) -> Callable:
        """The traced function called `key`, made on the first call; equal keys must mean equal
        functions of the arguments."""
        if key not in self._functions:
            self._functions[key] = traced_by_shape(make(), inline)
        return self._functions[key]

    def settings_of(self, layer: keras.layers.Layer) -> tuple:
        """As `kernel_groups.settings_of`, once for each layer."""
        if layer not in self._settings:
            self._settings[layer] = settings_of(layer)
        return self._settings[layer]

    def kernel_of(self, convolution: BinaryConvolution) -> tf.Tensor:
        """The layer's binary kernel, ±scale [h, w, in, out], with one scale from 0 up for each
        output channel: that of `shared_kernels`, or quantised anew."""
        layer = convolution.layer
        shared: dict[int, QuantisedKernel] = self._kernels.value
        if id(layer) not in shared:
            return quantised([layer])[0][0]
        kernel, distance = shared[id(layer)]
        if distance is not None:
            # A pass that is over may have quantised it since.
            layer.kernel_quantizer.latest = distance
        return kernel

    @contextlib.contextmanager
    def shared_kernels(self, convolutions: Iterable[BinaryConvolution]) -> Iterator[None]:
        """Inside, each of these kernels is quantised once, on entry: a tape that is to see it must
        be recording by then. A nested context replaces this one; without convolutions, every
        evaluation quantises anew."""
        layers = [convolution.layer for convolution in convolutions]
        kernels = {}
        for group in grouped(layers, self.settings_of, _SIGNS):
            kernels.update(zip(map(id, group), quantised(group), strict=True))
        before, self._kernels.value = self._kernels.value, kernels
        try:
            yield
        finally:
            self._kernels.value = before
