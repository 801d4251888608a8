"""The examples in the docstrings of everything public run, and nothing public lacks one.

Public are the names of `bnas_larq` and `bnas_larq.zoo`, and every class that is registered with
Keras: layers, quantizers, constraints, schedules and so on. They are collected from syntax trees,
so that collecting these tests imports no TensorFlow.
"""

from __future__ import annotations

import ast
import doctest
import importlib
from pathlib import Path

import pytest

import bnas_larq
import bnas_larq.zoo

ROOT = Path(bnas_larq.__file__).parents[1]


def registered() -> dict[str, str]:
    """Class → module, of every class of the package under the decorator `@register`."""
    homes = {}
    for path in sorted(Path(bnas_larq.__file__).parent.rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and any(
                isinstance(decorator, ast.Name) and decorator.id == "register"
                for decorator in node.decorator_list
            ):
                homes[node.name] = module
    return homes


#: Public name → module that defines it.
HOMES = {**bnas_larq._HOMES, **bnas_larq.zoo._HOMES, **registered()}


def test_every_registered_class_is_collected() -> None:
    from bnas_larq.backend import keras

    for module in set(HOMES.values()):
        importlib.import_module(module)
    classes = {
        value.__name__
        for value in keras.utils.get_custom_objects().values()
        if value.__module__.split(".")[0] == "bnas_larq" and isinstance(value, type)
    }
    assert classes, "nothing is registered: the check has lost its object"
    assert classes <= set(HOMES)


def test_every_scheme_quantises_with_classes_that_have_examples() -> None:
    from bnas_larq.layers.quantizers import get_scheme, scheme_names

    for name in scheme_names():
        scheme = get_scheme(name)
        parts = {
            scheme.input_quantizer(),
            *scheme.kernel_settings().values(),
            *scheme.depthwise_settings().values(),
        }
        ours = {type(part) for part in parts if type(part).__module__.startswith("bnas_larq.")}
        assert {kind.__name__ for kind in ours} <= set(HOMES), f"scheme {name}"


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("name", sorted(HOMES))
def test_docstring_has_an_example_and_it_runs(name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(HOMES[name])
    tests = doctest.DocTestFinder().find(getattr(module, name), name, module)
    examples = {test.name: test.examples for test in tests}
    assert examples.get(name), f"the docstring of {HOMES[name]}.{name} needs an example"
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    report: list[str] = []
    for test in tests:
        runner.run(test, out=report.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(report)
