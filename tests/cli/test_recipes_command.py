"""`bnas-larq recipes list|show` on the recipes that ship."""

from __future__ import annotations

import yaml

from bnas_larq.cli.main import main
from bnas_larq.resources import recipe_names


def test_list_has_a_line_with_a_description_for_every_recipe(capsys):
    assert main(["recipes", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(recipe_names())
    assert not [line for line in lines if "(no description)" in line]


def test_show_prints_a_recipe_that_can_be_read_again(capsys, tmp_path):
    assert main(["recipes", "show", "quickstart"]) == 0
    shown = capsys.readouterr().out
    assert isinstance(yaml.safe_load(shown), dict)
    (tmp_path / "mine.yaml").write_text(shown)
    assert main(["recipes", "show", str(tmp_path / "mine.yaml")]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == yaml.safe_load(shown)


def test_an_unknown_recipe_is_answered_with_the_nearest(capsys):
    assert main(["recipes", "show", "quickstrat"]) == 2
    assert "did you mean 'quickstart'?" in capsys.readouterr().err
