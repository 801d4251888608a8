"""What the descriptions of all kinds of networks share, and the Keras model around their bodies."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from bnas_larq.backend import keras, tf
from bnas_larq.errors import BnasLarqError, nearest
from bnas_larq.layers import template
from bnas_larq.layers.activations import AnnealingControl, SchemeOptions
from bnas_larq.layers.operations import Context, chain
from bnas_larq.layers.quantizers import get_scheme
from bnas_larq.setting_types import MAX_CLASSES, MAX_SIDE

if TYPE_CHECKING:
    from typing import Self


@dataclasses.dataclass(frozen=True)
class BaseConfig:
    """Size and template of a network of any kind; see `NetworkConfig` and `ResidualConfig`.

    Attributes:
        kind: what the network is made of, `"cells"` of a genotype or `"residual"` blocks.
        input_shape: (height, width, channels) of the images.
        num_classes: outputs of the classifier.
        stem: a name, or `"auto"`: by the size of the input, resolved at once and again by `replace`
            with another size. A file keeps the stem that its weights need.
        scheme: binarisation scheme, a registered name.
        activations, kernels, activation_gradient, activation_clip: what is changed about it, see
            `bnas_larq.layers.activations.SchemeOptions`.
        full_precision: name patterns of convolutions whose kernel stays in full precision.
        classifier_activation: activation of the classifier; None for logits.
    """

    kind: ClassVar[str]

    input_shape: tuple[int, int, int] = (32, 32, 3)
    num_classes: int = 10
    stem: str = "auto"
    scheme: str = "sign-scale"
    activations: str = "sign"
    kernels: str = "binary"
    activation_gradient: str = "ste"
    activation_clip: float = 1.0
    full_precision: tuple[str, ...] = ()
    classifier_activation: str | None = None
    _stem_is_auto: bool = dataclasses.field(default=False, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "input_shape", tuple(self.input_shape))
        object.__setattr__(self, "full_precision", tuple(self.full_precision))
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
        get_scheme(self.scheme, self._scheme_options())
        if self.stem == "auto":
            object.__setattr__(self, "stem", template.resolve_stem("auto", self.input_shape))
            object.__setattr__(self, "_stem_is_auto", True)

    @property
    def size(self) -> str:
        """Its size in words, such as `20 cells of 36 channels`."""
        raise NotImplementedError

    def replace(self, **settings: Any) -> Self:
        """A copy with other settings; a stem that was `"auto"` follows a new input size.
        BnasLarqError for impossible or unknown settings."""
        self._check_keys(settings)
        if self._stem_is_auto:
            settings = {"stem": "auto", **settings}
        return dataclasses.replace(self, **settings)

    def _scheme_options(self, annealing: AnnealingControl | None = None) -> SchemeOptions:
        keys = (self.activations, self.kernels, self.activation_gradient, self.activation_clip)
        return SchemeOptions(*keys, annealing)

    def context(self) -> Context:
        """What all layers of one network share; `Context.at` adds the name of each."""
        annealing = AnnealingControl() if self.activation_gradient == "annealed" else None
        return Context(
            "",
            0,
            scheme=self.scheme,
            full_precision=self.full_precision,
            options=self._scheme_options(annealing),
        )

    @classmethod
    def settings(cls) -> tuple[str, ...]:
        """Names of its attributes."""
        return tuple(field.name for field in dataclasses.fields(cls) if field.init)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able description; the inverse of `from_dict`."""
        values = {name: getattr(self, name) for name in self.settings()}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; BnasLarqError for unknown keys."""
        cls._check_keys(values)
        return cls(**values)

    @classmethod
    def resolved(
        cls, config: Self | None, settings: Mapping[str, Any], input_tensor: tf.Tensor | None
    ) -> Self:
        """The configuration that a builder was asked for: `config` with other settings, or the
        settings alone, for the images of `input_tensor`."""
        if input_tensor is not None:
            settings = {"input_shape": _image_shape(input_tensor, settings), **settings}
        return config.replace(**settings) if config else cls.from_dict(settings)

    @classmethod
    def _check_keys(cls, settings: Mapping[str, Any]) -> None:
        known = cls.settings()
        for key in settings:
            if key not in known:
                raise BnasLarqError(
                    f"A network's settings have fixed keys. Received: {key!r}; "
                    f"{nearest(key, known)}"
                )


# Nothing in here needs AutoGraph, whose conversion takes most of the time to build a model.
@tf.autograph.experimental.do_not_convert
def functional_model(
    body: Callable[[tf.Tensor], tf.Tensor],
    config: BaseConfig,
    *,
    include_top: bool,
    pooling: str | None,
    input_tensor: tf.Tensor | None,
    name: str,
) -> keras.Model:
    """The Keras model of a network whose `body` turns images into features; the other arguments are
    those of `bnas_larq.build_network`."""
    template.check_pooling(pooling)
    if input_tensor is None:
        images = inputs = keras.Input(config.input_shape, name="image")
    else:
        images, inputs = input_tensor, keras.utils.get_source_inputs(input_tensor)
    features = body(images)
    if include_top:
        top = template.classifier(config.num_classes, config.classifier_activation)
    else:
        top = template.global_pool(pooling)
    return keras.Model(inputs, chain(top, features), name=name)


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
