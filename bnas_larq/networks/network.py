"""The network of a genotype, which is trained and deployed: a functional Keras model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from bnas_larq.backend import keras, tf
from bnas_larq.errors import BnasLarqError, nearest
from bnas_larq.genotype import Genotype
from bnas_larq.layers import template
from bnas_larq.layers.cells import DropPathControl, final_cell
from bnas_larq.layers.convolutions import check_padding
from bnas_larq.layers.operations import Context, chain
from bnas_larq.layers.quantizers import get_scheme
from bnas_larq.setting_types import MAX_CLASSES, MAX_SIDE
from bnas_larq.spaces import has_relu, shortcut_kind

PREPROCESSINGS = ("auto", "relu", "linear")


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """Size and template of a network.

    Attributes:
        input_shape: (height, width, channels) of the images.
        num_classes: outputs of the classifier.
        channels: channels of the first cell's nodes (the papers' C).
        cells: number of cells.
        reductions: numbers of the cells, from 0, that halve the resolution and double the channels;
            None for cells//3 and 2·cells//3.
        stem: `"cifar"`, `"imagenet"`, or `"auto"`: by the size of the input, resolved at once and
            again by `replace` with another size. A file keeps the stem that its weights need.
        stem_groups: groups of the ImageNet stem's second and third convolution (BNAS v2).
        padding: `"same"` (exports to 1 bit) or `"symmetric"` (for imported weights).
        shortcut: how the previous cell's output is added to each cell's, one of
            `bnas_larq.spaces.SHORTCUTS`. In a reduction cell it passes `"conv"`: a full-precision
            2×2 convolution (BNAS); `"pool"`: a 2×2 average pool, its channels twice, each times a
            learned scale (no MACs); `"depthwise"`: a full-precision depthwise 2×2 convolution.
            `"none"`: nothing is added.
        preprocess: `"relu"` or `"linear"`, what follows the convolutions that preprocess a cell's
            inputs; `"auto"`: `linear` for genotypes whose convolutions have no ReLU (BNAS-UCB).
        scheme: binarisation scheme, a registered name.
        full_precision: name patterns of convolutions whose kernel stays in full precision.
        classifier_activation: activation of the classifier; None for logits.

    Raises:
        BnasLarqError: impossible sizes, unknown stem, padding or scheme.

    Example:
        >>> config = NetworkConfig(input_shape=(32, 32, 3), channels=16, cells=8)
        >>> config.stem
        'cifar'
        >>> config.replace(input_shape=(224, 224, 3)).stem
        'imagenet'
    """

    input_shape: tuple[int, int, int] = (32, 32, 3)
    num_classes: int = 10
    channels: int = 36
    cells: int = 20
    reductions: tuple[int, ...] | None = None
    stem: str = "auto"
    stem_groups: int = 1
    padding: str = "same"
    shortcut: str = "conv"
    preprocess: str = "auto"
    scheme: str = "sign-scale"
    full_precision: tuple[str, ...] = ()
    classifier_activation: str | None = None
    _stem_is_auto: bool = dataclasses.field(default=False, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "input_shape", tuple(self.input_shape))
        object.__setattr__(self, "full_precision", tuple(self.full_precision))
        object.__setattr__(self, "shortcut", shortcut_kind(self.shortcut))
        if not 2 <= self.num_classes <= MAX_CLASSES:
            raise BnasLarqError(
                f"A classifier needs at least two classes, and at most {MAX_CLASSES:,}. "
                f"Received: num_classes={self.num_classes}."
            )
        sides = self.input_shape
        if len(sides) != 3 or any(side is None or not 0 < side <= MAX_SIDE for side in sides):
            raise BnasLarqError(
                "An input shape is (height, width, channels), all known and at most "
                f"{MAX_SIDE:,}. Received: {self.input_shape}."
            )
        activation = self.classifier_activation
        if activation is not None and not template.is_activation(activation):
            raise BnasLarqError(
                "A classifier's activation is one that Keras knows, or None. "
                f"Received: classifier_activation={activation!r}."
            )
        check_padding(self.padding)
        get_scheme(self.scheme)
        if self.preprocess not in PREPROCESSINGS:
            raise BnasLarqError(
                f"A network's preprocess is one of {', '.join(PREPROCESSINGS)}. "
                f"Received: {self.preprocess!r}; {nearest(str(self.preprocess), PREPROCESSINGS)}"
            )
        if self.stem == "auto":
            object.__setattr__(self, "stem", template.resolve_stem("auto", self.input_shape))
            object.__setattr__(self, "_stem_is_auto", True)
        if self.reductions is not None:
            object.__setattr__(self, "reductions", tuple(self.reductions))
            template.check_resolution(self.reductions, self.stem, self.input_shape)
        self.plan_cells()
        template.check_stem_groups(self.stem, self.channels, self.stem_groups)

    def replace(self, **settings: Any) -> NetworkConfig:
        """A copy with other settings; a stem that was `"auto"` follows a new input size.
        BnasLarqError for impossible or unknown settings."""
        _check_keys(settings)
        if self._stem_is_auto:
            settings = {"stem": "auto", **settings}
        return dataclasses.replace(self, **settings)

    def preprocess_relu(self, operations: Iterable[str]) -> bool:
        """Whether preprocessing ends with ReLU in a network of these operations."""
        if self.preprocess != "auto":
            return self.preprocess == "relu"
        return has_relu(operations)

    def plan_cells(self) -> list[template.CellPlan]:
        """Place and size of each cell."""
        return template.plan_cells(self.cells, self.channels, self.stem, self.reductions)

    def context(self) -> Context:
        """What all its layers share; `Context.at` adds the name of each."""
        return Context(
            "",
            self.channels,
            padding=self.padding,
            scheme=self.scheme,
            full_precision=self.full_precision,
        )

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able description; the inverse of `from_dict`."""
        values = {name: getattr(self, name) for name in _SETTINGS}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NetworkConfig:
        """The inverse of `to_dict`; BnasLarqError for unknown keys."""
        _check_keys(values)
        return cls(**values)


_SETTINGS = tuple(field.name for field in dataclasses.fields(NetworkConfig) if field.init)


def _check_keys(settings: Mapping[str, Any]) -> None:
    for key in settings:
        if key not in _SETTINGS:
            hint = nearest(key, _SETTINGS)
            raise BnasLarqError(f"A network's settings have fixed keys. Received: {key!r}; {hint}")


def build_network(
    genotype: Genotype,
    config: NetworkConfig | None = None,
    *,
    drop_path: bool = False,
    include_top: bool = True,
    pooling: str | None = None,
    input_tensor: tf.Tensor | None = None,
    name: str | None = None,
    **settings: Any,
) -> keras.Model:
    """Build the network of a genotype.

    Args:
        genotype: the result of a search, or a published one.
        config: size and template; or give its attributes as keywords (`channels=36, cells=20, …`).
        drop_path: add drop-path layers on the edges, for training. They hold no weights, so both
            forms share weight files; their rate is 0 until a training callback raises it.
        include_top: whether to add the global pool and the classifier.
        pooling: without top: None, `"avg"` or `"max"` (global pool). Ignored with the top, as in
            keras.applications.
        input_tensor: a Keras tensor of images to build upon; its shape is the input shape.
        name: the Keras model's name; default `bnas_` and the genotype's id.
        settings: attributes of `NetworkConfig`, in place of those of `config`.

    Returns:
        Functional Keras model, [batch, height, width, channels] → [batch, num_classes], normalised
        float32 images to logits. Without top the output is the last cell's, [batch, h, w, nodes·C]
        with the C of that cell, or with pooling [batch, nodes·C]. Every convolution but stem and
        shortcuts is binary. Layers have the same names in all these forms.

    Raises:
        BnasLarqError, GenotypeError: impossible sizes or settings, or an unknown operation.

    Example:
        >>> from bnas_larq import Genotype
        >>> genotype = Genotype.published("bnas_cifar")
        >>> model = build_network(genotype, input_shape=(8, 8, 3), channels=4, cells=1)
        >>> model.output_shape
        (None, 10)
    """
    template.check_pooling(pooling)
    if input_tensor is not None:
        settings = {"input_shape": _image_shape(input_tensor, settings), **settings}
    _check_keys(settings)
    config = config.replace(**settings) if config else NetworkConfig(**settings)
    plans = config.plan_cells()
    template.check_weights(plans, config.num_classes)
    context = config.context()
    control = DropPathControl() if drop_path else None
    images = keras.Input(config.input_shape, name="image") if input_tensor is None else input_tensor
    if config.stem == "imagenet":
        first, second = template.imagenet_stem(config.channels, context, config.stem_groups)
        older = chain(first, images)
        newer = chain(second, older)
    else:
        older = newer = chain(template.cifar_stem(config.channels, context), images)
    relu = config.preprocess_relu(genotype.operations)
    for plan in plans:
        cell = genotype.reduce if plan.reduction else genotype.normal
        output = final_cell(
            cell,
            plan,
            (older, newer),
            stem=config.stem,
            context=context,
            shortcut_kind=config.shortcut,
            preprocess_relu=relu,
            drop_path=control,
        )
        older, newer = newer, output
    if include_top:
        top = template.classifier(config.num_classes, config.classifier_activation)
    else:
        top = template.global_pool(pooling)
    inputs = images if input_tensor is None else keras.utils.get_source_inputs(input_tensor)
    name = name or f"bnas_{genotype.id.replace('-', '_')}"
    return keras.Model(inputs, chain(top, newer), name=name)


def _image_shape(tensor: Any, settings: Mapping[str, Any]) -> tuple[int | None, ...]:
    """(height, width, channels) of an input tensor, which must not contradict the settings."""
    try:
        symbolic = keras.backend.is_keras_tensor(tensor)
    except ValueError:  # not even a tensor
        symbolic = False
    if not symbolic:
        raise BnasLarqError(
            "An input tensor is a Keras tensor, as keras.Input and calls of layers return it. "
            f"Received: {type(tensor).__name__}. Call the finished model on data instead."
        )
    shape = tuple(tensor.shape[1:])
    wanted = settings.get("input_shape")
    if wanted is not None and tuple(wanted) != shape:
        raise BnasLarqError(
            "An input tensor must have the input shape that is asked for. "
            f"Received: a tensor of {shape} with input_shape={tuple(wanted)}. Give one of them."
        )
    return shape
