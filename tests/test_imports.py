"""The house keeps its floors: every module's syntax tree is read, and nothing is imported for it.

Imports inside functions count too: a lazy import upwards is still an import upwards.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "bnas_larq"

#: From the ground up, as DESIGN lists them.
_ROOMS = (
    (
        *(
            "errors",
            "lazy",
            "text_files",
            "files",
            "run_records",
            "darts_notation",
            "genotype",
            "spaces",
            "discretize",
        ),
        *(
            "setting_types",
            "data_settings",
            "searcher_settings",
            "teacher_settings",
            "train_settings",
            "settings",
            "study_settings",
            *("recipe", "recipe_checks"),
        ),
        *("resources", "run_folder", "checkpoints", "tables", "console", "pages"),
    ),
    ("backend", "determinism", "precision", "strategies"),
    ("data",),
    ("layers",),
    ("networks",),
    ("supernet",),
    ("costs",),
    ("fitting",),
    ("training", "search", "export", "report"),
    ("zoo",),
    ("run",),
    ("benchmark",),
    ("cli",),
)
FLOORS = {room: floor for floor, rooms in enumerate(_ROOMS) for room in rooms}
#: Rooms of one floor do not import each other, but on the first two.
SEPARATE_FLOORS = set(range(2, len(_ROOMS)))

#: Behind one door, which sets Keras 2 before anybody else can touch it.
ONLY_IN_BACKEND = {"tensorflow", "tf_keras", "keras", "larq"}
#: They import TensorFlow or are optional: inside functions only, after the backend.
ONLY_IN_FUNCTIONS = {
    "larq_compute_engine",
    "tensorflow_datasets",
    "keras_tuner",
    "larq_zoo",
    "torch",
    "safetensors",
}
#: Modules whose classes extend theirs, by what they so import at the top. They are themselves
#: imported inside functions only.
LAZY_MODULES = {
    f"{PACKAGE}.search.tuning.durable": "keras_tuner",
    f"{PACKAGE}.search.tuning.evolution": "keras_tuner",
    f"{PACKAGE}.search.tuning.oracles": "keras_tuner",
    f"{PACKAGE}.search.tuning.tuner": "keras_tuner",
}
#: `bnas-larq --help` and small commands must not wait for them.
NOT_AT_TOP_OF_CLI = {"matplotlib", "sklearn", "scipy", "numpy", "pydantic", "rich"}
NOT_ON_FLOOR_0 = ONLY_IN_FUNCTIONS | {"matplotlib", "sklearn", "scipy"}
#: Files from strangers are data; these modules run what they read.
NEVER = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib", "tests"}
UNSAFE_YAML = {"load", "load_all", "unsafe_load", "unsafe_load_all", "full_load", "full_load_all"}


class Import(NamedTuple):
    """`module` as written, absolute; `names` taken from it; whether it happens at import time."""

    module: str
    names: tuple[str, ...]
    line: int
    at_top: bool


def modules() -> dict[str, Path]:
    """Dotted name → file of every module of the package."""
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def part(module: str) -> str:
    """`layers` of `bnas_larq.layers.cells`; empty for the package itself."""
    return module.split(".")[1] if "." in module else ""


def for_type_checkers_only(tree: ast.Module) -> set[int]:
    """Ids of the nodes under `if TYPE_CHECKING:`, which never run."""
    return {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }


def imports(module: str, tree: ast.Module, is_package: bool = False) -> Iterator[Import]:
    """All import statements, relative ones resolved."""
    in_functions = {
        id(inner)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for inner in ast.walk(outer)
    }
    later = in_functions | for_type_checkers_only(tree)
    for node in ast.walk(tree):
        at_top = id(node) not in later
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, (), node.lineno, at_top)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")
                parents = parents[: len(parents) - node.level + is_package]
                base = ".".join([*parents, base] if base else parents)
            yield Import(base, tuple(alias.name for alias in node.names), node.lineno, at_top)


def own_targets(entry: Import, known: set[str]) -> set[str]:
    """Modules of the package that an import statement reaches, submodules among its names too."""
    if entry.module.split(".")[0] != PACKAGE:
        return set()
    submodules = {f"{entry.module}.{name}" for name in entry.names} & known
    rest = len(submodules) < len(entry.names) or not entry.names
    return submodules | ({entry.module} if rest else set())


def import_violations(
    module: str, tree: ast.Module, known: set[str], is_package=False
) -> list[str]:
    """What the module's imports break, each as `line N: …`."""
    if module == PACKAGE:
        return []  # hands out names of all floors, lazily; tested below
    if part(module) not in FLOORS:
        return [f"line 1: {module} has no floor yet: add it to FLOORS"]
    here, floor = part(module), FLOORS[part(module)]
    found = []
    for entry in imports(module, tree, is_package):
        outside = entry.module.split(".")[0]
        where = f"line {entry.line}:"
        if outside in NEVER:
            found.append(f"{where} {outside} is never imported")
        patched = here == "determinism" and outside == "tensorflow" and not entry.at_top
        if outside in ONLY_IN_BACKEND and here != "backend" and not patched:
            found.append(f"{where} only backend.py imports {outside}")
        if outside in ONLY_IN_FUNCTIONS and entry.at_top and LAZY_MODULES.get(module) != outside:
            found.append(f"{where} {outside} is imported inside functions only")
        in_command = here == "cli"
        if outside in NOT_AT_TOP_OF_CLI and entry.at_top and in_command:
            found.append(f"{where} {outside} is imported inside the commands")
        if outside in NOT_ON_FLOOR_0 and floor == 0:
            found.append(f"{where} floor 0 does not import {outside}")
        for target in own_targets(entry, known):
            if target in LAZY_MODULES and entry.at_top and module not in LAZY_MODULES:
                loaded = LAZY_MODULES[target]
                found.append(f"{where} {target} loads {loaded}: import it inside functions only")
            if target == PACKAGE:
                found.append(f"{where} import from the module that defines it, not from {PACKAGE}")
                continue
            there = FLOORS.get(part(target), -1)
            if there > floor:
                found.append(f"{where} floor {floor} imports {target} of floor {there}")
            elif there == floor and here != part(target) and floor in SEPARATE_FLOORS:
                found.append(f"{where} {here} and {part(target)} meet only on higher floors")
            heavy = 1 <= there < FLOORS["cli"]
            if in_command and entry.at_top and heavy:
                found.append(f"{where} {target} loads TensorFlow: import it inside the command")
    return found


def code_violations(module: str, tree: ast.Module) -> list[str]:
    """What the module's code breaks besides imports, each as `line N: …`."""
    found = []

    def say(node: ast.AST, text: str) -> None:
        found.append(f"line {node.lineno}: {text}")

    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            say(node, "a bare except")
        if isinstance(node, ast.Attribute) and node.attr == "Lambda":
            say(node, "a Lambda layer cannot be saved without pickle")
        if isinstance(node, ast.ImportFrom) and any(a.name == "Lambda" for a in node.names):
            say(node, "a Lambda layer cannot be saved without pickle")
        if isinstance(node, ast.ImportFrom) and node.module == "yaml":
            if UNSAFE_YAML & {alias.name for alias in node.names}:
                say(node, "yaml.safe_load is the only way to read YAML")
        if not isinstance(node, ast.Call):
            continue
        name, owner = called(node.func)
        if name in ("eval", "exec") and owner in ("", "builtins"):
            say(node, f"{name}() runs what it reads")
        if owner == "yaml" and name in UNSAFE_YAML:
            say(node, "yaml.safe_load is the only way to read YAML")
        if any(
            keyword.arg == "allow_pickle" and getattr(keyword.value, "value", True)
            for keyword in node.keywords
        ):
            say(node, "allow_pickle runs what it reads")
        if name in ("import_module", "__import__") and part(module) not in ("lazy", "cli"):
            say(node, "an import by name hides from this test")
    return found


def called(function: ast.expr) -> tuple[str, str]:
    """(name, owner) of what is called: `yaml.load` → ("load", "yaml"), `eval` → ("eval", "")."""
    if isinstance(function, ast.Name):
        return function.id, ""
    if isinstance(function, ast.Attribute):
        owner = function.value
        return function.attr, owner.id if isinstance(owner, ast.Name) else "?"
    return "", "?"


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """A cycle of imports, or an empty list."""
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for target in sorted(graph.get(node, ())):
            if found := visit(target, [*path, node]):
                return found
        done.add(node)
        return []

    return next((found for node in sorted(graph) if (found := visit(node, []))), [])


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
