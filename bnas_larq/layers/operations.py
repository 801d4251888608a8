"""Candidate operations on a cell's edges; a user's own joins their registry with a decorator.

    @register_operation("bin_conv_1x1", "BatchNorm, sign, 1x1 binary convolution, ReLU")
    def bin_conv_1x1(context):
        return [*context.binary_input(), *context.binary_conv(1), context.relu()]

    space = SearchSpace.bnas().with_operations("bin_conv_1x1")

An operation is a chain of Keras layers, applied one after the other, both in the supernet and in
final networks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from bnas_larq.backend import keras, tf
from bnas_larq.errors import BnasLarqError, nearest
from bnas_larq.layers import convolutions
from bnas_larq.layers.batch_norm import PlainBatchNormalization
from bnas_larq.layers.quantizers import get_scheme
from bnas_larq.spaces import ZEROISE, check_operation, declare_operation

#: How the supernet may evaluate one operation on all edges that leave one state, without changing
#: the mathematics:
#: `edge`: one chain for each edge (right for every operation);
#: `channels`: one chain with edges·C filters, whose output channels do not depend on each other;
#: `state`: one output that serves all edges, for operations without weights of their own.
SHARINGS = ("edge", "channels", "state")


@dataclasses.dataclass(frozen=True)
class Context:
    """What an operation needs to know of its place.

    Attributes:
        name: prefix of the layers' names, such as `cell3_edge0_bin_conv_3x3`.
        filters: channels in and out.
        strides: 1, or 2 on edges from the inputs of a reduction cell.
        padding: `"same"` or `"symmetric"`.
        supernet: candidates of the supernet have BatchNorm without scale and offset, and one behind
            each pool, so that their sizes stay comparable while they compete.
        scheme: binarisation scheme of binary convolutions, a registered name.
        full_precision: patterns (as in a shell) of the names of convolutions whose kernel stays
            full precision.
        shared: layers without trainable weights that all candidates reading one state have in
            common; the supernet gives one dictionary for each state, final networks none.
    """

    name: str
    filters: int
    strides: int = 1
    padding: str = "same"
    supernet: bool = False
    scheme: str = "sign-scale"
    full_precision: tuple[str, ...] = ()
    shared: dict | None = dataclasses.field(default=None, compare=False)

    def at(self, name: str, filters: int, strides: int = 1, shared: dict | None = None) -> Context:
        """The same settings at another place, which shares no layers unless told which.

        Also for the further convolutions of one operation: they read another tensor than the state,
        so they need a BatchNorm of their own.
        """
        return dataclasses.replace(self, name=name, filters=filters, strides=strides, shared=shared)

    def batch_norm(self, affine: bool | None = None) -> keras.layers.BatchNormalization:
        """BatchNorm, by default with scale and offset in final networks only."""
        affine = not self.supernet if affine is None else affine
        name = f"{self.name}_bn"
        if self.supernet and not affine:
            return PlainBatchNormalization(name=name, **convolutions.BATCH_NORM)
        return convolutions.batch_norm(name, affine)

    def common(self, key: str, make: Callable[[], keras.layers.Layer]) -> keras.layers.Layer:
        """The layer called `key` of this state, made once where candidates share, else anew."""
        if self.shared is None:
            return make()
        if key not in self.shared:
            self.shared[key] = make()
        return self.shared[key]

    def binary_input(self) -> list[keras.layers.Layer]:
        """What stands in front of `binary_conv`: BatchNorm; in the supernet the sign too, as
        candidates share both.

        Once for each context: an operation's second convolution has its context from `at`.
        """
        if not self.supernet:
            return [self.batch_norm()]
        quantizer = get_scheme(self.scheme).input_quantizer
        return [
            self.common("bn", self.batch_norm),
            self.common(
                "sign", lambda: keras.layers.Activation(quantizer(), name=f"{self.name}_sign")
            ),
        ]

    def binary_conv(self, kernel_size: int, dilation: int = 1) -> list[keras.layers.Layer]:
        """A convolution without bias on the sign of its input, to stand behind `binary_input`.

        Its kernel is binary unless a pattern says otherwise.

        A dilated one with strides becomes a subsampling and an undilated one: with stride and
        dilation 2 only every second pixel is ever read, so both are equal, and TensorFlow and LCE
        have kernels for the second form only.

        Raises:
            BnasLarqError: a dilation that is no multiple of the strides.
        """
        name = f"{self.name}_conv"
        strides, subsampling = self.strides, []
        if strides > 1 and dilation > 1:
            if dilation % strides:
                raise BnasLarqError(
                    "A strided convolution's dilation must be a multiple of its strides. "
                    f"Received: dilation={dilation}, strides={strides}."
                )
            pool = keras.layers.MaxPooling2D(
                1, strides, padding="same", name=f"{self.name}_subsample"
            )
            subsampling = [self.common(f"subsample{strides}", lambda: pool)]
            strides, dilation = 1, dilation // strides
        conv = convolutions.convolution(
            self.filters,
            kernel_size,
            name=name,
            strides=strides,
            dilation=dilation,
            padding=self.padding,
            input_scheme=None if self.supernet else self.scheme,
            kernel_scheme=None if self.keeps_full_precision(name) else self.scheme,
        )
        return [*subsampling, conv]

    def float_conv(self, kernel_size: int, groups: int = 1) -> keras.layers.Layer:
        """A full-precision convolution without bias."""
        return convolutions.convolution(
            self.filters,
            kernel_size,
            name=f"{self.name}_conv",
            strides=self.strides,
            padding=self.padding,
            input_scheme=None,
            kernel_scheme=None,
            groups=groups,
        )

    def keeps_full_precision(self, name: str) -> bool:
        """Whether a pattern excludes the convolution `name` from binarisation."""
        return any(fnmatchcase(name, pattern) for pattern in self.full_precision)

    def relu(self) -> keras.layers.ReLU:
        """ReLU."""
        return keras.layers.ReLU(name=f"{self.name}_relu")


Factory = Callable[[Context], Sequence[keras.layers.Layer]]

_FACTORIES: dict[str, Factory] = {}
_SHARING: dict[str, str] = {}


def register_operation(
    name: str, description: str = "", *, sharing: str = "edge"
) -> Callable[[Factory], Factory]:
    """Decorator: make `factory(context) -> layers` the operation `name` of spaces and genotypes.

    Args:
        name: a Python identifier.
        description: one line for people; default the first line of the factory's docstring.
        sharing: one of `SHARINGS`: how the supernet may evaluate it on several edges at once.

    Raises:
        BnasLarqError: an unknown sharing.
        GenotypeError: the name is no identifier.
    """
    if sharing not in SHARINGS:
        raise BnasLarqError(
            f"An operation's sharing is a known one. Received: {sharing!r}; "
            f"{nearest(sharing, SHARINGS)}"
        )

    def decorate(factory: Factory) -> Factory:
        declare_operation(name, description or (factory.__doc__ or name).strip().splitlines()[0])
        _FACTORIES[name] = factory
        _SHARING[name] = sharing
        return factory

    return decorate


def sharing_of(name: str) -> str:
    """How the supernet may evaluate the operation `name` on several edges at once."""
    check_operation(name)
    return _SHARING[name]


def build_operation(name: str, context: Context) -> list[keras.layers.Layer]:
    """The layers of the operation `name`, to be applied one after the other.

    Raises:
        GenotypeError: nobody registered the operation.
    """
    check_operation(name)
    return list(_FACTORIES[name](context))


def chain(
    layers: Sequence[keras.layers.Layer],
    inputs: tf.Tensor,
    training: bool | None = None,
    memory: dict | None = None,
) -> tf.Tensor:
    """Apply layers one after the other.

    Args:
        memory: outputs by (layer, input), kept for as long as the caller holds the dictionary:
            chains that begin with the same layer objects are computed once. The inputs are kept
            too, so that no identity is used again.
    """
    for layer in layers:
        key = (id(layer), id(inputs))
        if memory is not None and key in memory:
            inputs = memory[key][1]
            continue
        normalises = isinstance(layer, keras.layers.BatchNormalization)
        outputs = layer(inputs, training=training) if normalises else layer(inputs)
        if memory is not None:
            memory[key] = (inputs, outputs)
        inputs = outputs
    return inputs


def build_chain(layers: Sequence[keras.layers.Layer], shape) -> tf.TensorShape:
    """Make the weights of layers that stand one after the other, without computing anything.

    Args:
        shape: of the first one's input.

    Returns:
        The shape of the last one's output.
    """
    for layer in layers:
        if not layer.built:
            with tf.init_scope(), keras.backend.name_scope(layer.name):
                layer.build(shape)
        shape = layer.compute_output_shape(shape)
    return tf.TensorShape(shape)


@register_operation(ZEROISE, "Zeroise: outputs zeros", sharing="state")
def _zeroise(context: Context) -> list[keras.layers.Layer]:
    return [convolutions.Zeroise(context.strides, name=f"{context.name}_zeros")]


def _register_pool(kind: str, description: str) -> None:
    @register_operation(f"{kind}_pool_3x3", description, sharing="state")
    def pool(context: Context) -> list[keras.layers.Layer]:
        layer = convolutions.pooling(kind, context.strides, context.padding, f"{context.name}_pool")
        return [layer, context.batch_norm()] if context.supernet else [layer]


def _register_binary_convolution(
    name: str, kernel_size: int, dilation: int, description: str
) -> None:
    @register_operation(name, description, sharing="channels")
    def convolution(context: Context) -> list[keras.layers.Layer]:
        return [
            *context.binary_input(),
            *context.binary_conv(kernel_size, dilation),
            context.relu(),
        ]


_register_pool("max", "3x3 max pooling")
_register_pool("avg", "3x3 average pooling, padding excluded")
for _size in (3, 5):
    for _dilation, _kind in ((1, "bin_conv"), (2, "bin_dil_conv")):
        _register_binary_convolution(
            f"{_kind}_{_size}x{_size}",
            _size,
            _dilation,
            f"BatchNorm, sign, {_size}x{_size} binary convolution"
            + (", " if _dilation == 1 else " with dilation 2, ")
            + "ReLU",
        )
