"""Nested models, such as a backbone under a user's head, as one graph of layers.

The converter inlines nested models anyway. Exact padding, the naming of convolutions and lint need
to see every layer with its inputs, at the size on which it works.
"""

from __future__ import annotations

from collections.abc import Sequence

from bnas_larq.backend import keras, tf, unbounded_kernels
from bnas_larq.costs.multiplications import calls
from bnas_larq.errors import ExportError, one_line
from bnas_larq.export.ordinary_convolutions import with_ordinary_convolutions


@unbounded_kernels()
def flattened(model: keras.Model) -> keras.Model:
    """The model as one graph of layers that are not models, with ordinary convolutions, see
    `bnas_larq.export.ordinary_convolutions`.

    Args:
        model: functional or sequential, with an input shape.

    Returns:
        The model itself if nothing has to change; otherwise a copy of the same function, in which
        the layer `conv` of the nested model `backbone` is called `backbone/conv`.

    Raises:
        ExportError: it, or a nested model, is subclassed and so has no graph, or has a layer that
            cannot be copied.
    """
    _check_graph(model)
    if not any(isinstance(layer, keras.Model) for layer in model.layers):
        return with_ordinary_convolutions(model)
    inputs = [
        keras.Input(tensor.shape[1:], tensor.shape[0], dtype=tensor.dtype, name=f"input_{index}")
        for index, tensor in enumerate(model.inputs)
    ]
    copies = _Copies()
    outputs = copies.follow(model, "", inputs)
    copies.take_weights()
    return with_ordinary_convolutions(keras.Model(inputs, outputs, name=model.name))


class _Copies:
    """One copy of each layer, so that shared layers stay shared."""

    def __init__(self) -> None:
        self._pairs: dict[int, tuple[keras.layers.Layer, keras.layers.Layer]] = {}

    def follow(
        self, model: keras.Model, prefix: str, inputs: Sequence[tf.Tensor]
    ) -> list[tf.Tensor]:
        """Apply the copies along the model's graph; returns its outputs."""
        _check_graph(model)
        copied = {id(ours): _cast(x, ours) for ours, x in zip(model.inputs, inputs, strict=True)}
        for node in calls(model):
            layer, path = node.layer, prefix + node.layer.name
            if isinstance(layer, keras.Model):
                outputs = self.follow(
                    layer, f"{path}/", [copied[id(tensor)] for tensor in node.keras_inputs]
                )
            else:
                feed: dict[str, list[tf.Tensor]] = {}
                for tensor in node.keras_inputs:
                    feed.setdefault(str(id(tensor)), []).append(copied[id(tensor)])
                args, kwargs = node.map_arguments(feed)
                outputs = tf.nest.flatten(self._copy(layer, path)(*args, **kwargs))
            originals = tf.nest.flatten(node.outputs)
            copied.update((id(o), x) for o, x in zip(originals, outputs, strict=True))
        return [copied[id(tensor)] for tensor in model.outputs]

    def _copy(self, layer: keras.layers.Layer, path: str) -> keras.layers.Layer:
        if id(layer) not in self._pairs:
            try:
                copy = type(layer).from_config({**layer.get_config(), "name": path})
            except (NotImplementedError, TypeError, ValueError) as error:
                raise ExportError(
                    "A layer of a nested model needs a get_config to be exported. "
                    f"Received: {path!r}, a {type(layer).__name__} ({one_line(error)[:120]}). "
                    "Implement its get_config."
                ) from error
            self._pairs[id(layer)] = layer, copy
        return self._pairs[id(layer)][1]

    def take_weights(self) -> None:
        for layer, copy in self._pairs.values():
            copy.set_weights(layer.get_weights())


def _cast(tensor: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Cast to a functional model's input dtype, as calling the model does."""
    return tensor if tensor.dtype == like.dtype else tf.cast(tensor, like.dtype)


def _check_graph(model: keras.Model) -> None:
    if not getattr(model, "_is_graph_network", False):
        raise ExportError(
            "An exported model, and each model nested in it, must be functional or sequential with "
            f"an input shape. Received: {model.name!r}, a {type(model).__name__} without a graph. "
            "Build it with keras.Model(inputs, outputs)."
        )
