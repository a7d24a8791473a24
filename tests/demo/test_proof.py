"""The demo's account by ids, with every kind of wrong put in."""

import pytest

from milkrun.cli.demo.proof import Proof, prove


def account(warehouse: list[str], lake: list[str], *, dead: int = 1) -> Proof:
    return prove(["a", "b", "c"], warehouse, lake, dead=dead, dead_expected=1)


def test_both_targets_hold_what_was_sent() -> None:
    proof = account(["c", "a", "b"], ["a", "b", "c"])
    assert proof == Proof(3, 3, 3, lost=0, doubled=0, strange=0, dead=1, dead_expected=1)
    assert proof.even
    assert proof.text() == "3 events sent, 3 in DuckDB, 3 in Parquet, 0 lost, 0 doubled, 1 dead letters"


@pytest.mark.parametrize(
    ("warehouse", "lake", "lost", "doubled", "strange"),
    [
        (["a", "b"], ["a", "b", "c"], 1, 0, 0),
        (["a", "b", "c"], [], 3, 0, 0),
        (["a", "b", "c", "c", "c"], ["a", "b", "c"], 0, 2, 0),
        (["a", "b", "c"], ["a", "b", "c", "d"], 0, 0, 1),
        # One lost and one doubled leave the count as it should be.
        (["a", "b", "b"], ["a", "b", "c"], 1, 1, 0),
    ],
)
def test_what_is_wrong_shows(
    warehouse: list[str], lake: list[str], lost: int, doubled: int, strange: int
) -> None:
    proof = account(warehouse, lake)
    assert (proof.lost, proof.doubled, proof.strange) == (lost, doubled, strange)
    assert not proof.even


def test_dead_letters_count_too() -> None:
    proof = account(["a", "b", "c"], ["a", "b", "c"], dead=2)
    assert not proof.even
    assert proof.text().endswith("2 dead letters (should be 1)")
