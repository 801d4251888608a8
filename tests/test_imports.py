"""The house keeps its floors: every module's syntax tree is read, and nothing is imported for it.

Imports inside functions count too: a lazy import upwards is still an import upwards.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter

import pytest
from import_rules import (
    FLOORS,
    LAZY_MODULES,
    ONLY_IN_BACKEND,
    ONLY_IN_FUNCTIONS,
    PACKAGE,
    ROOT,
    code_violations,
    cycle,
    import_violations,
    imports,
    modules,
    own_targets,
    part,
)

MODULES = modules()


@pytest.mark.parametrize("module", MODULES)
def test_module_keeps_the_rules(module):
    path = MODULES[module]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = import_violations(module, tree, set(MODULES), path.name == "__init__.py")
    found += code_violations(module, tree)
    assert not found, f"{path.relative_to(ROOT)}: " + "; ".join(found)


def test_no_two_modules_share_a_name():
    names = Counter(module.rpartition(".")[2] for module in MODULES)
    assert [name for name, number in names.items() if number > 1] == []


def test_no_module_is_longer_than_350_lines():
    lengths = {module: len(path.read_bytes().splitlines()) for module, path in MODULES.items()}
    assert {module: length for module, length in lengths.items() if length > 350} == {}


def test_no_module_imports_itself_in_a_circle():
    graph = {}
    for module, path in MODULES.items():
        if module != PACKAGE:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            entries = imports(module, tree, path.name == "__init__.py")
            graph[module] = {t for e in entries for t in own_targets(e, set(MODULES))} - {module}
    assert not cycle(graph)


def test_the_package_itself_imports_nothing_heavy():
    """`import bnas_larq.errors` runs `bnas_larq/__init__.py` first, so that must stay light."""
    tree = ast.parse((ROOT / PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    for entry in imports(PACKAGE, tree, is_package=True):
        if entry.at_top and entry.module.split(".")[0] == PACKAGE:
            assert {FLOORS[part(t)] for t in own_targets(entry, set(MODULES))} == {0}
        elif entry.at_top:
            assert entry.module.split(".")[0] in {"__future__", "os"}


def test_floor_0_and_the_command_line_load_no_tensorflow():
    light = [name for name in MODULES if FLOORS.get(part(name)) in (0, FLOORS["cli"])]
    heavy = sorted(ONLY_IN_BACKEND | ONLY_IN_FUNCTIONS)
    code = f"import sys, {', '.join(light)}; print([n for n in {heavy} if n in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


@pytest.mark.parametrize(
    ("module", "source", "message"),
    [
        ("errors", "import tensorflow as tf", "only backend.py imports tensorflow"),
        ("cli.a", "def f():\n    import tf_keras", "only backend.py imports tf_keras"),
        ("layers.cells", "from larq.layers import QuantConv2D", "only backend.py imports larq"),
        ("determinism", "from tensorflow.python import a", "only backend.py imports tensorflow"),
        ("genotype", "from bnas_larq.backend import tf", "floor 0 imports bnas_larq.backend"),
        ("layers.a", "def f():\n    from bnas_larq import networks", "of floor 4"),
        ("layers.a", "from ..networks import network", "of floor 4"),
        ("layers", "from ..networks.network import x", "of floor 4"),
        ("search.a", "from bnas_larq.training import b", "search and training meet only"),
        ("zoo.a", "from bnas_larq import SuperNet", "from the module that defines it"),
        ("cli.a", "from bnas_larq.networks import network", "import it inside the command"),
        ("cli.a", "import numpy as np", "numpy is imported inside the commands"),
        ("cli.a", "from bnas_larq.run.recipe_run import x", "import it inside the command"),
        ("cli.a", "if TYPE_CHECKING:\n    pass\nelse:\n    import numpy", "inside the commands"),
        ("genotype", "if TYPE_CHECKING:\n    from bnas_larq.networks import network", "of floor 4"),
        ("fitting.a", "from bnas_larq.training import b", "of floor 8"),
        ("export.a", "import larq_compute_engine", "inside functions only"),
        ("search.a", "import keras_tuner", "inside functions only"),
        ("search.tuning.tuner", "import larq_zoo", "larq_zoo is imported inside functions only"),
        ("search.a", "from bnas_larq.search.tuning import tuner", "loads keras_tuner"),
        ("novel", "", "has no floor yet"),
        ("data.a", "import pickle", "pickle is never imported"),
        ("data.a", "from tests import x", "tests is never imported"),
        ("data.a", "eval('1')", "eval() runs"),
        ("data.a", "import builtins\nbuiltins.exec('1')", "exec() runs"),
        ("data.a", "numpy.load(path, allow_pickle=True)", "allow_pickle"),
        ("data.a", "keras.layers.Lambda(f)", "Lambda layer"),
        ("recipe", "yaml.load(text)", "yaml.safe_load is the only way"),
        ("recipe", "from yaml import unsafe_load", "yaml.safe_load is the only way"),
        ("files", "try:\n    pass\nexcept:\n    pass", "a bare except"),
        ("layers.a", "importlib.import_module('bnas_larq.cli')", "hides from this test"),
    ],
)
def test_the_rules_catch(module, source, message):
    name, tree = f"{PACKAGE}.{module}", ast.parse(source)
    known = {PACKAGE, f"{PACKAGE}.networks", f"{PACKAGE}.networks.network"}
    known |= {f"{PACKAGE}.training", f"{PACKAGE}.training.b", *LAZY_MODULES}
    found = import_violations(name, tree, known, is_package=module == "layers")
    assert message in "; ".join(found + code_violations(name, tree))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("backend", "import tensorflow as tf\nimport larq as lq"),
        ("determinism", "def f():\n    from tensorflow.python.eager import context"),
        ("layers.a", "from bnas_larq.layers.quantizers import SignScale"),
        ("zoo.a", "from bnas_larq import networks"),
        ("export.a", "def f():\n    import larq_compute_engine"),
        ("search.a", "def f():\n    from bnas_larq.search.tuning import tuner"),
        ("search.tuning.tuner", "import keras_tuner\nfrom bnas_larq.search.tuning import durable"),
        ("cli.a", "def f():\n    from bnas_larq.networks import network\n    import numpy"),
        ("cli.a", "def f():\n    from bnas_larq.run.recipe_run import x"),
        ("cli.a", "if TYPE_CHECKING:\n    from bnas_larq.run.recipe_run import x"),
        ("run.a", "import numpy\nfrom bnas_larq.networks import network"),
        ("search.a", "from bnas_larq.fitting import resume"),
        ("training.a", "from bnas_larq.data import splits"),
        ("zoo.a", "model.eval()\nnumpy.load(path, allow_pickle=False)\nyaml.safe_load(text)"),
    ],
)
def test_the_rules_allow(module, source):
    name, tree = f"{PACKAGE}.{module}", ast.parse(source)
    known = {PACKAGE, f"{PACKAGE}.networks", f"{PACKAGE}.networks.network"}
    known |= {f"{PACKAGE}.fitting.resume", *LAZY_MODULES}
    assert import_violations(name, tree, known) + code_violations(name, tree) == []


def test_a_circle_is_found():
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": set()}) == ["a", "b", "c", "a"]
    assert cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
