"""README and docs keep what they promise: their Python runs, their commands and links exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bnas_larq.cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ROOTS = (".", "bnas_larq")
#: In snippets that would train for minutes, or build a second zoo network: only imports are tried.
SLOW = ("run.run()", "supernet.fit(", "include_top=False")


def snippets() -> list:
    """The Python blocks of all pages, named after page and place."""
    return [
        pytest.param(code, id=f"{page.name}-{number}")
        for page in PAGES
        for number, code in enumerate(
            re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        )
    ]


@pytest.mark.filterwarnings("ignore")  # demonstration weights warn what they are
@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("code", snippets())
def test_snippet_runs(code: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    pixels = np.random.RandomState(0).randint(256, size=(40, 40, 3)).astype(np.uint8)
    Image.fromarray(pixels).save("photo.png")
    tree = ast.parse(code)
    if any(call in code for call in SLOW):
        tree.body = [
            statement
            for statement in tree.body
            if isinstance(statement, ast.Import | ast.ImportFrom)
        ]
    exec(compile(tree, "snippet", "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_links_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    at_start = r"^[ `]*(?:.*&& \.venv/bin/)?bnas-larq ([a-z-]+)"
    commands = set(re.findall(at_start, text, re.MULTILINE))
    commands |= set(re.findall(r"`bnas-larq ([a-z-]+)", text))
    assert commands <= set(COMMANDS)
    for link in re.findall(r"\]\(([^)#]+)", text):
        assert link.startswith("https://") or (page.parent / link).exists(), link


def test_the_route_names_existing_modules() -> None:
    text = (ROOT / "docs" / "how-a-run-works.md").read_text(encoding="utf-8")
    modules = re.findall(r"`([a-z_/]+\.py)`", text)
    missing = [name for name in modules if not any((ROOT / r / name).is_file() for r in ROOTS)]
    assert len(modules) > 20 and not missing
