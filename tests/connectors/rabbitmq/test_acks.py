"""Whatever the order in which polls become durable, nothing is acknowledged before all before it are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milkrun.connectors.rabbitmq.acks import Prefix


def test_in_order() -> None:
    prefix = Prefix()
    first, second = prefix.add(3), prefix.add(7)
    assert prefix.settle(first) == 3
    assert prefix.settle(second) == 7


def test_out_of_order_is_held() -> None:
    prefix = Prefix()
    first, second, third = prefix.add(1), prefix.add(2), prefix.add(9)
    assert prefix.settle(third) is None
    assert prefix.settle(first) == 1
    assert prefix.settle(second) == 9


def test_twice_is_once() -> None:
    prefix = Prefix()
    first, second = prefix.add(1), prefix.add(2)
    assert prefix.settle(first) == 1
    assert prefix.settle(first) is None
    assert prefix.settle(second) == 2


def test_tags_only_grow() -> None:
    prefix = Prefix()
    prefix.add(5)
    with pytest.raises(ValueError, match="5 comes after 5"):
        prefix.add(5)


@given(st.permutations(range(8)))
def test_any_order(order: list[int]) -> None:
    prefix = Prefix()
    spans = [prefix.add(10 * number) for number in range(1, 9)]
    settled: set[int] = set()
    acknowledged = 0
    for index in order:
        settled.add(index)
        acknowledged = prefix.settle(spans[index]) or acknowledged
        whole = next((number for number in range(8) if number not in settled), 8)
        assert acknowledged == 10 * whole
