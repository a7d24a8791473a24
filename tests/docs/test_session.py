"""The comparison of what a page shows with what is printed."""

import pytest

from tests.docs.session import Command, commands, matches


@pytest.mark.parametrize(
    ("shown", "expected", "same"),
    [
        ("a\tb\n1\t2\n", ["a    b", "1    2"], True),
        ("took 12 ms\n", ["took ... ms"], True),
        ("a\nb\nc\n", ["a", "...", "c"], True),
        ("a\nc\n", ["a", "...", "c"], True),
        ("anything\n", [], True),
        ("a\nb\n", ["a"], False),
        ("a\n", ["a", "b"], False),
        ("a.c\n", ["a.c"], True),
        ("abc\n", ["a.c"], False),
    ],
)
def test_matches(shown: str, expected: list[str], same: bool) -> None:
    assert matches(shown, expected) is same


def test_commands_go_on_over_lines() -> None:
    text = "$ one \\\n>   two\nout\n$ three\n"
    assert commands(text) == [Command("one \\\n  two", ("out",)), Command("three", ())]
