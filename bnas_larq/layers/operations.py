"""The registry of candidate operations on a cell's edges, and the built-in ones.

An operation is a chain of Keras layers, in the supernet as in final networks, in which `PlusInput`
adds the operation's input. Users add their own with `register_operation`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bnas_larq.backend import keras, lq, register, tf, unbounded_kernels
from bnas_larq.errors import BnasLarqError, nearest
from bnas_larq.layers import convolutions
from bnas_larq.layers.context import Context as Context
from bnas_larq.layers.context import PlusInput as PlusInput
from bnas_larq.layers.convolution_kernels import pixels_read
from bnas_larq.layers.fixed_settings import FixedSettings
from bnas_larq.spaces import ZEROISE, check_operation, declare_operation, describe

#: How the supernet may evaluate an operation on all edges that leave one state:
#: `edge`: one chain for each edge (correct for every operation);
#: `channels`: one chain with edges·C filters, if output channels do not depend on each other;
#: `state`: one output for all edges, if the operation has no weights of its own.
SHARINGS = ("edge", "channels", "state")

Chain = Sequence[keras.layers.Layer | PlusInput]
Factory = Callable[[Context], Chain]

_FACTORIES: dict[str, Factory] = {}
_SHARING: dict[str, tuple[str, str]] = {}


def register_operation(
    name: str, description: str = "", *, sharing: str | tuple[str, str] = "edge"
) -> Callable[[Factory], Factory]:
    """Decorator: make `factory(context) -> layers` the operation `name` of spaces and genotypes.

    Args:
        name: a Python identifier.
        description: one line for people; default the first line of the factory's docstring.
        sharing: one of `SHARINGS`, or a pair of them, for edges with stride 1 and with stride 2.

    Raises:
        BnasLarqError: an unknown sharing, or not one or two of them.
        GenotypeError: the name is not an identifier.

    Example:
        >>> from bnas_larq import SearchSpace
        >>> @register_operation("bin_conv_1x1", "BatchNorm, sign, 1x1 binary convolution, ReLU")
        ... def bin_conv_1x1(context):
        ...     return [*context.binary_input(), *context.binary_conv(1), context.relu()]
        >>> SearchSpace.bnas().with_operations("bin_conv_1x1").normal[-1]
        'bin_conv_1x1'
    """
    both = (sharing, sharing) if isinstance(sharing, str) else tuple(sharing)
    if len(both) != 2:
        raise BnasLarqError(
            "An operation's sharing is one name, or a pair: for stride 1 and for stride 2. "
            f"Received: {sharing!r}."
        )
    for strided_or_not in both:
        if strided_or_not not in SHARINGS:
            raise BnasLarqError(
                f"An operation's sharing is one of {', '.join(SHARINGS)}. "
                f"Received: {strided_or_not!r}; {nearest(strided_or_not, SHARINGS)}"
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


def build_operation(name: str, context: Context) -> list[keras.layers.Layer | PlusInput]:
    """The layers of the operation `name`, in the order they are applied; GenotypeError if it is not
    registered."""
    check_operation(name)
    return list(_FACTORIES[name](context))


def layers_of(chain: Chain) -> list[keras.layers.Layer]:
    """All layers of a chain, those between its input and a sum with it included."""
    links = ([*x.layers, x.merge] if isinstance(x, PlusInput) else [x] for x in chain)
    return [layer for link in links for layer in link]


def chain(
    layers: Chain,
    inputs: tf.Tensor,
    training: bool | None = None,
    memory: dict | None = None,
) -> tf.Tensor:
    """Apply layers one after the other.

    Args:
        memory: outputs by (layer, input): chains that begin with the same layer objects and share a
            memory compute them once. It keeps the inputs too, so that no id is reused.
    """
    read = {None: inputs}
    for layer in layers:
        if isinstance(layer, PlusInput):
            earlier = chain(layer.layers, read[layer.of], training, memory)
            inputs = layer.merge([inputs, earlier])
            continue
        read[layer] = inputs
        key = (id(layer), id(inputs))
        if memory is not None and key in memory:
            inputs = memory[key][1]
            continue
        is_norm = isinstance(layer, keras.layers.BatchNormalization)
        outputs = layer(inputs, training=training) if is_norm else layer(inputs)
        if memory is not None:
            memory[key] = (inputs, outputs)
        inputs = outputs
    return inputs


def build_layer(layer: keras.layers.Layer, shape) -> None:
    """Make the weights that a layer and its kernel quantizers would get in their first call, from
    the shape of its input."""
    layer.build(shape)
    layer.built = True
    for kernel in ("kernel", "depthwise_kernel"):
        weight = getattr(layer, kernel, None)
        quantizer = getattr(weight, "quantizer", None)
        if isinstance(quantizer, keras.layers.Layer) and not quantizer.built:
            quantizer.build(weight.shape)


def build_chain(layers: Chain, shape) -> tf.TensorShape:
    """Make the weights of a chain of layers without computing anything, from the shape of its
    input; returns the shape of its output."""
    read = {None: shape}
    for layer in layers:
        if isinstance(layer, PlusInput):
            build_chain(layer.layers, read[layer.of])
            continue
        read[layer] = shape
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


def _register_residual_convolution(name: str, kernel_size: int, dilation: int) -> None:
    @register_operation(name, describe(name), sharing="channels")
    def residual(context: Context) -> Chain:
        """EBNAS' operation: nothing in full precision but the sum with the input."""
        behind = context.at(f"{context.name}_behind", context.filters, edges=context.edges)
        convolution = [*context.binary_input(), *context.binary_conv(kernel_size, dilation)]
        return [*convolution, behind.batch_norm(), context.plus_input(), context.prelu()]


def _register_grouped_convolution(name: str, kernel_size: int, dilation: int) -> None:
    @register_operation(name, describe(name))
    def grouped(context: Context) -> Chain:
        """BATS' operation (arXiv 2003.01711, §4.1 and figure 6), without the shuffle of channels
        behind it, which the paper finds to bring nothing."""
        convolution = context.binary_conv(kernel_size, dilation, grouped=True)
        layers = [*context.binary_input(), *convolution, context.learned_scale(), context.prelu()]
        return layers if context.strides > 1 else [*layers, context.plus_input()]


@register
class FactorizedReduction(FixedSettings, lq.layers.QuantConv2D):
    """Two 1×1 convolutions with strides 2, of the pixels (2i, 2j) and (2i + 1, 2j + 1), each with
    half of the filters, concatenated.

    Odd sizes have no last odd pixel; the last pixel stands in for it.

    Args:
        filters: at least 2.
        **kwargs: as of `QuantConv2D`, except kernel size, strides, dilation, padding, groups and
            `data_format`.

    Input shape: [batch, height, width, channels]. Output shape: [batch, ⌈height/2⌉, ⌈width/2⌉,
    filters].

    Raises:
        BnasLarqError: a setting that is not in `kwargs`.

    Example:
        >>> layer = FactorizedReduction(2, kernel_initializer="ones")
        >>> layer(tf.constant([1.0, 2.0, 3.0, 4.0], shape=[1, 2, 2, 1])).numpy().ravel().tolist()
        [1.0, 4.0]
    """

    fixed = {
        **{"kernel_size": 1, "strides": 2, "padding": "same", "dilation_rate": 1, "groups": 1},
        "data_format": "channels_last",
    }

    def __init__(self, filters: int, **kwargs) -> None:
        super().__init__(filters, **kwargs)

    @property
    def halves(self) -> tuple[int, int]:
        """Numbers of filters that read the even and the odd pixels."""
        return self.filters - self.filters // 2, self.filters // 2

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        # Shifted before the sign: LCE needs the sign right in front of a convolution.
        margins = [[0, 1 if size is None or size % 2 else 0] for size in inputs.shape[1:3]]
        shifted = tf.pad(inputs, [[0, 0], *margins, [0, 0]], "SYMMETRIC")[:, 1:, 1:]
        with lq.context.quantized_scope(True):
            kernels = tf.split(tf.convert_to_tensor(self.kernel), self.halves, axis=-1)
        sign, halves, strides = self.input_quantizer or tf.identity, [inputs, shifted], 2
        if training is True:
            reads = [pixels_read(half, self.kernel_size, strides) for half in halves]
            halves, (strides, _) = zip(*reads, strict=True)
        outputs = [
            tf.nn.conv2d(sign(half), kernel, strides, "SAME")
            for half, kernel in zip(halves, kernels, strict=True)
        ]
        output = tf.concat(outputs, axis=-1)
        return self.activation(output + self.bias if self.use_bias else output)


@unbounded_kernels()
def factorized_reduction(context: Context) -> list[keras.layers.Layer]:
    """BatchNorm, sign and a binary `FactorizedReduction` to the context's filters."""
    # A BatchNorm of its own: the statistics of the state's are moved by the convolutions, which the
    # supernet evaluates separately, and each pass must move them once.
    own = context.at(context.name, context.filters, context.strides)
    reduction = FactorizedReduction(
        own.filters,
        use_bias=False,
        kernel_initializer=convolutions.initializer(),
        name=own.conv_name,
        **own.quantizers(),
    )
    return [*own.binary_input(), reduction]


@register_operation("identity", describe("identity"), sharing=("state", "edge"))
def _identity(context: Context) -> list[keras.layers.Layer]:
    """DARTS' skip connection (arXiv 1806.09055). Its factorised reduction is binary here (ours),
    with BatchNorm and sign in front and without ReLU."""
    if context.strides == 1:
        return [keras.layers.Activation("linear", name=f"{context.name}_identity", autocast=False)]
    return factorized_reduction(context)


def _depthwise_pointwise(
    context: Context, part: str, kernel_size: int, dilation: int = 1, *, second: bool = False
) -> list[keras.layers.Layer]:
    """BatchNorm, sign, depthwise, BatchNorm, sign, pointwise, ReLU.

    DARTS' separable convolution (arXiv 1806.09055, §3.1.1), which comes twice, the first time with
    the strides; the dilated one once. Binarising it is ours: ReLU stands behind each pair, where
    DARTS has it in front, so that the full-precision twin is not linear. With the published scheme
    `sign-scale-centred` every depthwise kernel is 0, and the output ignores the image.

    Args:
        part: of the layers' names.
        second: reads the output of a first pair, not the state.
    """
    strides, shared = (1, None) if second else (context.strides, context.shared)
    depthwise, pointwise = (
        context.at(f"{context.name}_{kind}{part}", context.filters, *settings, edges=context.edges)
        for kind, settings in (("depthwise", (strides, shared)), ("pointwise", ()))
    )
    return [
        *depthwise.binary_input(),
        *depthwise.binary_depthwise(kernel_size, dilation, apart=second),
        *pointwise.binary_input(),
        *pointwise.binary_conv(1, apart=True),
        pointwise.relu(),
    ]


def _register_separable_convolutions(kernel_size: int) -> None:
    name = f"bin_sep_conv_{kernel_size}x{kernel_size}"

    @register_operation(name, describe(name), sharing="channels")
    def separable(context: Context) -> list[keras.layers.Layer]:
        first = _depthwise_pointwise(context, "1", kernel_size)
        return [*first, *_depthwise_pointwise(context, "2", kernel_size, second=True)]

    name = f"bin_dil_sep_conv_{kernel_size}x{kernel_size}"

    @register_operation(name, describe(name), sharing="channels")
    def dilated(context: Context) -> list[keras.layers.Layer]:
        return _depthwise_pointwise(context, "", kernel_size, dilation=2)


for _size in (3, 5):
    _register_separable_convolutions(_size)
    _register_residual_convolution(f"bin_res_conv_{_size}x{_size}", _size, 1)
    _register_residual_convolution(f"bin_res_dil_conv_{_size}x{_size}", _size, 2)
    _register_grouped_convolution(f"bin_group_conv_{_size}x{_size}", _size, 1)
    _register_grouped_convolution(f"bin_group_dil_conv_{_size}x{_size}", _size, 2)
