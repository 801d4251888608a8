"""The rules of imports and code, read from syntax trees; `tests/test_imports.py` holds them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
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
            *("recipe", "recipe_checks", "plan_checks"),
        ),
        *("resources", "run_folder", "checkpoints", "tables", "console", "pages", "machine"),
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
