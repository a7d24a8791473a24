"""Events written once more into a target of last events: those meant and no others, once each, whatever is killed; and production's
offset, its counts and later events stay as they are."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from milkrun.connectors.duckdb import DuckDBConfig, DuckDBSink
from milkrun.model.batch import RECORD_SCHEMA, TopicPartition
from milkrun.model.spec import CutSpec, PipelineSpec, TopicSpec, dead_letter_topic
from milkrun.plugin import SinkContext
from milkrun.runtime import delivery as delivery_module
from milkrun.runtime import refreshing
from milkrun.runtime.delivery import Delivery
from milkrun.runtime.generations import Bound, Generation
from milkrun.runtime.stores import CUTS
from milkrun.runtime.topic_schema import TopicSchemas
from tests.runtime.flows import Shop, body, pipeline_spec, sink_spec

SPEC = pipeline_spec(sink=sink_spec(cut=CutSpec(100, 1 << 20, 1.0)))
WAREHOUSE = "warehouse.duckdb"


class Killed(BaseException):
    """Stands for the end of the process."""


def append(shop: Shop, *events: tuple[str | None, bytes | None]) -> None:
    """Events of these keys and values, a second apart."""
    stamps = [shop.clock.now() + 1000 * number for number in range(len(events))]
    records = pa.RecordBatch.from_arrays(
        [
            pa.array(stamps, pa.int64()).cast(RECORD_SCHEMA.field("timestamp").type),
            pa.array([None if key is None else key.encode() for key, _ in events], pa.binary()),
            pa.array([value for _, value in events], pa.binary()),
            pa.array([[]] * len(events), RECORD_SCHEMA.field("headers").type),
        ],
        schema=RECORD_SCHEMA,
    )
    with shop.log.transaction() as transaction:
        transaction.append("orders", 0, records)


def upserting(shop: Shop, spec: PipelineSpec = SPEC) -> Delivery:
    """A delivery to a table of last events in DuckDB, recovered."""
    shop.log.create_topic(TopicSpec(dead_letter_topic("shop")))
    config = DuckDBConfig(path=Path(WAREHOUSE), mode="upsert")
    sink = DuckDBSink(config, SinkContext("shop", "out", shop.folder, shop.clock))
    sink.open()
    made = Delivery(
        spec,
        spec.sinks[0],
        TopicPartition("orders", 0),
        sink=sink,
        log=shop.log,
        clock=shop.clock,
        schemas=TopicSchemas("shop", spec.schema, shop.log, shop.clock, "worker/out"),
    )
    made.recover()
    while made.advance():
        pass
    return made


def order(shop: Shop, start: int = 0, end: int = 1000, **more: Any) -> dict[int, Generation]:
    info = shop.log.topic("orders")
    assert info is not None
    bounds = {"orders[0]": Bound(info.incarnation, start)}, {"orders[0]": Bound(info.incarnation, end)}
    return {2: Generation(2, "running", "me@here", 0, 0, "", *bounds, into=1, **more)}


def refresh(delivery: Delivery, orders: dict[int, Generation]) -> None:
    while delivery.refresh(orders):
        pass


def spoil(shop: Shop) -> None:
    """Change every row by hand, so that what is written once more shows."""
    with duckdb.connect(str(shop.folder / WAREHOUSE)) as connection:
        connection.execute("UPDATE orders SET n = -1")


def table(shop: Shop) -> dict[int, int]:
    """`n` by offset."""
    with duckdb.connect(str(shop.folder / WAREHOUSE)) as connection:
        found = connection.sql("SELECT _offset, n FROM orders").fetchall()
    assert len(found) == len(dict(found))
    return dict(found)


@pytest.fixture(autouse=True)
def orders(shop: Shop) -> None:
    shop.log.create_topic(TopicSpec("orders"))


def test_the_last_event_of_each_key_is_written_once_more(shop: Shop) -> None:
    append(shop, ("a", body(n=0)), ("b", body(n=1)), ("a", body(n=2)), (None, body(n=3)), ("c", body(n=4)))
    append(shop, ("c", None))
    made = upserting(shop)
    ledger, committed = shop.ledger(), shop.committed()
    spoil(shop)
    refresh(made, order(shop))
    assert table(shop) == {1: 1, 2: 2, 3: -1}
    assert (shop.ledger(), shop.committed(), list(shop.log.scan(CUTS))) == (ledger, committed, [])
    append(shop, ("a", body(n=6)))
    made.advance()
    assert table(shop) == {1: 1, 3: -1, 6: 6}


@pytest.mark.parametrize(
    ("start", "end", "more", "written"),
    [
        (1, 3, {}, {1, 2}),
        (0, 4, {"key": "c"}, {2}),
        (0, 4, {"only": {"body.type": ["x"]}}, {0, 2}),
        (0, 4, {"only": {"body.type": ["x"], "body.n": ["0", "1"]}}, {0}),
        (0, 4, {"only": {"body.type": ["z"]}}, set()),
    ],
)
def test_only_what_is_meant(
    shop: Shop, start: int, end: int, more: dict[str, Any], written: set[int]
) -> None:
    append(shop, *((key, body(n=n, type="xyxy"[n])) for n, key in enumerate("abcd")))
    made = upserting(shop)
    spoil(shop)
    refresh(made, order(shop, start, end, **more))
    assert table(shop) == {n: n if n in written else -1 for n in range(4)}


def test_what_comes_later_of_a_key_is_never_overwritten(shop: Shop) -> None:
    append(shop, ("a", body(n=0)), ("b", body(n=1)))
    made = upserting(shop)
    append(shop, ("a", body(n=2)))
    made.advance()
    spoil(shop)
    refresh(made, order(shop, 0, 2))
    assert table(shop) == {1: 1, 2: -1}


def test_dead_letters_and_what_is_filtered_now_are_left(shop: Shop) -> None:
    append(shop, ("a", body(n=0)), ("b", b"{"), ("c", body(n=2)))
    upserting(shop)
    spoil(shop)
    now = pipeline_spec(sink=sink_spec(cut=CutSpec(100, 1 << 20, 1.0), n=("0",)))
    refresh(upserting(shop, now), order(shop))
    assert table(shop) == {0: 0, 2: -1}
    assert len(shop.dead()) == 1


def test_a_place_far_away_is_reached(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refreshing, "STEP_ROWS", 2)
    monkeypatch.setattr(refreshing, "STEPS", 2)
    append(shop, *((f"k{n}", body(n=n, type="x" if n > 20 else "y")) for n in range(23)))
    made = upserting(shop)
    spoil(shop)
    refresh(made, order(shop, only={"body.type": ["x"]}))
    assert table(shop) == {n: n if n > 20 else -1 for n in range(23)}


@pytest.mark.parametrize(
    "place",
    [
        "refresh.cut_logged",
        "delivery.planned",
        "delivery.written",
        "refresh.before_settle",
        "refresh.settled",
    ],
)
@pytest.mark.parametrize("again", [None, "refresh.recovering", "delivery.written"])
def test_a_crash_at_every_place(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, place: str, again: str | None
) -> None:
    monkeypatch.setattr(refreshing, "STEP_ROWS", 2)
    append(shop, *((key, body(n=n)) for n, key in enumerate("abcdef")))
    made = upserting(shop)
    spoil(shop)
    armed: list[str | None] = [place]

    def reach(name: str) -> None:
        if name == armed[0]:
            armed[0] = None
            raise Killed

    for module in (refreshing, delivery_module):
        monkeypatch.setattr(module, "reach", reach)
    with pytest.raises(Killed):
        refresh(made, order(shop))
    if again is not None:
        armed[0] = again
        with suppress(Killed):
            upserting(shop)
        armed[0] = None
    refresh(upserting(shop), order(shop))
    assert table(shop) == {n: n for n in range(6)}
    assert (shop.ledger(), shop.committed()) == ({("orders", "delivered"): 6}, 6)
    assert not list(shop.log.scan(CUTS))
