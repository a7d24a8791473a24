"""The simulated shop: reproducible, with unique ids, and events that its own schemas accept."""

from datetime import UTC, datetime
from itertools import islice
from typing import Any

import jsonschema

from milkrun.cli.demo.shop import Shop
from milkrun.cli.demo.templates import SCHEMAS

START = datetime(2026, 11, 24, 10, tzinfo=UTC)


def events(seed: int, steps: int = 200) -> list[dict[str, Any]]:
    return [
        event for step in islice(Shop(seed, START).steps(), steps) for event in (*step.app, *step.services)
    ]


def test_the_same_seed_gives_the_same_events() -> None:
    assert events(7) == events(7)
    assert events(7) != events(8)


def test_ids_are_unique_also_between_seeds() -> None:
    both = [event["id"] for seed in (1, 2) for event in events(seed)]
    assert len(set(both)) == len(both)


def test_every_event_is_as_its_schema_says() -> None:
    checks = {name: jsonschema.Draft202012Validator(schema) for name, schema in SCHEMAS.items()}
    found = events(3)
    assert {event["type"] for event in found} == set(SCHEMAS)
    for event in found:
        checks[event["type"]].validate(event)


def test_only_orders_are_delivered_each_once() -> None:
    found = events(5)
    ordered = [event["order"]["id"] for event in found if event["type"] == "ordered"]
    delivered = [event["order"]["id"] for event in found if event["type"] == "delivered"]
    assert len(set(delivered)) == len(delivered)
    assert set(delivered) <= set(ordered)
