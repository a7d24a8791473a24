"""The benchmarks' events: their size, and that they differ."""

import json

from bench.events import MEAN_BYTES, POOL, events


def test_mean_size_is_as_stated() -> None:
    sizes = [len(event) for event in events(POOL)]

    assert abs(sum(sizes) / len(sizes) - MEAN_BYTES) < 5


def test_events_are_the_same_for_a_seed_and_nested() -> None:
    first = list(events(50))

    assert first == list(events(50))
    assert first != list(events(50, seed=8))
    assert all(
        isinstance(json.loads(event)["customer"]["address"]["location"]["lat"], float) for event in first
    )


def test_ids_go_on_where_a_first_is_given() -> None:
    ids = [json.loads(event)["id"] for event in events(3, first=41)]

    assert ids == ["order-1000000041", "order-1000000042", "order-1000000043"]
