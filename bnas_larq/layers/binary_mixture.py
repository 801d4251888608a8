"""Binary convolutions of a mixed cell, each with its scale, ReLU and mixture weight, at full speed.

A binary kernel is its signs times one scale per output channel. Here the signs are convolved, and
the scale multiplies the result: sums of ±1 are exact in float32, so that a sum that is zero in
mathematics is zero here, whatever the order of addition, and ReLU's gradient there is 0. (With the
scale inside the sum such zeros become ±1e-9, and every tenth ReLU follows the rounding.)

What costs little next to a convolution is arranged so that it costs nothing:

- Scale and ReLU are written as an inference BatchNorm and a ReLU, which TensorFlow's remapper
  makes part of the convolution (oneDNN; elsewhere they are what they say).
- Positive mixture weights are multiplied into that scale: ReLU is positively homogeneous.
- The backward pass masks the upstream gradient with the output's sign and leaves scale and
  weight to the kernel of the transposed convolution and to the small kernel gradient. The
  gradient of a mixture weight is a sum over positions of upstream gradient times output, with no
  need of a kernel gradient.
- Of the backward pass, TensorFlow drops what nobody asks for: kernel gradients while α moves, α's
  while the kernels do.
- What a state computes is one forward and one backward function, traced and compiled once for each
  set of shapes, not once for each cell and half of the step: both take long (`BinaryMixer`).
- What the convolutions read (BatchNorm, sign, pools) is computed again in the backward function: it
  costs less than keeping it, and the graph around holds two calls for each state.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from bnas_larq.backend import keras, lq, tf, unrecorded
from bnas_larq.layers.binary import has_dilated_gradients, scaled, traced_by_shape
from bnas_larq.layers.convolutions import SymmetricQuantConv2D
from bnas_larq.layers.prefixes import Prefixes
from bnas_larq.layers.projection import PCNNProjection
from bnas_larq.layers.quantizers import SignScale


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


@dataclasses.dataclass(frozen=True)
class Entry:
    """One candidate of a state, in a call of `mix`.

    Attributes:
        source: which of the call's prefixes it reads.
        column: its column of the weights.
        live: the edges it is computed for, their rows of the weights, ascending.
        convolution: what is applied to the input; None passes what is read to every edge.
    """

    source: int
    column: int
    live: tuple[int, ...]
    convolution: BinaryConvolution | None = None


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
    value = layers[0].kernel_quantizer(_joined(latents))
    if len(layers) == 1:
        return [_Shared(value, getattr(layers[0].kernel_quantizer, "latest", None))]
    parts = tf.split(value, [latent.shape[-1] for latent in latents], axis=-1)
    return [_Shared(part, None) for part in parts]


def _joined(kernels: Sequence[tf.Tensor]) -> tf.Tensor:
    """Kernels side by side along their output channels."""
    return tf.concat(kernels, axis=-1) if len(kernels) > 1 else kernels[0]


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


def mix(
    inputs: tf.Tensor,
    prefixes: Prefixes,
    entries: Sequence[Entry],
    kernels: Sequence[tf.Tensor],
    weights: tf.Tensor,
    positive: bool,
    dtype: tf.DType,
    mixer: BinaryMixer | None = None,
) -> tf.Tensor:
    """Weighted outputs of some candidates that leave one state.

    It has first derivatives only: those of its gradient would lack terms.

    Args:
        inputs: the state, [batch, height, width, channels], float32.
        prefixes: make of it what the candidates read: ±1 for convolutions.
        entries: the candidates.
        kernels: the convolutions' binary kernels, in the entries' order; their output channels are
            those of the live edges.
        weights: mixture weights [edges, operations].
        positive: whether all weights of the entries are above 0.
        dtype: what is convolved in.
        mixer: holds the traced functions; None inside one of them.

    Returns:
        What the candidates add to each edge, one after the other along the channels: float32,
        [batch, height', width', edges·channels].
    """
    evaluation = _Evaluation(prefixes, tuple(entries), weights.shape[0], positive, dtype)
    forward, backward = evaluation.forward, evaluation.backward
    if mixer is not None:
        # Each is compiled once: a graph with all their copies would take long.
        key = evaluation.key(mixer.settings_of)
        forward = mixer.traced((key, "forward"), lambda: evaluation.forward, inline=False)
        backward = mixer.traced((key, "backward"), lambda: evaluation.backward, inline=False)

    statistics = prefixes.statistics
    if not prefixes.training:
        # A pass in training may move them before the gradient of this one is asked for.
        statistics = [tuple(map(tf.convert_to_tensor, pair)) for pair in statistics]

    @tf.custom_gradient
    def evaluate(inputs, weights, *kernels):
        with unrecorded():
            output, kept = forward(inputs, weights, kernels, statistics)

        def grad(upstream):
            found = backward(upstream, inputs, weights, kernels, kept, statistics)
            dinputs, dweights, dkernels = found
            return [dinputs, dweights, *dkernels]

        return output, grad

    return evaluate(inputs, weights, *kernels)


def _signs_and_scale(kernel: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The parts of a binary kernel: ±1 [h, w, in, out], and one value from 0 up for each output
    channel."""
    return tf.where(kernel >= 0, 1.0, -1.0), tf.reduce_max(tf.abs(kernel), axis=[0, 1, 2])


@dataclasses.dataclass(frozen=True)
class _Evaluation:
    """The two functions that are traced, for the settings of one call."""

    prefixes: Prefixes
    entries: tuple[Entry, ...]
    edges: int
    positive: bool
    dtype: tf.DType

    def key(self, settings_of: Callable[[keras.layers.Layer], Hashable]) -> tuple:
        """Equal for equal functions, see `Prefixes.key`."""
        entries = tuple(
            (
                entry.source,
                entry.column,
                entry.live,
                entry.convolution and entry.convolution.settings,
            )
            for entry in self.entries
        )
        return self.prefixes.key(settings_of), entries, self.edges, self.positive, self.dtype

    @property
    def convolutions(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.convolution is not None]

    @property
    def pools(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.convolution is None]

    def forward(self, inputs, weights, kernels, statistics):
        """(the sum, the convolutions' outputs, which the backward pass needs)"""
        reads = [tf.cast(x, self.dtype) for x in self.prefixes(inputs, statistics)]
        factors = self._factors(weights, kernels)
        terms, kept = [], []
        for entry, kernel, factor in zip(self.convolutions, kernels, factors, strict=True):
            convolution = entry.convolution
            sign, scale = _signs_and_scale(kernel)
            sums = _convolve(convolution.layer, reads[entry.source], tf.cast(sign, self.dtype))
            inside = scale * factor if self.positive else scale
            output = scaled(sums, inside)
            output = tf.nn.relu(output) if convolution.relu else output
            kept.append(output)
            term = output if self.positive else output * tf.cast(factor, self.dtype)
            terms.append(_placed(term, entry.live, self.edges))
        if self.pools:
            terms.append(self._pooled(reads, weights))
        return tf.cast(_sum(terms), tf.float32), kept

    def backward(self, upstream, inputs, weights, kernels, kept, statistics):
        """Gradients of inputs, weights and kernels."""
        # What was read costs less to compute again than to keep, and has its gradient here.
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            found = self.prefixes(inputs, statistics, moving=False)
            reads = [tf.cast(x, self.dtype) for x in found]
        upstream = tf.cast(upstream, self.dtype)
        dreads: list[list[tf.Tensor]] = [[] for _ in reads]
        dkernels, dfactors = [], []
        factors = self._factors(weights, kernels)
        for entry, kernel, factor, output in zip(
            self.convolutions, kernels, factors, kept, strict=True
        ):
            masked = gradient = picked(upstream, entry.live, self.edges)
            if entry.convolution.relu:
                masked = tf.raw_ops.ReluGrad(gradients=gradient, features=output)
            read, scaled = reads[entry.source], tf.cast(kernel * factor, self.dtype)
            # The convolution's output is not used, only its two gradients, so it is not computed.
            with tf.GradientTape() as inner:
                inner.watch((read, scaled))
                sums = _convolve(entry.convolution.layer, read, scaled)
            dread, dscaled = inner.gradient(sums, (read, scaled), masked)
            dreads[entry.source].append(dread)
            dkernels.append(tf.cast(dscaled, kernel.dtype) * factor)
            total = _sum_of_products(gradient, output)
            # A softmax may underflow to 0, where its own gradient is 0 too.
            dfactors.append(tf.math.divide_no_nan(total, factor) if self.positive else total)
        dweights = self._weight_gradients(dfactors, weights)
        if self.pools:
            with tf.GradientTape() as inner:
                places = sorted({entry.source for entry in self.pools})
                sources = [reads[place] for place in places]
                inner.watch((sources, weights))
                pooled = self._pooled(reads, weights)
            dsources, dweight = inner.gradient(pooled, (sources, weights), upstream)
            dweights += dweight
            for place, dsource in zip(places, dsources, strict=True):
                dreads[place].append(dsource)
        dinputs = tape.gradient(reads, inputs, [_sum(terms) for terms in dreads])
        return dinputs, dweights, dkernels

    def _factors(self, weights: tf.Tensor, kernels: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """For each convolution the weight of each of its output channels."""
        if not kernels:
            return []
        channels = kernels[0].shape[-1] // len(self.convolutions[0].live)
        columns = tf.unstack(spread(weights, channels), axis=1)
        return [
            picked(columns[entry.column], entry.live, self.edges) for entry in self.convolutions
        ]

    def _weight_gradients(self, dfactors: Sequence[tf.Tensor], weights: tf.Tensor) -> tf.Tensor:
        """Gradients of the output channels' weights as those of the weights [edges, operations]."""
        columns = [tf.zeros([self.edges])] * weights.shape[1]
        for entry, dfactor in zip(self.convolutions, dfactors, strict=True):
            every = _placed(dfactor, entry.live, self.edges)
            columns[entry.column] = tf.reduce_sum(tf.reshape(every, [self.edges, -1]), axis=1)
        return tf.stack(columns, axis=1)

    def _pooled(self, reads, weights) -> tf.Tensor:
        """Σ over inputs that pass to all edges, as one 1×1 convolution to edges·C channels.

        Its kernel is the weights times the identity: each channel goes to each edge's place.
        """
        values = tf.concat([reads[entry.source] for entry in self.pools], axis=-1)
        channels = values.shape[-1] // len(self.pools)
        mask = np.zeros((len(self.pools), self.edges), np.float32)
        for row, entry in zip(mask, self.pools, strict=True):
            row[list(entry.live)] = 1.0
        columns = tf.unstack(weights, axis=1)
        columns = tf.stack([columns[entry.column] for entry in self.pools]) * mask
        kernel = columns[:, None, :, None] * np.eye(channels, dtype=np.float32)[None, :, None, :]
        kernel = tf.reshape(kernel, [1, 1, values.shape[-1], self.edges * channels])
        return tf.nn.conv2d(values, tf.cast(kernel, self.dtype), 1, "VALID")


def _sum(terms: Sequence[tf.Tensor]) -> tf.Tensor:
    return tf.add_n(terms) if len(terms) > 1 else terms[0]


def _placed(values: tf.Tensor, live: Sequence[int], edges: int) -> tf.Tensor:
    """Outputs of the live edges, with zeros at the places of the others."""
    if len(live) == edges:
        return values
    parts = dict(zip(live, tf.split(values, len(live), axis=-1), strict=True))
    nothing = tf.zeros_like(parts[live[0]])
    return tf.concat([parts.get(edge, nothing) for edge in range(edges)], axis=-1)


def picked(values: tf.Tensor, live: Sequence[int], edges: int) -> tf.Tensor:
    """The channels of the live edges: the transpose of `_placed`."""
    if len(live) == edges:
        return values
    parts = tf.split(values, edges, axis=-1)
    return tf.concat([parts[edge] for edge in live], axis=-1)


def _convolve(layer: lq.layers.QuantConv2D, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """The layer's convolution with another kernel."""
    padding = layer.padding.upper()
    if isinstance(layer, SymmetricQuantConv2D):
        rows, columns = layer._paddings(inputs.shape[1:3])
        inputs = tf.pad(inputs, [[0, 0], rows, columns, [0, 0]])
    place = {"strides": layer.strides, "padding": padding, "dilations": layer.dilation_rate}
    if max(layer.dilation_rate) > 1 and not has_dilated_gradients():
        # The form that cuts out sub-images has gradients everywhere.
        return tf.nn.convolution(inputs, kernel, **place)
    return tf.nn.conv2d(inputs, kernel, **place)


def spread(values: tf.Tensor, times: int) -> tf.Tensor:
    """Each row [edges, …] for all channels of its edge, [edges·times, …].

    As `tf.repeat`, which makes a graph of 30 nodes out of it.
    """
    shape = values.shape[1:]
    tiled = tf.tile(tf.expand_dims(values, 1), [1, times, *[1] * len(shape)])
    return tf.reshape(tiled, [-1, *shape])


def weighted(values: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """values [batch, height, width, channels] · weights [channels]."""

    @tf.custom_gradient
    def multiply(values, weights):
        def grad(upstream):
            dvalues = upstream * tf.cast(weights, upstream.dtype)
            return dvalues, _sum_of_products(upstream, values)

        return values * tf.cast(weights, values.dtype), grad

    return multiply(values, weights)


def _sum_of_products(one: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    """Σ one·other over batch and positions, [channels]: the filter gradient of a 1×1 depthwise
    convolution, which reads both once.
    """
    channels = one.shape[-1]
    total = tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(
        input=other,
        filter_sizes=[1, 1, channels, 1],
        out_backprop=one,
        strides=[1, 1, 1, 1],
        padding="VALID",
    )
    return tf.cast(tf.reshape(total, [channels]), tf.float32)
