"""The weighted sum of all candidates that leave one state: one forward and one backward function.

A binary kernel is its signs times one scale per output channel. Here the signs are convolved, and
the scale multiplies the result: sums of ±1 are exact in float32, so that a sum that is zero in
mathematics is zero here, whatever the order of addition, and ReLU's gradient there is 0. (With the
scale inside the sum such zeros become ±1e-9, and every tenth ReLU follows the rounding.)

All else is arranged to cost nothing next to the convolutions:

- Scale and ReLU are written as an inference BatchNorm and a ReLU, which TensorFlow's remapper
  fuses into the convolution (with oneDNN).
- Positive mixture weights are multiplied into that scale: ReLU is positively homogeneous.
- The backward pass masks the upstream gradient with the output's sign and leaves scale and
  weight to the kernel of the transposed convolution and to the small kernel gradient. The
  gradient of a mixture weight is a sum over positions of upstream gradient times output, and
  needs no kernel gradient. Residual candidates are weighted behind their BatchNorm
  (`ResidualTail`).
- TensorFlow prunes the gradients of kernels while α moves, and those of α while kernels do.
- Both functions are traced and compiled once for each set of shapes, not once for each cell and
  half of the step (`ComputeCache`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence

import numpy as np

from bnas_larq.backend import keras, lq, tf, with_gradient
from bnas_larq.layers.batch_norm import PlainBatchNormalization, moving
from bnas_larq.layers.binary_convolution import scaled
from bnas_larq.layers.convolution_kernels import (
    has_dilated_gradients,
    pixels_read,
    with_float32_sums,
)
from bnas_larq.layers.convolutions import SymmetricQuantConv2D
from bnas_larq.layers.merging import joined
from bnas_larq.strategies import own_copy
from bnas_larq.supernet.compute_cache import BinaryConvolution, ComputeCache
from bnas_larq.supernet.edge_channels import picked, placed, spread, sum_of_products
from bnas_larq.supernet.residual_tail import TailWeights

Layer = keras.layers.Layer


class InputChains:
    """What candidates read of a state (its BatchNorm and sign, its pools), as a function that
    states of equal shape share.

    The chains hold layers without weights, and BatchNorms without scale and offset. Their
    `statistics`, (moving mean, moving variance) of each, are arguments of a call, so that another
    state can give its own. What several chains begin with is computed once.
    """

    def __init__(self, chains: Sequence[Sequence[Layer]], training: bool) -> None:
        self.chains, self.training = chains, training
        layers = dict.fromkeys(layer for chain in chains for layer in chain)
        self.norms = [layer for layer in layers if type(layer) is PlainBatchNormalization]
        self.statistics = [
            (own_copy(norm.moving_mean), own_copy(norm.moving_variance)) for norm in self.norms
        ]

    def key(self, settings_of: Callable[[Layer], Hashable]) -> Hashable:
        """Equal for equal functions of input and statistics; `settings_of` compares layers."""
        order = {norm: number for number, norm in enumerate(self.norms)}
        chains = tuple(
            tuple(order[layer] if layer in order else settings_of(layer) for layer in chain)
            for chain in self.chains
        )
        norms = tuple((norm.epsilon, norm.momentum, norm.trainable) for norm in self.norms)
        return self.training, norms, chains

    def __call__(
        self, inputs: tf.Tensor, statistics: Sequence[tuple], move: bool = True
    ) -> list[tf.Tensor]:
        """The chains' outputs for inputs [batch, height, width, channels], float32. The statistics
        are in the order of the attribute; training moves them if `move`."""
        of_norm = dict(zip(self.norms, statistics, strict=True))
        outputs: dict[tuple[Layer, ...], tf.Tensor] = {(): inputs}
        for chain in self.chains:
            for end in range(1, len(chain) + 1):
                head, layer = tuple(chain[:end]), chain[end - 1]
                if head in outputs:
                    continue
                before = outputs[head[:-1]]
                if layer in of_norm:
                    own = of_norm[layer]
                    moves = moving(*own) if move else None
                    outputs[head] = layer.normalise(before, *own, self.training, moves)
                else:
                    outputs[head] = layer(before)
        return [outputs[tuple(chain)] for chain in self.chains]


@dataclasses.dataclass(frozen=True)
class FusedCandidate:
    """One candidate of a state, in a call of `fused_sum`.

    Attributes:
        source: which of the call's input chains it reads.
        column: its column of the weights.
        live: the edges it is computed for: rows of the weights, ascending.
        convolution: of what it reads; None for a pool, which is the same for every edge.
        added: which chain's output a residual convolution adds; None for others.
    """

    source: int
    column: int
    live: tuple[int, ...]
    convolution: BinaryConvolution | None = None
    added: int | None = None

    @property
    def key(self) -> tuple:
        """Equal for candidates that compute the same function."""
        settings = self.convolution and self.convolution.settings
        return self.source, self.column, self.live, settings, self.added


def fused_sum(
    inputs: tf.Tensor | list[tf.Tensor],
    chains: InputChains,
    candidates: Sequence[FusedCandidate],
    kernels: Sequence[tf.Tensor],
    tails: Sequence[TailWeights | None],
    weights: tf.Tensor,
    positive: bool,
    dtype: tf.DType,
    cache: ComputeCache | None = None,
) -> tf.Tensor:
    """Weighted outputs of candidates that leave one state.

    It has first derivatives only: a gradient of its gradient would lack terms.

    Args:
        inputs: the state, [batch, height, width, channels], float32, or what is given.
        chains: compute what the candidates read, ±1 for convolutions.
        kernels: the convolutions' binary kernels of the live edges, in the candidates' order.
        tails: for each kernel what a residual candidate's tail reads on these edges, else None.
        weights: mixture weights [edges, operations].
        positive: whether all weights of the candidates are above 0.
        dtype: what is convolved in.
        cache: holds the traced functions; None inside one of them.

    Returns:
        What the candidates add to each edge, one after the other along the channels: float32,
        [batch, height', width', edges·channels].
    """
    functions = _FusedSum(chains, tuple(candidates), weights.shape[0], positive, dtype)
    forward, backward = functions.forward, functions.backward
    if cache is not None:
        # Each is compiled once: a graph with all their copies would take long.
        key = functions.key(cache.settings_of)
        forward = cache.traced((key, "forward"), lambda: functions.forward, inline=False)
        backward = cache.traced((key, "backward"), lambda: functions.backward, inline=False)

    statistics = chains.statistics
    if not chains.training:
        # A pass in training may move them before the gradient of this one is asked for.
        statistics = [tuple(map(tf.convert_to_tensor, pair)) for pair in statistics]
    tails = [
        candidate.convolution.tail.held(tail, chains.training) if tail else None
        for candidate, tail in zip(functions.convolutions, tails, strict=True)
    ]

    def evaluate():
        output, kept = forward(inputs, weights, kernels, tails, statistics)

        def gradient(upstream):
            results = backward(upstream, inputs, weights, kernels, tails, kept, statistics)
            return tf.nest.flatten(results)

        return output, gradient

    slopes = [tail.slopes for tail in tails if tail]
    sources = tf.nest.flatten(inputs)
    return with_gradient("FusedSum", evaluate, [*sources, weights, *kernels, *slopes])


@dataclasses.dataclass(frozen=True)
class _FusedSum:
    """The two functions that are traced, for the settings of one call."""

    chains: InputChains
    candidates: tuple[FusedCandidate, ...]
    edges: int
    positive: bool
    dtype: tf.DType

    def key(self, settings_of: Callable[[Layer], Hashable]) -> tuple:
        """Equal for equal functions, see `InputChains.key`."""
        candidates = tuple(candidate.key for candidate in self.candidates)
        return self.chains.key(settings_of), candidates, self.edges, self.positive, self.dtype

    @property
    def convolutions(self) -> list[FusedCandidate]:
        return [candidate for candidate in self.candidates if candidate.convolution is not None]

    @property
    def pools(self) -> list[FusedCandidate]:
        return [candidate for candidate in self.candidates if candidate.convolution is None]

    def forward(self, inputs, weights, kernels, tails, statistics):
        """(the sum, the convolutions' outputs, which the backward pass needs)"""
        reads = [tf.cast(x, self.dtype) for x in self.chains(inputs, statistics)]
        factors = self._factors(weights, kernels)
        terms, kept = [], []
        for candidate, kernel, tail, factor in zip(
            self.convolutions, kernels, tails, factors, strict=True
        ):
            convolution = candidate.convolution
            # One scale from 0 up for each output channel; where it is 0, so are the signs.
            sign, scale = tf.sign(kernel), tf.reduce_max(tf.abs(kernel), axis=[0, 1, 2])
            sums = _convolve(convolution.layer, reads[candidate.source], tf.cast(sign, self.dtype))
            inside = scale * factor if self.positive and tail is None else scale
            output = scaled(sums, inside)
            output = tf.nn.relu(output) if convolution.relu else output
            kept.append(output)
            if tail is not None:
                added = reads[candidate.added]
                term = convolution.tail(output, added, factor, tail, self.chains.training)
            else:
                term = output if self.positive else output * tf.cast(factor, self.dtype)
            terms.append(placed(term, candidate.live, self.edges))
        if self.pools:
            terms.append(self._pooled(reads, weights))
        return tf.cast(_sum(terms), tf.float32), kept

    def backward(self, upstream, inputs, weights, kernels, tails, kept, statistics):
        """Gradients of inputs, weights, kernels and tails' slopes."""
        # What was read (BatchNorm, sign, pools) costs less to compute again than to keep, and has
        # its gradient here.
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            again = self.chains(inputs, statistics, move=False)
            reads = [tf.cast(x, self.dtype) for x in again]
        upstream = tf.cast(upstream, self.dtype)
        dreads: list[list[tf.Tensor]] = [[] for _ in reads]
        dkernels, dslopes, dfactors = [], [], []
        factors = self._factors(weights, kernels)
        for candidate, kernel, tail, factor, output in zip(
            self.convolutions, kernels, tails, factors, kept, strict=True
        ):
            masked = gradient = picked(upstream, candidate.live, self.edges)
            if candidate.convolution.relu:
                masked = tf.raw_ops.ReluGrad(gradients=gradient, features=output)
            inside = factor
            if tail is None:
                dfactors.append(sum_of_products(gradient, output))
            else:
                masked, dadded, dslope, dfactor = candidate.convolution.tail.gradients(
                    gradient, output, reads[candidate.added], factor, tail, self.chains.training
                )
                dreads[candidate.added].append(dadded)
                dslopes.append(dslope)
                # `_weight_gradients` divides by positive weights, which the others' outputs hold.
                dfactors.append(dfactor * factor if self.positive else dfactor)
                inside = tf.ones_like(factor)
            read, weighted = reads[candidate.source], tf.cast(kernel * inside, self.dtype)
            # The convolution's output is not used, only its two gradients, so it is not computed.
            with tf.GradientTape() as inner:
                inner.watch((read, weighted))
                sums = _convolve(candidate.convolution.layer, read, weighted)
            dread, dweighted = inner.gradient(sums, (read, weighted), masked)
            dreads[candidate.source].append(dread)
            dkernels.append(tf.cast(dweighted, kernel.dtype) * inside)
        dweights = self._weight_gradients(dfactors, weights)
        if self.pools:
            with tf.GradientTape() as inner:
                sources = sorted({candidate.source for candidate in self.pools})
                pooled_reads = [reads[source] for source in sources]
                inner.watch((pooled_reads, weights))
                pooled = self._pooled(reads, weights)
            dpooled, dweight = inner.gradient(pooled, (pooled_reads, weights), upstream)
            dweights += dweight
            for source, dread in zip(sources, dpooled, strict=True):
                dreads[source].append(dread)
        dinputs = tape.gradient(reads, inputs, [_sum(terms) for terms in dreads])
        return dinputs, dweights, dkernels, dslopes

    def _factors(self, weights: tf.Tensor, kernels: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """For each convolution the weight of each of its output channels."""
        if not kernels:
            return []
        channels = kernels[0].shape[-1] // len(self.convolutions[0].live)
        columns = tf.unstack(spread(weights, channels), axis=1)
        return [
            picked(columns[candidate.column], candidate.live, self.edges)
            for candidate in self.convolutions
        ]

    def _weight_gradients(self, dfactors: Sequence[tf.Tensor], weights: tf.Tensor) -> tf.Tensor:
        """Gradients of the mixture weights [edges, operations], given for each convolution the sums
        over batch and positions of upstream gradient times output, one per output channel."""
        if not dfactors:
            return tf.zeros_like(weights)
        parts = [
            placed(dfactor, candidate.live, self.edges)
            for candidate, dfactor in zip(self.convolutions, dfactors, strict=True)
        ]
        sums = tf.reduce_sum(tf.reshape(tf.stack(parts), [len(parts), self.edges, -1]), axis=2)
        dweights = tf.matmul(sums, self._columns(self.convolutions, weights), transpose_a=True)
        # Outputs that hold the weight are divided by it. A softmax may underflow to 0, where its
        # own gradient is 0 too.
        return tf.math.divide_no_nan(dweights, weights) if self.positive else dweights

    @staticmethod
    def _columns(candidates: Sequence[FusedCandidate], weights: tf.Tensor) -> np.ndarray:
        """The candidates' columns of the weights, one-hot, [candidates, operations]."""
        columns = [candidate.column for candidate in candidates]
        return np.eye(weights.shape[1], dtype=np.float32)[columns]

    def _pooled(self, reads, weights) -> tf.Tensor:
        """Σ over inputs that pass to all edges, as one 1×1 convolution to edges·C channels.

        Its kernel is the weights times the identity: each channel goes to its place in each edge.
        """
        values = joined([reads[candidate.source] for candidate in self.pools])
        channels = values.shape[-1] // len(self.pools)
        columns = tf.matmul(self._columns(self.pools, weights), weights, transpose_b=True)
        mask = np.zeros((len(self.pools), self.edges), np.float32)
        for row, candidate in zip(mask, self.pools, strict=True):
            row[list(candidate.live)] = 1.0
        if not mask.all():
            columns *= mask
        columns = tf.reshape(columns, [len(self.pools), 1, self.edges, 1])
        kernel = columns * np.eye(channels, dtype=np.float32)[None, :, None, :]
        kernel = tf.reshape(kernel, [1, 1, values.shape[-1], self.edges * channels])
        kernel = tf.cast(kernel, self.dtype)
        return with_float32_sums(lambda *pair: tf.nn.conv2d(*pair, 1, "VALID"), values, kernel)


def _sum(terms: Sequence[tf.Tensor]) -> tf.Tensor:
    return tf.add_n(terms) if len(terms) > 1 else terms[0]


def _convolve(layer: lq.layers.QuantConv2D, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """The layer's convolution with another kernel."""
    padding = layer.padding.upper()
    if isinstance(layer, SymmetricQuantConv2D):
        rows, columns = layer._paddings(inputs.shape[1:3])
        inputs = tf.pad(inputs, [[0, 0], rows, columns, [0, 0]])
    inputs, strides = pixels_read(inputs, kernel.shape, layer.strides[0])
    settings = {"strides": strides, "padding": padding, "dilations": layer.dilation_rate}
    split = max(layer.dilation_rate) > 1 and not has_dilated_gradients()
    # Convolutions of sub-images have gradients everywhere.
    convolution = tf.nn.convolution if split else tf.nn.conv2d
    return with_float32_sums(lambda *pair: convolution(*pair, **settings), inputs, kernel)
