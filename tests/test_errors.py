"""Errors that a user can mend: one base class, one line, a hint to the nearest known name."""

from __future__ import annotations

import pytest

from bnas_larq import errors

KINDS = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and value.__doc__ is not None
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_command_line_can_catch_every_kind_as_one(kind):
    assert issubclass(kind, errors.BnasLarqError)
    assert not issubclass(kind, ValueError | OSError)


def test_a_checkpoint_belongs_to_a_run():
    assert issubclass(errors.CheckpointError, errors.RunError)


@pytest.mark.parametrize(
    ("message", "expected"),
    [("one", "one"), ("a\n  b\tc\n", "a b c"), (ValueError("x\ny"), "x y"), ("", "")],
)
def test_foreign_messages_fit_into_a_sentence(message, expected):
    assert errors.one_line(message) == expected


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("epoch", "did you mean 'epochs'?"),
        ("epochs", "did you mean 'epochs'?"),
        ("chanels", "did you mean 'channels'?"),
        ("zzz", "known: channels, epochs."),
        ("", "known: channels, epochs."),
    ],
)
def test_the_nearest_known_name_is_hinted_at(name, hint):
    assert errors.nearest(name, ["epochs", "channels"]) == hint


def test_known_names_may_come_from_any_iterable():
    assert errors.nearest("q", (name for name in ("b", "a"))) == "known: a, b."


def test_a_message_of_megabytes_keeps_its_rule_and_its_way_out():
    message = str(errors.RecipeError(f"A rule. Received: {'x' * 3_000_000}. The way out."))
    assert len(message) < 2100
    assert message.startswith("A rule. Received: xxx") and message.endswith("xxx. The way out.")
    assert " … " in message


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Größe α\n\t5 × 5", "Größe α\n\t5 × 5"),
        ("a\x1b[2J\r\x07b", "a\\x1b[2J\\r\\x07b"),
        ("evil\u202egnp.exe", "evil\\u202egnp.exe"),
        ("caf\udce9", "caf\\udce9"),
    ],
)
def test_control_characters_are_shown_as_escapes(text, shown):
    assert errors.printable(text) == shown
    assert errors.one_line(text).isprintable()
