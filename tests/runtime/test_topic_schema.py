"""A topic's schema, version by version: tasks agree on it, and no version ever changes."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence

import pyarrow as pa
import pytest

from milkrun.codecs.json import grown
from milkrun.log.embedded import EmbeddedLog
from milkrun.log.protocol import Lease
from milkrun.model.clock import SystemClock
from milkrun.model.errors import Refused, Transient
from milkrun.model.schema import EventSchema
from milkrun.model.spec import SchemaSpec
from milkrun.runtime import topic_schema
from milkrun.runtime.stores import SCHEMAS
from milkrun.runtime.topic_schema import SAMPLES, TRIES, Fits, TopicSchemas
from tests.runtime.flows import Shop, body

INTEGER_N = {"type": "object", "properties": {"n": {"type": "integer"}}}
TEXT_N = {"type": "object", "properties": {"n": {"type": "object", "properties": {}}}}


def schemas(shop: Shop, spec: SchemaSpec | None = None, member: str = "w1/out") -> TopicSchemas:
    return TopicSchemas("shop", spec or SchemaSpec(), shop.log, shop.clock, member)


def names(found: TopicSchemas, topic: str = "orders") -> list[str]:
    fields: list[str] = found.latest(topic).schema.fields.names
    return fields


def values(*bodies: bytes | None) -> pa.BinaryArray:
    return pa.array(bodies, pa.binary())


def test_it_begins_empty_at_version_0(shop: Shop) -> None:
    latest = schemas(shop).latest("orders")
    assert (latest.version, latest.types, latest.schema.fields.names) == (0, frozenset(), [])
    assert list(shop.log.scan(SCHEMAS)) == []


def test_it_grows_by_what_events_bring_and_only_by_that(shop: Shop) -> None:
    found = schemas(shop)
    assert found.grow("orders", values(body(a=1), None), []).version == 1
    assert found.grow("orders", values(body(a=2)), []).version == 1
    assert found.grow("orders", values(body(b="x"), body(c=True)), []).version == 2
    assert sorted(names(found)) == ["a", "b", "c"]
    assert [key for key, _ in shop.log.scan(SCHEMAS)] == ["shop/orders/00000001", "shop/orders/00000002"]


def test_a_version_is_read_back_as_it_was(shop: Shop) -> None:
    found = schemas(shop)
    first = found.grow("orders", values(body(a=1, o={"p": [1.5]})), [])
    found.grow("orders", values(body(b=1)), [])
    again = schemas(shop)
    assert again.at("orders", 1).schema.fields.equals(first.schema.fields, check_metadata=True)
    assert again.at("orders", 1) is again.at("orders", 1)
    assert again.latest("orders").version == 2


def test_a_version_that_the_log_does_not_have_is_refused(shop: Shop) -> None:
    with pytest.raises(Refused, match="no version 3 of the schema of orders"):
        schemas(shop).at("orders", 3)


def test_topics_whose_names_begin_alike_are_apart(shop: Shop) -> None:
    found = schemas(shop)
    found.grow("orders.eu", values(body(a=1)), [])
    found.grow("orders", values(body(b=1)), [])
    assert (names(schemas(shop)), names(schemas(shop), "orders.eu")) == (["b"], ["a"])


def test_what_another_task_added_is_found_before_growing(shop: Shop) -> None:
    one, two = schemas(shop), schemas(shop, member="w2/out")
    one.latest("orders"), two.latest("orders")
    one.grow("orders", values(body(n=1)), [])
    grown = two.grow("orders", values(body(n="text")), [])
    assert (grown.version, pa.types.is_integer(grown.schema.fields.field("n").type)) == (1, True)


def test_declared_types_go_in_once_they_occur(shop: Shop) -> None:
    spec = SchemaSpec("body.type", {"order": INTEGER_N, "never": TEXT_N})
    found = schemas(shop, spec)
    assert found.lacks("orders", ["order", "other"])
    assert not found.lacks("orders", ["other"])
    grown = found.grow("orders", values(None), ["order", "other"])
    assert (grown.version, {tag.partition("@")[0] for tag in grown.types}, grown.schema.fields.names) == (
        1,
        {"order"},
        ["n"],
    )
    assert not found.lacks("orders", ["order"])
    assert not schemas(shop, spec).lacks("orders", ["order"])


def test_declared_types_that_contradict_each_other_are_refused_and_nothing_is_stored(shop: Shop) -> None:
    spec = SchemaSpec("body.type", {"a": INTEGER_N, "b": TEXT_N})
    found = schemas(shop, spec)
    with pytest.raises(Refused, match=r"share the topic orders.*\(b\).*a topic of its own"):
        found.grow("orders", values(body(type="a", n=1)), ["a", "b"])
    assert list(shop.log.scan(SCHEMAS)) == []
    assert found.grow("orders", values(), ["a"]).version == 1


def test_fixed_columns_do_not_grow(shop: Shop) -> None:
    found = schemas(shop, SchemaSpec("body.type", {"order": INTEGER_N}, grow=False))
    assert found.grow("orders", values(body(type="order", more=1)), ["order"]).schema.fields.names == ["n"]


@pytest.mark.parametrize("rivals", [1, TRIES - 1])
def test_an_addition_fenced_by_another_task_is_tried_anew(
    shop: Shop, rivals: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seize_under_way(shop, monkeypatch, rivals)
    assert schemas(shop).grow("orders", values(body(a=1)), []).version == 1
    assert len(list(shop.log.scan(SCHEMAS))) == 1


def test_a_schema_that_others_never_leave_alone_is_transient(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    seize_under_way(shop, monkeypatch, TRIES)
    with pytest.raises(
        Transient, match="other tasks have been changing the schema of orders 100 times in a row"
    ):
        schemas(shop).grow("orders", values(body(a=1)), [])
    assert list(shop.log.scan(SCHEMAS)) == []


def test_while_values_are_looked_at_another_may_grow_the_schema(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it takes: with a lease held meanwhile, two would take it from each other for ever."""
    looked, fitting = [], topic_schema._fitting

    def slow(found: pa.BinaryArray, schema: EventSchema, fits: Fits) -> EventSchema:
        looked.append(len(schema.fields))
        if len(looked) == 1:
            schemas(shop, member="w2/out").grow("orders", values(body(b=1)), [])
        return fitting(found, schema, fits)

    monkeypatch.setattr(topic_schema, "_fitting", slow)
    version = schemas(shop).grow("orders", values(body(a=1)), [])
    assert (version.version, version.schema.fields.names) == (2, ["b", "a"])
    assert looked == [0, 0, 1]


def seize_under_way(shop: Shop, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """So many times another task seizes the lease right after it was seized."""
    seize, left = shop.log.seize, [times]

    def rival(group: str, item: str, member: str) -> Lease:
        lease = seize(group, item, member)
        if left[0]:
            left[0] -= 1
            seize(group, item, "another")
        return lease

    monkeypatch.setattr(shop.log, "seize", rival)


def test_two_threads_growing_at_once_agree(shop: Shop) -> None:
    """Each brings fields of its own and one that both type differently."""
    log = EmbeddedLog(shop.folder / "log", SystemClock())
    try:
        start = threading.Barrier(2)
        errors: list[BaseException] = []

        def grow(found: TopicSchemas, own: str, shared: Sequence[object]) -> None:
            try:
                start.wait(10)
                for number, value in enumerate(shared):
                    found.grow("orders", values(body(**{f"{own}{number}": 1, f"both{number}": value})), [])
            except BaseException as error:
                errors.append(error)

        parties = [TopicSchemas("shop", SchemaSpec(), log, SystemClock(), f"w{n}/out") for n in range(2)]
        threads = [
            threading.Thread(target=grow, args=(parties[0], "a", [1] * 6)),
            threading.Thread(target=grow, args=(parties[1], "b", ["x"] * 6)),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert errors == []
        versions = [schemas(shop).at("orders", number + 1) for number in range(len(list(log.scan(SCHEMAS))))]
        expected = {f"{own}{n}" for own in ("a", "b", "both") for n in range(6)}
        assert set(versions[-1].schema.fields.names) == expected
        for older, newer in itertools.pairwise(versions):
            kept = {field.name: field.type for field in newer.schema.fields}
            assert all(kept[field.name] == field.type for field in older.schema.fields)
    finally:
        log.close()


@pytest.mark.parametrize(
    "late",
    [
        [body(n=1.5)],
        [body(n=1, late="x")],
        [body(n=1, o={"deep": True})],
        [body(n="text", late=1)],
        [b"no json", body(n=1.5), body(n=[]), None, body(n={"late": 1})],
    ],
)
def test_what_shows_only_late_in_a_large_cut_counts_too(shop: Shop, late: list[bytes | None]) -> None:
    many = [body(n=number) for number in range(max(SAMPLES) + 10)]
    all_values = values(*many, *late)
    found = schemas(shop).grow("orders", all_values, [])
    assert found.schema.fields.equals(grown(all_values, EventSchema(pa.schema([]))).fields)


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many values were looked at closely, each time."""
    counts: list[int] = []

    def counting(found: pa.BinaryArray, schema: EventSchema) -> EventSchema:
        counts.append(len(found))
        return grown(found, schema)

    monkeypatch.setattr(topic_schema, "grown", counting)
    return counts


@pytest.mark.parametrize(
    ("first_late", "samples"), [(None, [250]), (300, [250, 2_000]), (3_000, [250, 2_000, 4_000])]
)
def test_a_large_cut_is_inferred_from_no_more_than_it_takes(
    shop: Shop, looked_at: list[int], first_late: int | None, samples: list[int]
) -> None:
    late = {} if first_late is None else {"late": True}
    many = [body(n=number, **(late if number == first_late else {})) for number in range(4_000)]
    schemas(shop).grow("orders", values(*many), [])
    assert looked_at == samples


@pytest.mark.parametrize(
    ("late", "samples", "kind"),
    [
        (b"no json", [250, 251], pa.int64()),
        (b'{"n": 1', [250, 251], pa.int64()),
        (body(n="text"), [250, 251], pa.int64()),
        (body(n=1.5), [250, 251], pa.float64()),
        (body(n="text", late=1), [250, 251], pa.int64()),
    ],
)
def test_an_event_that_is_refused_is_looked_at_and_the_others_are_not(
    shop: Shop, looked_at: list[int], late: bytes, samples: list[int], kind: pa.DataType
) -> None:
    many = [late if number == 3_000 else body(n=number) for number in range(4_000)]
    version = schemas(shop).grow("orders", values(*many), [])
    assert (looked_at, version.schema.fields.field("n").type) == (samples, kind)
