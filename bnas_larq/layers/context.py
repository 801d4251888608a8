"""The settings of an operation at its place in a network, and the makers of its layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

from bnas_larq.backend import keras
from bnas_larq.errors import BnasLarqError
from bnas_larq.layers import convolutions
from bnas_larq.layers.activations import UNCHANGED, SchemeOptions
from bnas_larq.layers.batch_norm import BATCH_NORM, PlainBatchNormalization, batch_norm
from bnas_larq.layers.convolutions import RepeatChannels
from bnas_larq.layers.merging import MixedPrecisionAdd, MixedPrecisionMultiply
from bnas_larq.layers.prelu import PReLU2D
from bnas_larq.layers.quantizers import get_scheme
from bnas_larq.layers.scaling import LearnedScale


@dataclasses.dataclass(frozen=True)
class PlusInput:
    """A link of a chain of layers: the sum, or product, of what stands before it and of an earlier
    tensor, brought to the same shape by `layers`.

    Attributes:
        merge: the layer that adds or multiplies.
        layers: they read the earlier tensor.
        of: that tensor is the input of this layer of the chain; None for the chain's own.
    """

    merge: MixedPrecisionAdd | MixedPrecisionMultiply
    layers: tuple[keras.layers.Layer, ...] = ()
    of: keras.layers.Layer | None = None


@dataclasses.dataclass(frozen=True)
class Context:
    """Settings of one operation, from which it makes its layers.

    Attributes:
        name: prefix of the layers' names, such as `cell3_edge0_bin_conv_3x3`.
        filters: channels in and out.
        strides: 1, or 2 on edges from the inputs of a reduction cell.
        padding: `"same"` or `"symmetric"`.
        pad_values: of binary convolutions with `"same"`, 0 or 1.
        supernet: candidates of the supernet have BatchNorm without scale and offset, also behind
            each pool, so that their magnitudes stay comparable while they compete.
        scheme: binarisation scheme of binary convolutions, a registered name.
        options: what is changed about the scheme.
        full_precision: patterns (as in a shell) of the names of convolutions whose kernel stays
            full precision.
        shared: layers without trainable weights that all candidates of a state share; the supernet
            gives one dictionary for each state, final networks none.
        edges: how many edges' filters a layer holds, all counted by `filters`: 1 except for a
            supernet's operations with sharing `channels`.
        groups: of BATS' convolutions, at all places of a network.

    Example:
        >>> context = Context("edge0", filters=4)
        >>> layers = [*context.binary_input(), *context.binary_conv(3), context.relu()]
        >>> [layer.name for layer in layers]
        ['edge0_bn', 'edge0_conv', 'edge0_relu']
    """

    name: str
    filters: int
    strides: int = 1
    padding: str = "same"
    supernet: bool = False
    scheme: str = "sign-scale"
    full_precision: tuple[str, ...] = ()
    shared: dict | None = dataclasses.field(default=None, compare=False)
    edges: int = 1
    options: SchemeOptions = UNCHANGED
    groups: int = 1
    pad_values: float = 0.0

    def at(
        self, name: str, filters: int, strides: int = 1, shared: dict | None = None, edges: int = 1
    ) -> Context:
        """The same settings elsewhere, without shared layers unless given; also for an operation's
        second convolution, which does not read the state and needs a BatchNorm of its own."""
        return dataclasses.replace(
            self, name=name, filters=filters, strides=strides, shared=shared, edges=edges
        )

    def batch_norm(self, affine: bool | None = None) -> keras.layers.BatchNormalization:
        """BatchNorm, by default with scale and offset in final networks only."""
        affine = not self.supernet if affine is None else affine
        name = f"{self.name}_bn"
        if self.supernet and not affine:
            return PlainBatchNormalization(name=name, **BATCH_NORM)
        return batch_norm(name, affine)

    def common(
        self, key: str, make: Callable[[], keras.layers.Layer | None]
    ) -> keras.layers.Layer | None:
        """The layer `key` that the candidates of a state share; a new one where they do not."""
        if self.shared is None:
            return make()
        if key not in self.shared:
            self.shared[key] = make()
        return self.shared[key]

    def binary_input(self) -> list[keras.layers.Layer]:
        """What stands in front of a binary convolution: BatchNorm, and in the supernet the sign, as
        candidates share both. Once for each context: a second convolution gets its own by `at`."""
        if not self.supernet:
            return [self.batch_norm()]
        layers = [self.common("bn", self.batch_norm), self.common("sign", self._sign)]
        return [layer for layer in layers if layer is not None]

    def _sign(self) -> keras.layers.Layer | None:
        quantizer = get_scheme(self.scheme, self.options).input_quantizer()
        return quantizer and keras.layers.Activation(quantizer, name=f"{self.name}_sign")

    def binary_conv(
        self,
        kernel_size: int,
        dilation: int = 1,
        *,
        apart: bool = False,
        grouped: bool = False,
    ) -> list[keras.layers.Layer | PlusInput]:
        """A convolution without bias on the sign of its input, to follow `binary_input`, and what
        the scheme has around it. Its kernel is binary unless a pattern keeps it in full precision.

        A dilated convolution with strides becomes a subsampling and a convolution of smaller
        dilation: with stride and dilation 2 only every second pixel is read, so both are equal, and
        TensorFlow and LCE have kernels for the second form only.

        Args:
            apart: the input is not the state, but has separate channels for each edge, which that
                edge's filters read.
            grouped: it has the network's `groups`. Of one edge only.

        Raises:
            BnasLarqError: a dilation that is no multiple of the strides, or what a scheme's own
                convolutions cannot do.
        """
        subsampling, strides, dilation = self._split_strides(dilation)
        place = {"name": self.conv_name, "padding": self.padding}
        place |= {"strides": strides, "dilation": dilation}
        scheme = get_scheme(self.scheme, self.options)
        if scheme.convolution:
            if grouped:
                raise BnasLarqError(
                    f"Convolutions of the scheme {self.scheme} have no groups. "
                    f"Received: {self.name}. Use another scheme, such as binarynet."
                )
            # A kernel that a pattern keeps in full precision has no quantizer.
            quantizers = {"kernel_quantizer": None, **self.quantizers()}
            conv = scheme.convolution(self.filters, kernel_size, **place, **quantizers)
        else:
            place["groups"] = self.groups if grouped else self.edges if apart else 1
            place["pad_values"] = self.pad_values
            conv = convolutions.convolution(
                self.filters, kernel_size, **place, **self._quantisation
            )
        in_front, behind = scheme.in_front(self.name), scheme.behind(self.name, conv)
        return [*in_front, *subsampling, conv, *behind]

    def binary_depthwise(
        self, kernel_size: int, dilation: int = 1, *, apart: bool = False
    ) -> list[keras.layers.Layer]:
        """As `binary_conv`, but each output channel reads one input channel. With symmetric padding
        and strides it is the unstrided one, subsampled, which is equal."""
        before, strides, dilation = self._split_strides(dilation)
        if self.edges > 1 and not apart:
            before.append(RepeatChannels(self.edges, name=f"{self.name}_repeat"))
        after = []
        if self.padding == "symmetric" and strides > 1:
            after, strides = [_subsampling(f"{self.name}_subsample", strides)], 1
        conv = convolutions.depthwise(
            self.filters,
            kernel_size,
            name=self.conv_name,
            strides=strides,
            dilation=dilation,
            **self._quantisation,
        )
        return [*before, conv, *after]

    def quantizers(self) -> dict[str, object]:
        """Arguments of any other larq convolution, to be called `conv_name`."""
        return convolutions.quantizers(**self._quantisation)

    def float_conv(self, kernel_size: int, groups: int = 1) -> keras.layers.Layer:
        """A full-precision convolution without bias."""
        settings = {"strides": self.strides, "padding": self.padding, "groups": groups}
        full_precision = {"input_scheme": None, "kernel_scheme": None}
        return convolutions.convolution(
            self.filters, kernel_size, name=self.conv_name, **settings, **full_precision
        )

    def keeps_full_precision(self, name: str) -> bool:
        """Whether a pattern keeps the convolution `name` in full precision."""
        return any(fnmatchcase(name, pattern) for pattern in self.full_precision)

    def plus_input(self) -> PlusInput:
        """The sum with the operation's own input; strides average it, 2×2."""
        layers = []
        if self.strides > 1:
            name = f"{self.name}_input_pool"
            pool = keras.layers.AveragePooling2D(
                self.strides, padding="same", name=name, autocast=False
            )
            layers.append(self.common(f"input_pool{self.strides}", lambda: pool))
        if self.edges > 1:
            layers.append(RepeatChannels(self.edges, name=f"{self.name}_repeat"))
        return PlusInput(MixedPrecisionAdd(name=f"{self.name}_plus_input"), tuple(layers))

    def learned_scale(self) -> LearnedScale:
        """A learned scale per channel, apart from one that the scheme may have."""
        return LearnedScale(name=f"{self.name}_channel_scale")

    def prelu(self) -> PReLU2D:
        """PReLU."""
        return PReLU2D(name=f"{self.name}_prelu")

    def relu(self) -> keras.layers.ReLU:
        """ReLU."""
        return keras.layers.ReLU(name=f"{self.name}_relu", autocast=False)

    @property
    def conv_name(self) -> str:
        """Name of the operation's convolution."""
        return f"{self.name}_conv"

    @property
    def _quantisation(self) -> dict[str, Any]:
        keeps = self.keeps_full_precision(self.conv_name)
        return {
            # In the supernet a layer in front takes the sign, for all candidates.
            "input_scheme": None if self.supernet else self.scheme,
            "kernel_scheme": None if keeps else self.scheme,
            "edges": self.edges,
            "options": self.options,
        }

    def _split_strides(self, dilation: int) -> tuple[list[keras.layers.Layer], int, int]:
        """(subsampling in front of the convolution, its strides, its dilation)."""
        if self.strides == 1 or dilation == 1:
            return [], self.strides, dilation
        if dilation % self.strides:
            raise BnasLarqError(
                "A strided convolution's dilation must be a multiple of its strides. "
                f"Received: dilation={dilation}, strides={self.strides}."
            )
        pool = _subsampling(f"{self.name}_subsample", self.strides)
        subsampling = self.common(f"subsample{self.strides}", lambda: pool)
        return [subsampling], 1, dilation // self.strides


def _subsampling(name: str, strides: int) -> keras.layers.Layer:
    """Every `strides`-th pixel."""
    return keras.layers.MaxPooling2D(1, strides, padding="same", name=name, autocast=False)
