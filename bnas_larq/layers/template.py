"""What supernets and final networks share: cell sizes, stems, preprocessing, shortcuts, classifier.

Source: BNAS, arXiv 2002.06963, §3.2 (cell template) and the layout of DARTS networks it builds on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from bnas_larq.backend import keras, tf
from bnas_larq.errors import BnasLarqError, nearest
from bnas_larq.layers import convolutions
from bnas_larq.layers.operations import Chain, Context, factorized_reduction
from bnas_larq.layers.scaling import LearnedScale
from bnas_larq.setting_types import MAX_CELLS, MAX_CHANNELS

STEMS = ("cifar", "imagenet")
#: Inputs of at least this height and width get the ImageNet stem, which halves them three times.
IMAGENET_STEM_FROM = 96
#: Name of the dense layer on top of every network.
CLASSIFIER = "classifier"
POOLINGS = {"avg": keras.layers.GlobalAveragePooling2D, "max": keras.layers.GlobalMaxPooling2D}
#: The CIFAR stem is this many times wider than the first cell's channels.
CIFAR_STEM_MULTIPLIER = 3
#: Four times those of the largest published network, BNAS-H.
MAX_WEIGHTS = 640_000_000


@dataclasses.dataclass(frozen=True)
class CellPlan:
    """Place and size of one cell.

    Attributes:
        index: number of the cell, from 0.
        filters: channels of each node.
        reduction: whether it halves the resolution.
        after_reduction: whether its older input has twice the resolution of the newer one.
    """

    index: int
    filters: int
    reduction: bool
    after_reduction: bool

    @property
    def name(self) -> str:
        """Prefix of the names of the cell's layers."""
        return f"cell{self.index}"


def resolve_stem(stem: str, input_shape: Sequence[int] | None) -> str:
    """The stem that `"auto"` means for images (height, width, channels); CIFAR's without a size.
    BnasLarqError if only a part of the shape is known."""
    if input_shape is not None and len(input_shape) != 3:
        raise BnasLarqError(
            f"An input shape is (height, width, channels). Received: {tuple(input_shape)}."
        )
    if stem != "auto":
        return stem
    if input_shape is not None and None in input_shape[:2]:
        raise BnasLarqError(
            "The stem 'auto' goes by the height and width of the images. Received: "
            f"input_shape={tuple(input_shape)}. Give both, or the stem 'cifar' or 'imagenet'."
        )
    large = input_shape is not None and min(input_shape[:2]) >= IMAGENET_STEM_FROM
    return "imagenet" if large else "cifar"


def plan_cells(
    cells: int, channels: int, stem: str, reductions: Sequence[int] | None = None
) -> list[CellPlan]:
    """Sizes of all cells: channels double at the `reductions`, by default layers//3 and
    2·layers//3.

    BnasLarqError: fewer than one cell or two channels, far too many, an unknown stem, or reductions
    that are no cells' numbers in order.
    """
    if stem not in STEMS:
        raise BnasLarqError(
            f"A stem is 'cifar' or 'imagenet'. Received: {stem!r}; {nearest(str(stem), STEMS)}"
        )
    if cells < 1 or channels < 2:
        raise BnasLarqError(
            "A network needs at least one cell and two channels "
            "(a binary kernel is centred over its input channels). "
            f"Received: cells={cells}, channels={channels}."
        )
    if cells > MAX_CELLS or channels > MAX_CHANNELS:
        raise BnasLarqError(
            f"A network has at most {MAX_CELLS:,} cells and {MAX_CHANNELS:,} channels. "
            f"Received: cells={cells}, channels={channels}. Give a smaller size."
        )
    if reductions is None:
        # Fewer than three cells cannot be cut into thirds; the first cell would otherwise reduce.
        reductions = (cells // 3, 2 * cells // 3) if cells > 2 else ()
    elif list(reductions) != sorted(set(reductions) & set(range(cells))):
        raise BnasLarqError(
            "Reduction cells are given by their numbers, increasing, from 0 to below the number of "
            f"cells. Received: reductions={list(reductions)}, cells={cells}. "
            "Correct them, or omit them for cells//3 and 2·cells//3."
        )
    plans = []
    reduced = stem == "imagenet"
    for index in range(cells):
        reduction = index in reductions
        channels *= 2 if reduction else 1
        plans.append(CellPlan(index, channels, reduction, reduced))
        reduced = reduction
    return plans


def check_resolution(
    reductions: Sequence[int], stem: str, input_shape: Sequence[int | None]
) -> None:
    """Raise BnasLarqError if so many reduction cells would halve a side to less than a pixel."""
    halvings = len(reductions) + 3 * (stem == "imagenet")
    if min(input_shape[:2]) < 2**halvings:
        raise BnasLarqError(
            "A reduction cell halves height and width (and the ImageNet stem divides them by 8), "
            f"down to 1 pixel. Received: reductions={list(reductions)} with the {stem} stem at "
            f"{input_shape[0]}×{input_shape[1]}. Omit some, or give larger images."
        )


def check_weights(plans: Sequence[CellPlan], num_classes: int, each: int = 86) -> None:
    """Raise BnasLarqError, before anything is allocated, for a network of more than about
    `MAX_WEIGHTS` weights. `each`: weights of a cell by the square of its filters."""
    weights = each * sum(plan.filters**2 for plan in plans) + 4 * plans[-1].filters * num_classes
    if weights > MAX_WEIGHTS:
        raise BnasLarqError(
            f"No network of more than {MAX_WEIGHTS:,} weights is built. Received: about "
            f"{weights:,} for cells={len(plans)}, up to {plans[-1].filters:,} channels, "
            f"num_classes={num_classes}. Give a smaller size."
        )


def is_activation(name: str | None) -> bool:
    """Whether Keras knows the activation; it takes other functions of its module for one, too."""
    try:
        outputs = keras.activations.get(name)(tf.zeros([1, 2]))
    except Exception:  # whatever that function raises
        return False
    return getattr(outputs, "shape", None) == (1, 2)


def cifar_stem(
    channels: int, context: Context, preprocessing: str = "relu"
) -> list[keras.layers.Layer]:
    """BatchNorm, 3×3 convolution to 3·channels, ReLU: both states of the first cell. Full
    precision. In BATS' networks, whose preprocessing is `prelu`, BatchNorm is behind the
    convolution."""
    stem = context.at("stem", CIFAR_STEM_MULTIPLIER * channels)
    norm, conv = stem.batch_norm(affine=True), stem.float_conv(3)
    return [*((conv, norm) if preprocessing == "prelu" else (norm, conv)), stem.relu()]


def stem_channels(channels: int, stem: str) -> int:
    """Channels of both states in front of the first cell."""
    return CIFAR_STEM_MULTIPLIER * channels if stem == "cifar" else channels


def check_stem_groups(stem: str, channels: int, groups: int) -> None:
    """Raise BnasLarqError unless the stem of a network with these channels can have the groups."""
    if groups != 1 and stem == "cifar":
        raise BnasLarqError(
            "The CIFAR stem's only convolution reads the image and has no groups. "
            f"Received: stem_groups={groups}. Give 1, or use the ImageNet stem."
        )
    if groups < 1 or channels % groups or (channels // 2) % groups:
        raise BnasLarqError(
            "The stem's groups must divide the channels of its second and third convolution, "
            f"C/2 and C. Received: stem_groups={groups}, channels={channels}. "
            f"Use channels that are a multiple of {2 * max(groups, 1)}."
        )


def check_groups(groups: int, channels: int) -> None:
    """Raise BnasLarqError unless convolutions of so many channels can have these groups."""
    if groups < 1 or channels % groups or (groups > 1 and channels // groups < 2):
        raise BnasLarqError(
            "Groups divide the channels of a cell's nodes into equal parts of at least two (a "
            f"binary kernel is centred over its input channels). Received: groups={groups}, "
            f"channels={channels}. Use a multiple of {2 * max(groups, 1)} channels."
        )


def imagenet_stem(
    channels: int, context: Context, groups: int = 1
) -> tuple[list[keras.layers.Layer], list[keras.layers.Layer]]:
    """Layers from the image to state 0 (1/4 of the resolution), and from there to state 1 (1/8).
    Full precision. `groups` are of the second and third convolution, as in BNAS v2 (arXiv
    2110.08562); the first one reads the image."""
    first = context.at("stem0", channels // 2, 2)
    second = context.at("stem1", channels, 2)
    third = context.at("stem2", channels, 2)
    older = [
        first.float_conv(3),
        first.batch_norm(affine=True),
        first.relu(),
        second.float_conv(3, groups),
        second.batch_norm(affine=True),
    ]
    return older, [second.relu(), third.float_conv(3, groups), third.batch_norm(affine=True)]


def preprocess(
    plan: CellPlan,
    source: int,
    stem: str,
    context: Context,
    kind: str = "relu",
    channels: int | None = None,
) -> Chain:
    """Layers that bring a cell's input (0 older, 1 newer) to its channels and resolution.

    `relu`: BatchNorm, 1×1 convolution, ReLU; 3×3 with stride 2 for the older input right after a
    reduction. Full precision in the supernet, binary in final networks. In CIFAR networks the
    strided one's BatchNorm has no scale and offset, which the published parameter counts confirm.
    `linear`: the same without ReLU, which would erase the −1 side (BNAS-UCB, arXiv 2009.04247).
    `prelu`: BATS' (arXiv 2003.01711): BatchNorm, sign, 1×1 convolution (a factorised reduction
    right after a reduction), learned scale, PReLU; where the input has as many `channels` as the
    cell's nodes, and their resolution, it is added.
    """
    strided = source == 0 and plan.after_reduction
    own = context.at(f"{plan.name}_preprocess{source}", plan.filters, 2 if strided else 1)
    if kind == "prelu":
        conv = factorized_reduction(own) if strided else [*own.binary_input(), *own.binary_conv(1)]
        layers = [*conv, own.learned_scale(), own.prelu()]
        adds = channels == plan.filters and not strided
        return [*layers, own.plus_input()] if adds else layers
    size = 3 if strided else 1
    affine = not context.supernet and not (strided and stem == "cifar")
    # In the supernet the convolution reads real values, in final networks their signs.
    conv = [own.float_conv(size)] if context.supernet else own.binary_conv(size)
    return [own.batch_norm(affine=affine), *conv, *([own.relu()] if kind == "relu" else [])]


def shortcut(
    plan: CellPlan, nodes: int, context: Context, kind: str
) -> Sequence[keras.layers.Layer]:
    """Layers of the shortcut from the previous cell's output to this cell's: none, or in a
    reduction cell, where resolution halves and channels double, those of its `kind`.

    `conv`: BatchNorm and a full-precision 2×2 convolution with stride 2 and bias; `depthwise`: the
    same with a depthwise one; `pool`: 2×2 average pool, its channels twice, a scale for each.
    """
    if not plan.reduction:
        return []
    own = context.at(f"{plan.name}_shortcut", nodes * plan.filters, 2)
    if kind == "pool":
        return [
            keras.layers.AveragePooling2D(
                2, 2, padding="same", name=f"{own.name}_pool", autocast=False
            ),
            convolutions.RepeatChannels(2, name=f"{own.name}_repeat"),
            LearnedScale(name=f"{own.name}_scale"),
        ]
    settings = {"name": own.conv_name, "strides": 2, "use_bias": True}
    full_precision = {"input_scheme": None, "kernel_scheme": None}
    if kind == "depthwise":
        conv = convolutions.depthwise(
            own.filters // 2, 2, multiplier=2, **settings, **full_precision
        )
    else:
        conv = convolutions.convolution(own.filters, 2, **settings, **full_precision)
    return [own.batch_norm(affine=True), conv]


def check_pooling(pooling: str | None) -> None:
    """Raise BnasLarqError unless `pooling` is None, `avg` or `max`."""
    if pooling is not None and pooling not in POOLINGS:
        raise BnasLarqError(
            "The pooling of a network without its top is None, 'avg' or 'max'. "
            f"Received: {pooling!r}; {nearest(str(pooling), POOLINGS)}"
        )


def global_pool(pooling: str | None) -> list[keras.layers.Layer]:
    """The layers of a network without its top in place of the classifier: none or one pool."""
    return [POOLINGS[pooling](name="pool")] if pooling else []


def classifier(num_classes: int, activation: str | None = None) -> list[keras.layers.Layer]:
    """Global average pool and a dense layer with bias, full precision."""
    return [
        *global_pool("avg"),
        keras.layers.Dense(
            num_classes,
            activation=activation,
            kernel_initializer=convolutions.initializer(),
            name=CLASSIFIER,
        ),
    ]
