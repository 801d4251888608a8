"""What is installed is what is tested: the wheel, built, installed elsewhere, used from there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]


def run(*command: str, cwd: Path, **env: str) -> str:
    """Run a command; its output on stdout, or a failed test that shows what it said."""
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def source_files() -> list[str]:
    """Files of the checkout that git knows or would add; all but caches where there is no git."""
    if shutil.which("git") and (ROOT / ".git").exists():
        listed = run("git", "ls-files", "-coz", "--exclude-standard", cwd=ROOT).split("\0")
        return [name for name in listed if name and (ROOT / name).is_file()]
    parts = ("bnas_larq", "recipes", "zoo", "tests")
    found = [path for part in parts for path in (ROOT / part).rglob("*") if path.is_file()]
    found += [path for path in ROOT.iterdir() if path.is_file()]
    return [str(path.relative_to(ROOT)) for path in found if "__pycache__" not in path.parts]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy so that nothing is left in the checkout."""
    source = tmp_path_factory.mktemp("source")
    for name in source_files():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    out = tmp_path_factory.mktemp("wheel")
    build = ("wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(out), ".")
    run(sys.executable, "-m", "pip", *build, cwd=source)
    (built,) = out.glob("bnas_larq-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A folder with nothing but the installed wheel."""
    target = tmp_path_factory.mktemp("installed")
    place = ("install", "--quiet", "--no-deps", "--target", str(target), str(wheel))
    run(sys.executable, "-m", "pip", *place, cwd=target.parent)
    return target


def test_the_wheel_holds_the_package_and_all_its_data_and_nothing_else(wheel):
    held = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    wanted = {n for n in source_files() if n.startswith("bnas_larq/") and n.endswith(".py")}
    wanted |= {n for n in source_files() if n.startswith("bnas_larq/templates/")}
    for folder in ("recipes", "zoo"):
        data = {n for n in source_files() if n.startswith(f"{folder}/")}
        assert data, f"{folder}/ is empty"
        wanted |= {f"bnas_larq/_{name}" for name in data}
    assert held == wanted
    assert "bnas_larq/_recipes/quickstart.yaml" in held


def test_its_metadata_name_the_command_and_the_bounds(wheel):
    archive = zipfile.ZipFile(wheel)
    held = {name.split(".dist-info/")[-1]: name for name in archive.namelist()}
    command = archive.read(held["entry_points.txt"]).decode("utf-8")
    assert "bnas-larq = bnas_larq.cli.main:main" in command
    metadata = message_from_bytes(archive.read(held["METADATA"]))
    # setuptools versions write the bounds in different orders
    assert SpecifierSet(metadata["Requires-Python"]) == SpecifierSet(">=3.10,<3.13")
    bounds = {r.name: r for r in map(Requirement, metadata.get_all("Requires-Dist"))}
    assert bounds["tensorflow"].specifier == SpecifierSet(">=2.16,<2.20")
    assert bounds["typeguard"].specifier == SpecifierSet("<3")
    assert any(name.endswith("LICENSE") for name in held)


def test_it_works_from_another_place(installed, tmp_path):
    code = """
import json, pathlib, bnas_larq, bnas_larq.resources as resources
from bnas_larq.cli.main import main
print(json.dumps({
    "package": bnas_larq.__file__,
    "recipes": resources.recipe_names(),
    "zoo": str(resources.zoo_dir()),
    "code": main(["recipes", "list"]),
}))
"""
    output = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(installed))
    found = json.loads(output.splitlines()[-1])
    assert Path(found["package"]).is_relative_to(installed)
    assert Path(found["zoo"]).is_relative_to(installed)
    assert "quickstart" in found["recipes"] and found["code"] == 0
    assert output.startswith(found["recipes"][0])


def test_its_published_weights_load(installed, tmp_path):
    code = """
from bnas_larq.zoo import BNASD, find_entry
model = BNASD(input_shape=(32, 32, 3), num_classes=10, weights="cifar10")
print(model.count_params(), find_entry("cifar10", "bnas-d").folder)
"""
    own = {"PYTHONPATH": str(installed), "KERAS_HOME": str(tmp_path), "BNAS_LARQ_ZOO": ""}
    parameters, folder = run(sys.executable, "-c", code, cwd=tmp_path, **own).split()[-2:]
    assert Path(folder).is_relative_to(installed)
    assert (
        int(parameters)
        == json.loads((Path(folder) / "entry.json").read_text())["cost"]["parameters"]
    )
