"""Weights of final networks in HDF5 files: written whole or not at all, refused unless they fit."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from bnas_larq.backend import keras, tf
from bnas_larq.errors import WeightsError, one_line
from bnas_larq.files import write_atomic
from bnas_larq.layers.template import CLASSIFIER

#: HDF5 refuses attributes of 64 KiB; Keras cuts longer lists of names into numbered parts.
_NAMES_A_PART = 200
#: HDF5's own records about the parts of a smaller data set take more than compression saves.
_WORTH_PACKING = 4096
#: Bytes of a data set for each byte in the file; Keras does not compress, but others may have.
_MOST_UNPACKED = 20


def save_weights(model: keras.Model, path: str | Path, *, half: bool = False) -> Path:
    """Write `model`'s weights atomically, in the layout of Keras' own `save_weights`.

    Args:
        half: round them to float16, and compress the large ones. Weights with a value beyond its
            65,504, as variances may have, stay as they are.

    Raises:
        RunError: the file cannot be written; an earlier one is untouched.
    """
    # In memory, because HDF5 ends the whole process when its file meets a full disk.
    with h5py.File("weights", "w", driver="core", backing_store=False) as file:
        names = [layer.name for layer in model.layers]
        for part in range(0, len(names), _NAMES_A_PART):
            number = part // _NAMES_A_PART if len(names) > _NAMES_A_PART else ""
            file.attrs[f"layer_names{number}"] = np.array(
                [name.encode() for name in names[part : part + _NAMES_A_PART]]
            )
        file.attrs["backend"] = b"tensorflow"
        file.attrs["keras_version"] = b"2"  # without it Keras takes the layout of version 1
        # Keras demands both groups and attributes of layers and models without weights.
        file.create_group("top_level_model_weights").attrs["weight_names"] = np.array([], "S1")
        for layer in model.layers:
            group = file.create_group(layer.name)
            group.attrs["weight_names"] = np.array([w.name.encode() for w in layer.weights], "S")
            for weight, value in zip(layer.weights, layer.get_weights(), strict=True):
                packed: dict[str, Any] = {}
                if half:
                    if np.abs(value).max(initial=0) <= np.finfo(np.float16).max:
                        value = value.astype(np.float16)
                    if value.size >= _WORTH_PACKING:
                        packed = {"compression": "gzip", "shuffle": True}
                group.create_dataset(weight.name, data=value, **packed)
        file.flush()
        content = file.id.get_file_image()
    return write_atomic(path, content)


def load_weights(
    model: keras.Model,
    path: str | Path,
    *,
    without_top: bool = False,
    foreign: Collection[str] = (),
) -> keras.Model:
    """Load what `save_weights` wrote, by layer name; all is checked before anything is assigned.

    Args:
        without_top: ignore the stored classifier: the model has none, or a new one of any size that
            keeps its weights.
        foreign: the user's own layers in the model, such as those in front of an input tensor;
            they keep their weights.

    Raises:
        WeightsError: no such file, damaged, of another network, or of another shape.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(
            f"Weights are read from an HDF5 file. Received: {path}, which does not exist. "
            "Check the path."
        )
    shapes = {layer.name: [tuple(w.shape) for w in layer.weights] for layer in model.layers}
    values = {}
    try:
        with h5py.File(path, "r") as file:
            group = _held(file, "model_weights") if "model_weights" in file else file
            for name in group:
                node = _held(group, name)
                names = node.attrs.get("weight_names", [])
                names = [n.decode() if isinstance(n, bytes) else str(n) for n in names]
                held = [_held(node, weight) for weight in names]
                fits = [dataset.shape for dataset in held] == shapes.get(name)
                values[name] = [_read(dataset, wanted=fits) for dataset in held]
    except (OSError, RuntimeError, KeyError, AttributeError, TypeError, ValueError) as error:
        raise WeightsError(
            f"Weights must be an intact HDF5 file. Received: {path} "
            f"({one_line(error)[:120]}). Restore or retrain them."
        ) from error
    top = {CLASSIFIER} if without_top else set()
    layers = [layer for layer in model.layers if layer.name not in {*foreign, *top}]
    names = {layer.name for layer in layers} | top
    assignments = []
    for layer in layers:
        if not layer.weights:
            continue
        stored = values.get(layer.name)
        if stored is None or len(stored) != len(layer.weights):
            raise _misfit(f"{path} without the weights of layer {layer.name!r}")
        for variable, array in zip(layer.weights, stored, strict=True):
            if tuple(variable.shape) != tuple(array.shape):
                raise WeightsError(
                    "Weights must have the network's shapes. Received: "
                    f"{tuple(array.shape)} for {variable.name!r} of "
                    f"shape {tuple(variable.shape)} in {path}. Use the size they were trained with."
                )
        assignments.append((layer, stored))
    for name in values:
        if values[name] and name not in names:
            raise _misfit(f"{path} with weights of layer {name!r}, which the network lacks")
    for layer, stored in assignments:
        layer.set_weights(stored)
    return model


def _misfit(received: str) -> WeightsError:
    return WeightsError(
        "Weights must belong to the network they are loaded into. "
        f"Received: {received}. Use the genotype and size they were trained with."
    )


def _read(dataset: h5py.Dataset, *, wanted: bool) -> np.ndarray:
    """The numbers of a data set; unless wanted, zeros that take no memory: a small file can claim
    any shape."""
    if not np.issubdtype(dataset.dtype, np.floating) or dataset.shape is None:
        raise ValueError(f"{dataset.name!r} holds no floating-point numbers")
    if not wanted:
        return np.broadcast_to(np.float32(0), dataset.shape)
    values = dataset[()]
    if not np.isfinite(values).all():
        raise ValueError(f"{dataset.name!r} holds NaN or infinity")
    return values


def stored_numbers(group: h5py.Group, seen: set[int] | None = None) -> int:
    """How many numbers the data sets below `group` hold; ValueError if one of them claims far more
    than is stored, or is not in the group's own file, see `_held`."""
    seen, numbers = set() if seen is None else seen, 0
    for name in group:
        member = _held(group, name)
        address = h5py.h5o.get_info(member.id).addr
        if isinstance(member, h5py.Group) and address not in seen:
            seen.add(address)  # hard links can make circles
            numbers += stored_numbers(member, seen)
        elif isinstance(member, h5py.Dataset):
            if member.nbytes > _MOST_UNPACKED * member.id.get_storage_size() + 2**16:
                raise ValueError(f"{name!r} claims {member.nbytes:,} bytes, which are not stored")
            numbers += member.size or 0
    return numbers


@contextlib.contextmanager
def at_most_weights(numbers: int) -> Iterator[None]:
    """Let no layer create more than `numbers` weights in all: a small file can describe layers that
    fill any memory. ValueError before they are allocated."""
    created = 0

    def create(following: Callable[..., tf.Variable], **settings: Any) -> tf.Variable:
        nonlocal created
        created += math.prod(settings.get("shape") or ())
        if created > numbers:
            raise ValueError("it describes more weights than it holds")
        return following(**settings)

    with tf.variable_creator_scope(create):
        yield


def _held(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset:
    """What `group` itself holds under `name`. HDF5 can refer to other files: a stranger's weights
    could make us read any file of this machine."""
    for part in name.split("/"):
        linked = not isinstance(group.get(part, getlink=True), h5py.HardLink)
        group = None if linked else group[part]
        if linked or (isinstance(group, h5py.Dataset) and (group.external or group.is_virtual)):
            raise ValueError(f"{name!r} is a reference to somewhere else")
    return group
