"""Types of a recipe's values, with the limits of each, and the base class of its sections."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

import pydantic

from bnas_larq.files import expand_home, is_plain_name
from bnas_larq.spaces import shortcut_kind
from bnas_larq.text_files import is_text

#: The type that binary convolutions are computed in during search and training; see
#: `bnas_larq.precision`. Evaluation and export use float32.
Precision = Literal["float32", "bfloat16", "auto"]

#: Types of full-precision kernels in an exported file; see `bnas_larq.export.float_storage`.
FloatStorage = Literal["float32", "float16", "int8"]


def _plain_name(name: str) -> str:
    if not is_plain_name(name):
        raise ValueError("a short name of printable characters, without / and no dot in front")
    return name


def _shortcut(value: str | bool | None) -> str | None:
    return None if value is None else shortcut_kind(value)


#: Names that become names of folders and files.
PlainName = Annotated[str, pydantic.AfterValidator(_plain_name)]
#: Paths, and names in place of them.
UserPath = Annotated[str, pydantic.AfterValidator(expand_home)]
#: More than any method needs: what is counted is also held in memory, or done one by one.
Count = Annotated[int, pydantic.Field(gt=0, le=10**6)]
Natural = Annotated[int, pydantic.Field(ge=0, le=10**6)]
#: Numbers of examples, and megabytes.
Large = Annotated[int, pydantic.Field(gt=0, le=10**9)]
#: The largest size of a network; `bnas_larq.layers.template.check_weights` also limits the whole.
MAX_CELLS, MAX_CHANNELS, MAX_CLASSES, MAX_SIDE = 1000, 10_000, 100_000, 10_000
Cells = Annotated[int, pydantic.Field(gt=0, le=MAX_CELLS)]
Channels = Annotated[int, pydantic.Field(ge=2, le=MAX_CHANNELS)]
Side = Annotated[int, pydantic.Field(gt=0, le=MAX_SIDE)]
ColorValue = Annotated[int, pydantic.Field(ge=0, le=255)]
#: With the booleans of earlier releases.
_SHORTCUTS = Literal["conv", "pool", "depthwise", "none"]
Shortcut = Annotated[_SHORTCUTS | bool, pydantic.AfterValidator(_shortcut)]
OptionalShortcut = Annotated[_SHORTCUTS | bool | None, pydantic.AfterValidator(_shortcut)]
Decay = Annotated[float, pydantic.Field(ge=0, lt=1)]
NotNegative = Annotated[float, pydantic.Field(ge=0)]
Positive = Annotated[float, pydantic.Field(gt=0)]
Sha256 = Annotated[str, pydantic.Field(pattern="^[0-9a-f]{64}$")]
#: Choices of residual networks; see `bnas_larq.networks.residual_network.ResidualConfig`.
Transition = Literal[
    "pool",
    "depthwise",
    "pool-conv",
    "conv-pool",
    "blur-conv",
    "conv",
    "binary-conv",
    "conv-max-pool",
]
BlockOrder = Literal["sign-conv-act-bn-add", "sign-conv-bn-add-act", "bn-sign-conv-act-add"]
Nonlinearity = Literal["none", "relu", "prelu", "rprelu"]


class Section(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @pydantic.field_validator("*", mode="before")
    @classmethod
    def _of_its_kind(cls, value: Any, info: pydantic.ValidationInfo) -> Any:
        """No true for 1, which Python takes it for, and no text that no file can hold."""
        items = value if isinstance(value, list | tuple) else [value]
        annotation = cls.model_fields[info.field_name].annotation
        if bool not in (annotation, *get_args(annotation)):
            if any(isinstance(item, bool) for item in items):
                raise ValueError("a number or text, not true or false")
        for text in (item for item in items if isinstance(item, str)):
            if not is_text(text):
                raise ValueError("Unicode text without the character NUL")
        return value
