"""How a method's own search settings are scaled to a comparison's budget."""

from __future__ import annotations

import pytest

from bnas_larq.recipe import parse_recipe
from bnas_larq.run.budget_scaling import ADAPTED, MOST_ALPHA_RATE, adapt

#: Images of CIFAR-10's training part.
IMAGES = 50_000


def changes(own: dict, own_data: dict | None = None, data: dict | None = None, **budget) -> dict:
    """The adapted keys of a method's section `search`; the method and the budget have no validation
    part and all images, unless told."""
    no_validation = {"validation_fraction": 0.0}
    method = parse_recipe({"data": no_validation | (own_data or {}), "search": own})
    shared = {"epochs": 5, "batch_size": 64, **budget}
    shared = parse_recipe({"data": no_validation | (data or {}), "search": shared})
    return {adaptation.key: adaptation.used for adaptation in adapt(method, shared, IMAGES)}


def test_an_equal_budget_changes_nothing():
    assert changes({"epochs": 50, "batch_size": 64}, epochs=50) == {}


def test_a_tenth_of_the_epochs():
    """50 → 5 epochs of the same batches: a tenth of the steps."""
    scaled = changes({"epochs": 50, "batch_size": 64, "alpha_start_epoch": 15, "entropy_tau": 7.7})
    assert scaled == {
        "alpha_start_epoch": 2,  # 15 / 10, rounded
        "entropy_tau": pytest.approx(7.7 / 10),
        "alpha_learning_rate": pytest.approx(3e-4 * (50 - 15) / (5 - 2)),
    }


def test_a_smaller_batch_makes_more_steps_of_a_smaller_rate():
    own = {"epochs": 50, "batch_size": 256, "learning_rate": 0.1, "minimum_learning_rate": 0.004}
    scaled = changes({**own, "entropy_weight": 0, "alpha_learning_rate": 6e-4})
    assert scaled == {
        # 1/10 of the epochs of 256/64 as many steps each.
        "alpha_learning_rate": pytest.approx(6e-4 * 10 / 4),
        "learning_rate": pytest.approx(0.1 * 64 / 256),
        "minimum_learning_rate": pytest.approx(0.004 * 64 / 256),
    }


@pytest.mark.parametrize(("own", "epochs", "used"), [(10, 25, 5), (10, 2, 1), (10, 100, 20)])
def test_the_finish_of_the_bandit(own, epochs, used):
    values = {"epochs": 50, "searcher": "bandit", "bandit": {"finish_epochs": own}}
    assert changes(values, epochs=epochs)["bandit.finish_epochs"] == used


def test_a_bandit_without_finish_gets_none_and_others_are_not_bandits():
    assert "bandit.finish_epochs" not in changes(
        {"searcher": "bandit", "bandit": {"finish_epochs": 0}}
    )
    assert "bandit.finish_epochs" not in changes({"bandit": {"finish_epochs": 10}})


def test_a_tuner_keeps_what_only_supernets_read():
    assert set(changes({"searcher": "tuner"})) <= {"entropy_tau"}


def test_a_one_shot_search_has_no_alpha_to_scale():
    scaled = changes({"searcher": "one-shot", "alpha_start_epoch": 3}, epochs=2)
    assert set(scaled) <= {"learning_rate", "minimum_learning_rate"}


def test_every_rule_is_written_down():
    keys = {f"search.{key}" for key in ADAPTED}
    known = {"search.alpha_start_epoch", "search.entropy_tau", "search.bandit.finish_epochs"}
    assert known <= keys and all(rule.text for rule in ADAPTED.values())


def test_fewer_images_make_fewer_steps_of_alpha():
    """Two tenths of the images, and a tenth of the epochs: 1/50 of the steps."""
    scaled = changes({"epochs": 50, "alpha_learning_rate": 6e-4}, limit=10_000)
    assert scaled["alpha_learning_rate"] == pytest.approx(6e-4 * 50)
    # Whatever leaves them out, in the method's own search, too.
    for settings in (
        {"data": {"limit": 10_000}},
        {"data": {"limit": 12_500, "validation_fraction": 0.2}},
        {"data": {"limit": 12_500}, "own_data": {"validation_fraction": 0.2}, "limit": 8_000},
    ):
        rate = changes({"epochs": 50, "alpha_learning_rate": 6e-4}, **settings)
        assert rate["alpha_learning_rate"] == pytest.approx(6e-4 * 50), settings


def test_only_epochs_that_train_alpha_count():
    """35 of 50 epochs, of which 5 leave 3 or 4: PC-DARTS starts at 15, 1.5 rounded is 2."""
    scaled = changes({"epochs": 50, "alpha_start_epoch": 15, "alpha_learning_rate": 6e-4})
    assert scaled["alpha_learning_rate"] == pytest.approx(6e-4 * 35 / 3)
    bandit = {"epochs": 50, "searcher": "bandit", "alpha_learning_rate": 6e-4}
    scaled = changes({**bandit, "bandit": {"finish_epochs": 10}}, epochs=2)
    assert scaled["bandit.finish_epochs"] == 1
    assert scaled["alpha_learning_rate"] == pytest.approx(6e-4 * 10 / 1)


def test_the_rate_of_alpha_has_a_limit():
    """GDAS: 240 epochs of 390 steps at 3e-4 would be 0.36 in 5 epochs of a fifteenth of them."""
    scaled = changes({"epochs": 240, "alpha_learning_rate": 3e-4}, limit=2_000)
    assert scaled["alpha_learning_rate"] == MOST_ALPHA_RATE
    assert f"at most {MOST_ALPHA_RATE:g}" in ADAPTED["alpha_learning_rate"].text
    # A method's own rate is never lowered by it.
    assert "alpha_learning_rate" not in changes({"epochs": 5, "alpha_learning_rate": 0.3})
    assert "alpha_learning_rate" not in changes({"epochs": 10, "alpha_learning_rate": 0.3})
