"""The judge itself is judged: each kind of damage, put in by hand, is named; a good run passes."""

from __future__ import annotations

from dataclasses import replace

from tests.chaos.checker import Row, Told, Verdict, judge

TOLD = [Told(f"e{i}", "shop.order", f"k{i % 2}", i, "accepted") for i in range(6)]
ROWS = [Row(f"e{i}", "shop.order", i % 2, i // 2, f"k{i % 2}", i) for i in range(6)]


def test_a_good_run_is_good() -> None:
    assert judge(TOLD, reversed(ROWS)).good


def test_a_missing_row_is_lost() -> None:
    assert judge(TOLD, ROWS[1:]) == Verdict(lost=["e0"])


def test_a_row_twice_is_doubled() -> None:
    assert judge(TOLD, [*ROWS, replace(ROWS[5], offset=9, seq=9)]).doubled == ["e5"]


def test_refused_poison_and_unheard_of_are_uninvited() -> None:
    told = [replace(TOLD[0], told="refused"), replace(TOLD[1], told="poison"), *TOLD[2:]]
    stranger = Row("x", "shop.order", 0, 99, "k9", 0)
    assert judge(told, [*ROWS, stranger]) == Verdict(uninvited=["e0", "e1", "x"])


def test_unknown_may_be_there_or_not() -> None:
    told = [replace(TOLD[0], told="unknown"), *TOLD[1:]]
    assert judge(told, ROWS).good
    assert judge(told, ROWS[1:]).good


def test_order_within_a_key_counts() -> None:
    swapped = [replace(ROWS[0], offset=1), replace(ROWS[2], offset=0), ROWS[1], *ROWS[3:]]
    assert judge(TOLD, swapped).disordered == ["shop.order/k0"]


def test_a_key_in_two_partitions_is_disorder() -> None:
    assert judge(TOLD, [*ROWS[:5], replace(ROWS[5], partition=0, offset=7)]).disordered == ["shop.order/k1"]
