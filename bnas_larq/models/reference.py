"""Networks of other papers, from larq_zoo, to compare costs with: by name, without weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bnas_larq.backend import keras
from bnas_larq.errors import BnasLarqError, nearest, one_line

PREFIX = "larq_zoo:"


def _factories() -> dict[str, Callable[..., keras.Model]]:
    import larq_zoo

    return {
        name: getattr(module, name)
        for module in (larq_zoo.literature, larq_zoo.sota)
        for name in dir(module)
        if name[0].isupper()
    }


def reference_names() -> list[str]:
    """Names of the networks, such as `QuickNet`."""
    return sorted(_factories())


def reference_model(
    name: str, input_shape: Sequence[int] = (224, 224, 3), num_classes: int = 1000
) -> keras.Model:
    """Build a network of larq_zoo with random weights.

    Args:
        name: as in larq_zoo, with or without `larq_zoo:` in front; capitals do not matter.
        input_shape: (height, width, channels).
        num_classes: outputs of its classifier.

    Raises:
        BnasLarqError: no such network, or it cannot have this size.
    """
    factories = _factories()
    wanted = name.removeprefix(PREFIX)
    match = {known.lower(): known for known in factories}.get(wanted.lower())
    if match is None:
        raise BnasLarqError(
            "A network of larq_zoo is called by its factory's name. "
            f"Received: {wanted!r}; {nearest(wanted, factories)}"
        )
    try:
        return factories[match](
            input_shape=tuple(input_shape), num_classes=num_classes, weights=None
        )
    except ValueError as error:
        raise BnasLarqError(
            f"{match} must be able to have the size that is asked for. "
            f"Received: input_shape={tuple(input_shape)}, num_classes={num_classes} "
            f"({one_line(error)[:120]}). Give a larger input."
        ) from error
