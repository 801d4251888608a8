"""Candidate operations on a cell's edges; a user's own joins their registry with a decorator.

    @register_operation("bin_conv_1x1", "BatchNorm, sign, 1x1 binary convolution, ReLU")
    def bin_conv_1x1(context):
        return [*context.binary_input(), *context.binary_conv(1), context.relu()]

    space = SearchSpace.bnas().with_operations("bin_conv_1x1")

An operation is a chain of Keras layers, applied one after the other, both in the supernet and in
final networks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bnas_larq.backend import keras, tf
from bnas_larq.errors import BnasLarqError, nearest
from bnas_larq.layers import convolutions
from bnas_larq.layers.context import Context as Context
from bnas_larq.spaces import ZEROISE, check_operation, declare_operation, describe

#: How the supernet may evaluate one operation on all edges that leave one state, without changing
#: the mathematics:
#: `edge`: one chain for each edge (right for every operation);
#: `channels`: one chain with edges·C filters, whose output channels do not depend on each other;
#: `state`: one output that serves all edges, for operations without weights of their own.
SHARINGS = ("edge", "channels", "state")

Factory = Callable[[Context], Sequence[keras.layers.Layer]]

_FACTORIES: dict[str, Factory] = {}
_SHARING: dict[str, tuple[str, str]] = {}


def register_operation(
    name: str, description: str = "", *, sharing: str | tuple[str, str] = "edge"
) -> Callable[[Factory], Factory]:
    """Decorator: make `factory(context) -> layers` the operation `name` of spaces and genotypes.

    Args:
        name: a Python identifier.
        description: one line for people; default the first line of the factory's docstring.
        sharing: one of `SHARINGS`: how the supernet may evaluate it on several edges at once; or
            two of them, for edges with stride 1 and with stride 2.

    Raises:
        BnasLarqError: an unknown sharing.
        GenotypeError: the name is no identifier.
    """
    both = (sharing, sharing) if isinstance(sharing, str) else tuple(sharing)
    for which in both:
        if which not in SHARINGS:
            raise BnasLarqError(
                f"An operation's sharing is a known one. Received: {which!r}; "
                f"{nearest(which, SHARINGS)}"
            )

    def decorate(factory: Factory) -> Factory:
        declare_operation(name, description or (factory.__doc__ or name).strip().splitlines()[0])
        _FACTORIES[name] = factory
        _SHARING[name] = both
        return factory

    return decorate


def sharing_of(name: str, strides: int = 1) -> str:
    """How the supernet may evaluate the operation `name` on several edges at once."""
    check_operation(name)
    return _SHARING[name][strides > 1]


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


def build_layer(layer: keras.layers.Layer, shape) -> None:
    """Make a layer's weights, and those of its kernel quantizers, which Keras would make when the
    layer is called first.

    Args:
        shape: of its input.
    """
    layer.build(shape)
    layer.built = True
    for kernel in ("kernel", "depthwise_kernel"):
        weight = getattr(layer, kernel, None)
        quantizer = getattr(weight, "quantizer", None)
        if isinstance(quantizer, keras.layers.Layer) and not quantizer.built:
            quantizer.build(weight.shape)


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
                build_layer(layer, shape)
        shape = layer.compute_output_shape(shape)
    return tf.TensorShape(shape)


@register_operation(ZEROISE, describe(ZEROISE), sharing="state")
def _zeroise(context: Context) -> list[keras.layers.Layer]:
    return [convolutions.Zeroise(context.strides, name=f"{context.name}_zeros")]


def _register_pool(kind: str) -> None:
    name = f"{kind}_pool_3x3"

    @register_operation(name, describe(name), sharing="state")
    def pool(context: Context) -> list[keras.layers.Layer]:
        layer = convolutions.pooling(kind, context.strides, context.padding, f"{context.name}_pool")
        return [layer, context.batch_norm()] if context.supernet else [layer]


def _register_binary_convolution(name: str, kernel_size: int, dilation: int, relu: bool) -> None:
    @register_operation(name, describe(name), sharing="channels")
    def convolution(context: Context) -> list[keras.layers.Layer]:
        layers = [*context.binary_input(), *context.binary_conv(kernel_size, dilation)]
        return [*layers, context.relu()] if relu else layers


_register_pool("max")
_register_pool("avg")
for _size in (3, 5):
    for _dilation, _kind in ((1, "bin_conv"), (2, "bin_dil_conv")):
        _name = f"{_kind}_{_size}x{_size}"
        _register_binary_convolution(_name, _size, _dilation, relu=True)
        # BNAS-UCB's candidates (arXiv 2009.04247): a ReLU would erase the −1 side.
        _register_binary_convolution(f"{_name}_linear", _size, _dilation, relu=False)
