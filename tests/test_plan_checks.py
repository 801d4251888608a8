"""Stages that contradict the rest of their recipe; others are tested beside what they train."""

from __future__ import annotations

import pytest

from bnas_larq.errors import RecipeError
from bnas_larq.plan_checks import check_plan
from bnas_larq.recipe import parse_recipe


def taught(views, flip, own):
    """A recipe of one stage with a teacher, whose augmentation is its own or the recipe's."""
    stage = {"teacher": {"model": "x", "views": views}}
    if own:
        stage["augmentation"] = {"flip": flip}
    data = {"augmentation": {"flip": "alternating" if own else flip}}
    return parse_recipe({"train": {"stages": [stage]}, "data": data})


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("views", [1, 3])
def test_alternating_flips_need_an_even_number_of_views(views, own):
    """Of three, epochs 2 and 3 have the views 2 and 0, mirrored alike."""
    with pytest.raises(RecipeError, match=f"teacher.views {views} with flip alternating. Give an"):
        check_plan(taught(views, "alternating", own))
    check_plan(taught(views, True, own))
    check_plan(taught(views + 1, "alternating", own))


@pytest.mark.parametrize("own", [False, True])
def test_new_views_in_each_epoch_alternate(own):
    check_plan(taught(None, "alternating", own))
