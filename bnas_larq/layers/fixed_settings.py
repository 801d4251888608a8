"""Settings of Keras' layers that a kind of layer determines itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from bnas_larq.errors import BnasLarqError


def check_fixed(layer: str, settings: Mapping[str, object], fixed: Mapping[str, object]) -> None:
    """Raise BnasLarqError for a setting that a kind of layer determines itself, in another way."""
    for key, value in settings.items():
        if key in fixed and not _equals(value, fixed[key]):
            raise BnasLarqError(
                f"A {layer} determines {', '.join(fixed)} itself. Received: {key}={value!r}. "
                "Omit it."
            )


def _equals(value: object, fixed: object) -> bool:
    """Whether both are the same to Keras, which has pairs of sizes."""
    return value == fixed or (isinstance(value, list | tuple) and [*value] == [fixed, fixed])


class FixedSettings:
    """A layer that determines some settings itself; it stands in front of the class that has them.

    Attributes:
        fixed: the settings' names and values, as of the class behind it.

    Raises:
        BnasLarqError: another value of such a setting.

    Example:
        >>> from bnas_larq.backend import keras
        >>> class Pointwise(FixedSettings, keras.layers.Conv2D):
        ...     fixed = {"kernel_size": 1}
        >>> Pointwise(filters=4).kernel_size
        (1, 1)
        >>> "kernel_size" in Pointwise(filters=4).get_config()
        False
    """

    fixed: ClassVar[Mapping[str, object]] = {}

    def __init__(self, *args, **kwargs) -> None:
        check_fixed(type(self).__name__, kwargs, self.fixed)
        super().__init__(*args, **{**kwargs, **self.fixed})

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        return {key: value for key, value in config.items() if key not in self.fixed}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]):
        """Files of earlier releases hold the fixed settings, too."""
        chosen = {key: value for key, value in config.items() if key not in cls.fixed}
        return super().from_config(chosen)
