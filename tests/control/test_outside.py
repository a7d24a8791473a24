"""The ledger of a log that others write to as well, played by an embedded one: what no source brought is counted in the log itself."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pytest

from milkrun.control.coordinator import Project
from milkrun.control.counting import EventCounter
from milkrun.control.ledgers import SinkCount
from milkrun.log.embedded import EmbeddedLog
from milkrun.model.batch import RECORD_SCHEMA, no_headers
from milkrun.model.ledger import LedgerEntry, Stage
from milkrun.testing.clock import ManualClock
from tests.control.conftest import Write

PIPELINE = "sources: {in: {queue: {url: x}, topic: orders}}\nsinks: {out: {table: {}}}\n"


@pytest.fixture
def shop(write: Write, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    monkeypatch.setattr(EmbeddedLog, "private", False)
    with Project(write({"pipelines/shop.yaml": PIPELINE}), clock=ManualClock()) as project:
        project.apply()
        yield project


def write_events(project: Project, count: int, *, accepted: int) -> None:
    """Append events, of which so many came through a source."""
    stamps = pa.array([1_000] * count, pa.int64()).cast(RECORD_SCHEMA.field("timestamp").type)
    columns = [stamps, pa.nulls(count, pa.binary()), pa.array([b"{}"] * count), no_headers(count)]
    with project.log.transaction() as transaction:
        transaction.append("orders", 0, pa.RecordBatch.from_arrays(columns, schema=RECORD_SCHEMA))
        if accepted:
            transaction.count([LedgerEntry("shop", "orders", 0, 0, Stage.ACCEPTED, "in", accepted)])


def deliver(project: Project, count: int, offset: int) -> None:
    with project.log.transaction() as transaction:
        transaction.count([LedgerEntry("shop", "orders", 0, 0, Stage.DELIVERED, "out", count)])
        transaction.commit_offset("shop/out", "orders", 0, offset)


def found(project: Project) -> SinkCount:
    (row,) = [row for row in project.ledger().totals if row.topic == "orders"]
    (sink,) = row.sinks
    return sink


def test_events_of_others_are_counted_in_the_log(shop: Project) -> None:
    write_events(shop, 5, accepted=2)
    deliver(shop, 3, 3)
    sink = found(shop)
    assert (sink.delivered, sink.in_flight, sink.outside, sink.even) == (3, 2, 3, True)
    assert sink.note == "3 of the topic's events came from other programs, not through a source"


def test_a_double_is_told_from_events_of_others(shop: Project) -> None:
    write_events(shop, 5, accepted=2)
    deliver(shop, 6, 5)
    assert (found(shop).even, found(shop).note) == (False, "1 events too many")


def test_a_loss_is_told_from_events_of_others(shop: Project) -> None:
    write_events(shop, 5, accepted=4)
    deliver(shop, 3, 5)
    assert (found(shop).even, found(shop).note) == (False, "1 events are missing")


def test_figures_alone_read_nothing(shop: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    write_events(shop, 5, accepted=5)
    monkeypatch.setattr(shop.log, "read", lambda *_, **__: pytest.fail("an event was read"))
    (row,) = [row for row in shop.ledger(prove=False).totals if row.topic == "orders"]
    assert (row.accepted, row.sinks[0].in_flight) == (5, 5)


def test_what_is_too_much_to_count_is_not_counted(shop: Project) -> None:
    write_events(shop, 5, accepted=0)
    counter = EventCounter(shop.log, most=4)
    assert counter.count("orders", 0, 0, 5) is None
    assert counter.count("orders", 0, 1, 4) == 3
    assert counter.count("orders", 0, 1, 4) == 3
    assert counter.count("orders", 0, 3, 5) is None
    assert counter.count("nothing", 0, 0, 1) is None
