"""Whole Keras models from files, without running code that they may hold.

A saved model names classes and functions by module, and may hold Python code (Lambda layers). Keras
runs both when it loads, `.h5` files even in safe mode; so the configuration is checked first.
"""

from __future__ import annotations

import builtins
import contextlib
import json
import re
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from bnas_larq.backend import keras, lq, tf, unbounded_kernels
from bnas_larq.errors import BnasLarqError, one_line
from bnas_larq.files import MODEL_SUFFIXES
from bnas_larq.layers import cells as _cells  # noqa: F401 - registers this package's layers
from bnas_larq.networks.weight_files import at_most_weights, stored_numbers
from bnas_larq.text_files import parse_json

#: Packages whose classes a file may name; others must be registered with Keras (--plugin).
_PACKAGES = frozenset({"keras", "tf_keras", "larq", "larq_zoo", "bnas_larq"})
#: Operations of TensorFlow that a model may call: they compute, and read or write no files.
_OPERATIONS = frozenset({"math", "nn", "image", "linalg", "signal", "strings", "__operators__"})
_FORBIDDEN_OPERATIONS = frozenset(
    {"py_function", "numpy_function", "load_library", "load_op_library", "print", "Assert"}
)
#: Layers that call an operation their configuration names, which is checked; and layers that call
#: any operation or method, which no model of plain tensors needs.
_CALLING = frozenset({"TFOpLambda", "SlicingOpLambda"})
#: Numbers that layers create and files lack, such as the states of random generators.
_UNSAVED = 10_000
_FORBIDDEN = frozenset(
    {"ClassMethod", "InstanceMethod", "InstanceProperty", "TensorFlowOpLayer", "__typespec__"}
)
#: Bytes of an archive once unpacked: in all, for each of its own, and of the configuration. Keras
#: does not compress, but others may have.
_MAX_BYTES, _MOST, _LONGEST_CONFIG = 2_000_000_000, 100, 32_000_000


def load_saved_model(path: str | Path) -> keras.Model:
    """Load what `model.save` wrote to an `.h5` or `.keras` file, not compiled.

    Layers of Keras, Larq and bnas_larq are known; others must be registered before
    (`keras.utils.register_keras_serializable`).

    Raises:
        BnasLarqError: no such file, damaged, weights without a model, or a file that holds code or
            names functions that no model needs.
    """
    path = Path(path)
    if not path.is_file() or path.suffix not in MODEL_SUFFIXES:
        raise BnasLarqError(
            "A saved Keras model is a file that ends with .h5 or .keras. "
            f"Received: {path}{'' if path.exists() else ', which does not exist'}. Check the path."
        )
    try:
        described, numbers = _description(path)
    # RuntimeError: of h5py, of encrypted archives, and RecursionError.
    except (OSError, KeyError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        raise _damaged(path, error) from error
    if described is None:
        raise BnasLarqError(
            f"A saved model holds its layers, not only their weights. Received: {path} with "
            "weights alone. Save it with model.save, or give the folder of the run or entry."
        )
    for problem in _problems(described):
        raise BnasLarqError(
            f"A model file is data and runs no code. Received: {path} with {problem}. "
            "Build that part from Keras layers, or register your class and name its module with "
            "--plugin."
        )
    try:
        with _unpacked_aside(), at_most_weights(numbers + _UNSAVED), unbounded_kernels():
            model = keras.models.load_model(path, compile=False, custom_objects=_quantizers())
    except Exception as error:  # Keras' loaders raise many kinds for damaged files
        raise _damaged(path, error) from error
    for weight in model.weights:
        if weight.dtype.is_floating and not np.isfinite(weight.numpy().astype(np.float32)).all():
            raise BnasLarqError(
                f"A model's weights are finite numbers. Received: {path} with others in "
                f"{weight.name!r}. Train it again, or take an earlier file."
            )
    return model


def _quantizers() -> dict[str, type]:
    """Registered quantizers by their bare names: Larq looks them up without a namespace."""
    return {
        name.split(">")[-1]: value
        for name, value in keras.utils.get_custom_objects().items()
        if isinstance(value, type) and issubclass(value, lq.quantizers.Quantizer)
    }


def _damaged(path: Path, error: Exception) -> BnasLarqError:
    version = _keras_version(path)
    if version.startswith("3"):
        return BnasLarqError(
            "Larq needs Keras 2 (the package tf-keras), and so does a saved model. "
            f"Received: {path}, which Keras {version} wrote. Build it with tf-keras and save again."
        )
    return BnasLarqError(
        "A saved Keras model must be whole, and all its layers known. "
        f"Received: {path} ({one_line(error)[:160]}). Save it again, or register its layers."
    )


def _keras_version(path: Path) -> str:
    """The version that a file names; empty if it names none."""
    try:
        if path.suffix == ".keras" and zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive, archive.open("metadata.json") as stream:
                return str(json.loads(stream.read(1000))["keras_version"])
        with h5py.File(path, "r") as file:
            version = file.attrs["keras_version"]
        return version.decode() if isinstance(version, bytes) else str(version)
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, zipfile.BadZipFile):
        return ""


def _description(path: Path) -> tuple[Any, int]:
    """The configuration inside a file, None if there is none, and how many numbers it holds.
    ValueError if they are in another file, or in a form that Keras unpickles."""
    # By Keras' own rule for the format: a file can be both, and hold another model in each.
    if path.suffix == ".keras" and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
            config = archive.getinfo("config.json").file_size
            if unpacked > min(_MOST * path.stat().st_size, _MAX_BYTES) or config > _LONGEST_CONFIG:
                raise ValueError(f"which unpacks to {unpacked:,} bytes")
            numbers = 0
            for name in archive.namelist():
                if name.endswith(".npz"):
                    raise ValueError(f"{name} in place of weights in HDF5 may hold code")
                if name.endswith(".h5"):
                    with archive.open(name) as stream, h5py.File(stream, "r") as file:
                        numbers += stored_numbers(file)
            return parse_json(archive.read("config.json").decode()), numbers
    with h5py.File(path, "r") as file:
        numbers, text = stored_numbers(file), file.attrs.get("model_config")
    text = text.decode() if isinstance(text, bytes) else text
    return None if text is None else parse_json(text), numbers


@contextlib.contextmanager
def _unpacked_aside() -> Iterator[None]:
    """Keras unpacks an archive into a temporary folder, and leaves that behind when it fails."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory() as tempfile.tempdir:
        try:
            yield
        finally:
            tempfile.tempdir = before


def _problems(value: Any) -> Iterator[str]:
    """Forbidden things that a configuration names."""
    if isinstance(value, list):
        for item in value:
            yield from _problems(item)
    if not isinstance(value, dict):
        return
    name, module = value.get("class_name"), value.get("module")
    config = value.get("config")
    # Keras takes either name, with parts of the module's in front of it.
    called = {
        re.split("[.>]", named)[-1]
        for named in (name, value.get("registered_name"))
        if isinstance(named, str)
    }
    if called & {"Lambda", "__lambda__"} or "__lambda__" in value:
        yield "Python code in a Lambda layer"
    if isinstance(value.get("vocabulary"), str):
        yield f"the vocabulary of another file, {value['vocabulary']}"
    for forbidden in sorted(called & _FORBIDDEN):
        yield f"a {forbidden}, which calls anything"
    if called & _CALLING:
        yield from _operation(str(config.get("function") if isinstance(config, dict) else config))
    if isinstance(module, str) and not _is_registered(value):
        last = config if isinstance(config, str) else name
        parts = f"{module}.{last}".split(".")
        if module == "builtins" and isinstance(config, str) and config not in vars(builtins):
            pass  # Keras' own functions are written down like this
        elif parts[0] not in _PACKAGES or "utils" in parts:
            yield f"{module}.{last}"
    for item in value.values():
        yield from _problems(item)


def _operation(name: str) -> Iterator[str]:
    *module, last = name.removeprefix("compat.v1.").split(".")
    # Top-level functions of TensorFlow 1 that read and write files are missing in TensorFlow 2.
    known = module[0] in _OPERATIONS if module else hasattr(tf, last)
    if not known or last in _FORBIDDEN_OPERATIONS:
        yield f"the operation tf.{name}"


def _is_registered(value: dict[str, Any]) -> bool:
    registered = value.get("registered_name")
    return isinstance(registered, str) and keras.utils.get_registered_object(registered) is not None
