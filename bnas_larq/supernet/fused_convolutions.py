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

import dataclasses
from collections.abc import Callable, Hashable, Sequence

import numpy as np

from bnas_larq.backend import keras, lq, tf, with_gradient
from bnas_larq.layers.batch_norm import PlainBatchNormalization
from bnas_larq.layers.binary_convolution import has_dilated_gradients, scaled
from bnas_larq.layers.convolutions import SymmetricQuantConv2D
from bnas_larq.supernet.binary_kernels import BinaryConvolution, BinaryMixer
from bnas_larq.supernet.edge_channels import joined, picked, placed, spread, sum_of_products


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

    def evaluate():
        output, kept = forward(inputs, weights, kernels, statistics)

        def gradient(upstream):
            found = backward(upstream, inputs, weights, kernels, kept, statistics)
            dinputs, dweights, dkernels = found
            return [dinputs, dweights, *dkernels]

        return output, gradient

    return with_gradient("BinaryMixture", evaluate, [inputs, weights, *kernels])


def _signs_and_scale(kernel: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The parts of a binary kernel: ±1 [h, w, in, out], and one value from 0 up for each output
    channel; where that is 0, so are the signs."""
    return tf.sign(kernel), tf.reduce_max(tf.abs(kernel), axis=[0, 1, 2])


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
            terms.append(placed(term, entry.live, self.edges))
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
            dfactors.append(sum_of_products(gradient, output))
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
        """Gradients of the mixture weights [edges, operations] from the sums, over batch and
        positions, of upstream gradient times output: one for each output channel, for each
        convolution."""
        if not dfactors:
            return tf.zeros_like(weights)
        parts = [
            placed(dfactor, entry.live, self.edges)
            for entry, dfactor in zip(self.convolutions, dfactors, strict=True)
        ]
        sums = tf.reduce_sum(tf.reshape(tf.stack(parts), [len(parts), self.edges, -1]), axis=2)
        found = tf.matmul(sums, self._columns(self.convolutions, weights), transpose_a=True)
        # Outputs that hold the weight are divided by it. A softmax may underflow to 0, where its
        # own gradient is 0 too.
        return tf.math.divide_no_nan(found, weights) if self.positive else found

    @staticmethod
    def _columns(entries: Sequence[Entry], weights: tf.Tensor) -> np.ndarray:
        """Which column of the weights is whose, [entries, operations] of 0 and 1."""
        return np.eye(weights.shape[1], dtype=np.float32)[[entry.column for entry in entries]]

    def _pooled(self, reads, weights) -> tf.Tensor:
        """Σ over inputs that pass to all edges, as one 1×1 convolution to edges·C channels.

        Its kernel is the weights times the identity: each channel goes to each edge's place.
        """
        values = joined([reads[entry.source] for entry in self.pools])
        channels = values.shape[-1] // len(self.pools)
        columns = tf.matmul(self._columns(self.pools, weights), weights, transpose_b=True)
        mask = np.zeros((len(self.pools), self.edges), np.float32)
        for row, entry in zip(mask, self.pools, strict=True):
            row[list(entry.live)] = 1.0
        if not mask.all():
            columns *= mask
        columns = tf.reshape(columns, [len(self.pools), 1, self.edges, 1])
        kernel = columns * np.eye(channels, dtype=np.float32)[None, :, None, :]
        kernel = tf.reshape(kernel, [1, 1, values.shape[-1], self.edges * channels])
        return tf.nn.conv2d(values, tf.cast(kernel, self.dtype), 1, "VALID")


def _sum(terms: Sequence[tf.Tensor]) -> tf.Tensor:
    return tf.add_n(terms) if len(terms) > 1 else terms[0]


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
