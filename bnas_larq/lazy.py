"""What is imported on first use, so that light parts need no TensorFlow: package attributes
(PEP 562), and the classes that saved Keras models name."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from typing import Any

#: Where Keras 2 keeps the classes that it finds by name.
_REGISTRY = "tf_keras.src.saving.object_registration"


def lazy_names(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package; `homes` maps each name to its module."""

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(homes[name]), name)

    return get, lambda: sorted(homes), sorted(homes)


def lazy_classes(homes: Mapping[str, str]) -> None:
    """Let `load_model` of Keras 2 find classes that are not imported yet; `homes` maps the name of
    each, as files hold it, to a module that registers it."""

    class Objects(dict):
        def __contains__(self, name: object) -> bool:
            if not super().__contains__(name) and name in homes:
                importlib.import_module(homes[name])
            return super().__contains__(name)

    def extend(registry: Any) -> None:
        registry._GLOBAL_CUSTOM_OBJECTS = Objects(registry._GLOBAL_CUSTOM_OBJECTS)

    class Finder:
        """Extends the registry once it is imported."""

        def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
            if name != _REGISTRY:
                return None
            sys.meta_path.remove(self)
            spec = importlib.util.find_spec(name)
            execute = spec.loader.exec_module
            spec.loader.exec_module = lambda module: (execute(module), extend(module))
            return spec

    if _REGISTRY in sys.modules:
        extend(sys.modules[_REGISTRY])
    else:
        sys.meta_path.insert(0, Finder())
