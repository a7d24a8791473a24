"""That a preview of a sink shows what a worker then writes, as tests: subclass `PreviewContract`, and say how the target is read back by means
other than the sink's.

Random pipelines take in random events, in rounds. In each the events are previewed, then a real worker delivers them; rows, types, DDL, files
and dead letters must be those that the preview showed. The worker's cuts are those of a preview where everything waits.
"""

from __future__ import annotations

import json
import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from milkrun.log.embedded import EmbeddedLog
from milkrun.log.protocol import Log
from milkrun.model.batch import RECORD_SCHEMA, TopicPartition
from milkrun.model.clock import SystemClock
from milkrun.model.errors import Refused
from milkrun.model.spec import (
    CutSpec,
    EmbeddedLogSpec,
    OnError,
    PipelineSpec,
    ProjectSpec,
    RouteSpec,
    SchemaSpec,
    SinkSpec,
    SourceSpec,
    TopicSpec,
    dead_letter_topic,
)
from milkrun.plugin.sink import TableRows
from milkrun.runtime.dead_letters import DeadLetter
from milkrun.runtime.dead_letters import parse as parse_letters
from milkrun.runtime.drafting import Stretch
from milkrun.runtime.ingest import Ingest
from milkrun.runtime.previewing import SinkDraft, SinkPreviewer
from milkrun.runtime.progress import State
from milkrun.runtime.sink_task import matches
from milkrun.runtime.stores import PROGRESS, load
from milkrun.runtime.worker import Worker
from milkrun.testing.cuts import normal
from milkrun.testing.fakes import POSITION_SOURCE, received

NAMES = (
    *("n", "N", "total", "größe", "a.b", "with space", 'quo"te', "it's", "select", "", "%s", "{curly}"),
    *("\U0001f95b", "_offset", "_Key", "_key_bytes", "x" * 70, "x" * 70 + "y", "nul\0"),
)
"""Names of fields: odd, reserved, too long, and alike but for their case."""

PATIENCE_SECONDS = 120.0
SETTLED = {State.IDLE, State.STANDBY, State.WAITING, State.FAILED}
SHOWN = (Phase.explicit, Phase.generate)
"""An example is whole databases: making it smaller would take minutes."""


@dataclass(frozen=True)
class Round:
    """Events to preview and deliver: `received` by a source, then `foreign` ones (key and value), which no source has looked at."""

    received: tuple[bytes, ...]
    foreign: tuple[tuple[bytes | None, bytes | None], ...] = ()


@dataclass(frozen=True)
class Scenario:
    """A pipeline and what comes to it. `documents` are JSON Schemas by event type, `options` the sink's beside where its target is."""

    rounds: tuple[Round, ...]
    documents: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    topic: str = "shop"
    key: str | None = "body.key"
    id: str | None = None
    only: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    on_error: OnError = "park"
    grow: bool = True
    cut_rows: int = 3
    partitions: int = 1

    def pipeline(self, connector: str, config: Mapping[str, Any]) -> PipelineSpec:
        """The pipeline, with a sink of that connector."""
        cut = CutSpec(rows=self.cut_rows, bytes=1 << 20, seconds=60.0)
        sink = SinkSpec(
            "out", connector, {**config, **self.options}, ("shop*",), cut, self.only, self.on_error
        )
        return PipelineSpec(
            "shop",
            (SourceSpec("in", "scripted", {}, RouteSpec(self.topic, key=self.key, id=self.id)),),
            (sink,),
            schema=SchemaSpec("body.type", self.documents, grow=self.grow or not self.documents),
            topic_defaults=TopicSpec("_", partitions=self.partitions),
            version="v1",
        )


# -- scenarios that failed once

TWO_TOPICS_IN_ONE_TABLE = Scenario(
    (Round((b'{"type": "order", "key": "a"}',), ((b"a", b'{"x": 1}'), (b"a", None))),),
    options={"mode": "upsert", "table": "all"},
    topic="shop.{body.type}",
    cut_rows=1,
)
"""A tombstone in a cut of its own: of the other topic's row of the same key the preview showed nothing. For sinks of tables."""

PARTITIONS_THAT_GROW = Scenario(
    (
        Round(
            tuple(
                b'{"type": "order", "key": "%b", "%b": %d}' % (key, name, number)
                for number, (key, name) in enumerate(
                    [(b"a", b"n"), (b"b", b"total"), (b"c", b"with space"), (b"a", b"N"), (b"b", b"a.b")]
                )
            )
        ),
    ),
    cut_rows=1,
    partitions=2,
)
"""Two partitions with fields of their own: the preview went through one after the other, a worker through both in turn, and so the columns
came in another order."""


_EMPTY = b'{"type":"order","n":{"deep":[[]]}}'
A_FIELD_LEFT_OUT_ELSEWHERE = Scenario(
    (
        Round(
            (
                *(b"\xff", b'{"total": "x", "type": "order", "key": "c", "id": 1}', _EMPTY),
                b'{"a.b": -6.1e16, "quo\\"te": {"total": {}}, "type": "click", "key": "b", "id": 22}',
                *(b'{"n":"x"}', b"{broken", _EMPTY, b'{"n":"x"}'),
            ),
            (
                (b"c", b'{"a.b": -5, "type": "order", "key": "b", "id": 0}'),
                (b"\xfe\x00", _EMPTY),
                (b"\xfe\x00", None),
                (None, b'{"quo\\"te": -4, "type": "order", "key": "b", "id": 8}'),
            ),
        ),
    ),
    key=None,
    id="body.id",
    cut_rows=2,
    partitions=2,
)
"""A worker's decoder remembers, by partition, what the schema didn't take; the preview remembered it by topic, and called an event dead that was
delivered."""


# -- random scenarios

_TEXTS = st.text(st.characters(codec="utf-8"), max_size=5)
_INTEGERS = st.one_of(st.integers(-9, 9), st.integers(-(2**63), 2**63 - 1))
_NUMBERS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False, width=32), st.sampled_from([-0.0, 0.1, 1e300, 5e-324])
)
_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.sampled_from([1.5, 1e20]), _TEXTS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2), st.dictionaries(st.sampled_from(NAMES[:6]), inner, max_size=2)
    ),
    max_leaves=4,
)
_LEAVES: tuple[tuple[Mapping[str, Any], st.SearchStrategy[Any]], ...] = (
    ({"type": "integer"}, _INTEGERS),
    ({"type": "number"}, _NUMBERS),
    ({"type": "boolean"}, st.booleans()),
    ({"type": "string"}, _TEXTS),
    (
        {"type": "string", "format": "decimal", "x-decimal": [12, 2]},
        st.decimals("-9999999999.99", "9999999999.99", places=2).map(lambda value: f"{value:f}"),
    ),
    (
        {"type": "string", "format": "date-time"},
        st.sampled_from(["1969-12-31T23:59:59.999999Z", "2026-11-24T12:00:00+05:30", "0999-01-02T03:04:05Z"]),
    ),
    ({"type": "string", "format": "date"}, st.dates().map(lambda value: value.isoformat())),
    ({"type": "string", "format": "time"}, st.sampled_from(["00:00:00", "23:59:59.999999"])),
    ({"type": "integer", "x-timestamp-unit": "ms"}, st.integers(-(10**12), 10**13)),
    ({"type": "object"}, st.dictionaries(st.sampled_from(NAMES[:6]), _JSON, max_size=2)),
    ({}, _JSON),
)


@st.composite
def _typed(draw: st.DrawFn, depth: int = 2) -> tuple[Mapping[str, Any], st.SearchStrategy[Any]]:
    """A JSON Schema of one field, and its values."""
    kind = draw(st.sampled_from(["leaf", "leaf", "object", "array", "map"] if depth else ["leaf"]))
    if kind == "leaf":
        leaf: tuple[Mapping[str, Any], st.SearchStrategy[Any]] = draw(st.sampled_from(_LEAVES))
        return leaf
    if kind == "array":
        document, values = draw(_typed(depth - 1))
        return {"type": "array", "items": document}, st.lists(values, max_size=3)
    if kind == "map":
        document, values = draw(_typed(depth - 1))
        free = st.dictionaries(st.sampled_from(NAMES), values, max_size=3)
        return {"type": "object", "additionalProperties": document}, free
    members = draw(st.dictionaries(st.sampled_from(NAMES), _typed(depth - 1), min_size=1, max_size=3))
    document = {"type": "object", "properties": {name: each for name, (each, _) in members.items()}}
    return document, _objects({name: values for name, (_, values) in members.items()})


def _objects(members: Mapping[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects that may lack any of these members, or have it null."""
    return st.fixed_dictionaries(
        {}, optional={name: st.one_of(st.none(), values) for name, values in members.items()}
    )


_FREE = st.dictionaries(
    st.sampled_from(NAMES[:8]), st.one_of(_JSON, _INTEGERS, _NUMBERS, st.booleans()), max_size=3
)
_BROKEN = st.sampled_from(
    [b"{broken", b"[1]", b"", b"\xff", b'{"type":"order","n":{"deep":[[]]}}', b'{"n":"x"}']
)


@st.composite
def scenarios(draw: st.DrawFn, options: st.SearchStrategy[Mapping[str, Any]]) -> Scenario:
    """Pipelines of one sink with these options, and their events."""
    types = draw(st.lists(st.sampled_from(["order", "click"]), max_size=2, unique=True))
    fields = {
        kind: draw(st.dictionaries(st.sampled_from(NAMES), _typed(), min_size=1, max_size=4))
        for kind in types
    }
    documents = {
        kind: {"type": "object", "properties": {name: each for name, (each, _) in found.items()}}
        for kind, found in fields.items()
    }
    declared = [
        st.builds(
            lambda kind, found: {**found, "type": kind},
            st.just(kind),
            _objects({name: v for name, (_, v) in found.items()}),
        )
        for kind, found in fields.items()
    ]
    free = st.builds(lambda kind, found: {**found, "type": kind}, st.sampled_from(["order", "click"]), _FREE)
    # Of what is declared twice as much: free fields soon make columns that no table can hold together.
    bodies = st.one_of(*declared, *declared, free) if declared else free
    keyed = st.builds(
        lambda body, key, number: {**body, "key": key, "id": number},
        bodies,
        st.sampled_from(["a", "b", "c"]),
        st.integers(0, 40),
    )
    values = keyed.map(lambda body: json.dumps(body).encode())
    keys = st.sampled_from([None, b"a", b"b", b"c", b"\xfe\x00", b"nul\0"])
    rounds = st.builds(
        Round,
        st.lists(st.one_of(values, values, values, _BROKEN), max_size=8).map(tuple),
        st.lists(st.tuples(keys, st.one_of(st.none(), values, _BROKEN)), max_size=4).map(tuple),
    )
    on_errors: list[OnError] = ["park", "hold_key", "stop"]
    on_error = draw(st.sampled_from(on_errors))
    # A sink that stops does so on all partitions, wherever it is on the others.
    single = on_error == "stop"
    return Scenario(
        rounds=tuple(draw(st.lists(rounds, min_size=1, max_size=3))),
        documents=documents,
        options=draw(options),
        topic=draw(st.sampled_from(["shop"] if single else ["shop", "shop.{body.type}"])),
        key=draw(st.sampled_from([None, "body.key"])),
        id=draw(st.sampled_from([None, "body.id"])),
        only=draw(st.sampled_from([{}, {}, {"body.type": ("order",)}])),
        on_error=on_error,
        grow=draw(st.booleans()),
        cut_rows=draw(st.integers(1, 5)),
        partitions=1 if single else draw(st.integers(1, 2)),
    )


# -- what is run


class Stopped(Exception):
    """The worker needs a person; the message is what it says."""


@dataclass
class Shop:
    """A log, and a folder for what a target keeps on disk."""

    folder: Path
    log: Log
    pipeline: PipelineSpec
    clock: SystemClock = field(default_factory=SystemClock)

    @property
    def sink(self) -> SinkSpec:
        return self.pipeline.sinks[0]

    def take(self, events: Round) -> None:
        """Let these come in."""
        if events.received:
            ingest = Ingest(self.pipeline, self.pipeline.sources[0], POSITION_SOURCE, self.log, self.clock)
            ingest.commit(received(events.received))
        if events.foreign:
            rows: list[dict[str, Any]] = [
                {"timestamp": self.clock.now(), "key": key, "value": value, "headers": []}
                for key, value in events.foreign
            ]
            self.log.create_topic(self.pipeline.topic("shop"))
            with self.log.transaction() as transaction:
                transaction.append("shop", 0, pa.RecordBatch.from_pylist(rows, RECORD_SCHEMA))

    def waiting(self) -> list[Stretch]:
        """What hasn't been delivered."""
        return [
            Stretch(TopicPartition(info.spec.name, number), info.incarnation, start, end)
            for info in self.log.topics()
            for number in range(info.spec.partitions)
            if matches(info.spec.name, self.sink.topics)
            for start in [self.log.committed("shop/out", info.spec.name, number) or 0]
            for end in [self.log.bounds(info.spec.name, number)[1]]
            if start < end
        ]

    def preview(self) -> SinkDraft:
        """Of all that waits."""
        previewer = SinkPreviewer(
            self.pipeline, self.sink, folder=self.folder, log=self.log, clock=self.clock
        )
        return previewer.plan(self.waiting(), self.log)

    def work(self) -> None:
        """A worker delivers all that waits. Raises Stopped."""
        # Nobody brings anything meanwhile.
        pipeline = replace(self.pipeline, sources=())
        project = ProjectSpec("shop", self.folder, EmbeddedLogSpec(self.folder / "log.db"), (pipeline,))
        worker = Worker(project, self.log, self.clock, "worker")
        worker.start()
        try:
            deadline = time.monotonic() + PATIENCE_SECONDS
            version = self.log.version()
            # What it says of itself comes a moment after it has nothing to do.
            while (
                not (worker.idle and set(worker.states()) <= SETTLED)
                and State.RETRYING not in worker.states()
            ):
                assert time.monotonic() < deadline, f"the worker isn't done: {worker.states()}"
                version = self.log.wait(version, 0.02)
            states = worker.states()
        finally:
            worker.close()
            assert worker.join(PATIENCE_SECONDS)
        assert State.RETRYING not in states, "the sink failed in a way that none should"
        if State.FAILED in states:
            record = self.log.get(PROGRESS, "worker")
            assert record is not None
            raise Stopped(load(record)["tasks"][0]["error"])

    def letters(self) -> list[DeadLetter]:
        """All dead letters."""
        topic = dead_letter_topic("shop")
        if self.log.topic(topic) is None:
            return []
        return list(parse_letters("shop", self.log.read(topic, 0, 0)))


Columns = Mapping[str, Sequence[tuple[str, str]]]
"""Names and types of columns in the target's own words, in order, by the table's name as plans have it."""

Rows = list[dict[str, Any]]


class PreviewContract(ABC):
    """The suite. Each example gets an empty folder, which stands for a target of its own."""

    connector: ClassVar[str]
    examples: ClassVar[int] = 6
    """How many are tried where there is little time; `MILKRUN_SOAK_RUNS` says how many in a soak."""

    kept: ClassVar[Sequence[Scenario]] = ()
    """Scenarios that are always tried: they failed once."""

    @abstractmethod
    def config(self, folder: Path) -> Mapping[str, Any]:
        """Where the sink's target is, as the folder's own."""

    @abstractmethod
    def options(self) -> st.SearchStrategy[Mapping[str, Any]]:
        """The sink's other options."""

    def rows(self, folder: Path) -> dict[str, Rows]:
        """All rows of all tables, by the table's name as plans have it, read by means other than the sink's, in the order of topic, partition and
        offset and as `milkrun.testing.cuts.normal` gives them. Documents are values, not text."""
        del folder
        return {}

    def columns(self, folder: Path, *, mirror: bool = False) -> Columns:
        """The columns of all tables, as the target tells them; of the mirror's with `mirror`."""
        del folder, mirror
        return {}

    def mirror(self, folder: Path, statements: Sequence[str]) -> None:
        """Run statements that a preview showed in another target like the folder's."""
        del folder, statements

    def files(self, folder: Path) -> dict[str, bytes]:
        """The files that readers find, by their names as plans have them."""
        del folder
        return {}

    def file_rows(self, content: bytes) -> Rows:
        """The rows of a file, read by means other than the sink's."""
        raise NotImplementedError(f"how is a file of {len(content)} bytes read?")

    def named(self, name: str) -> str:
        """What the target calls a column of metadata."""
        return name

    def as_type(self, kind: str) -> str:
        """A type that a plan shows, as the target spells it."""
        return kind

    def value(self, value: Any, kind: str) -> Any:
        """A value of a plan's outputs, of a column that has this type there, as `rows` gives it."""
        del kind
        return value

    # -- the tests

    def test_a_preview_equals_what_a_worker_then_writes(self) -> None:
        self._try(self.examples, derandomize=True)

    @pytest.mark.soak
    @pytest.mark.timeout(0)
    def test_many_previews_equal_what_a_worker_then_writes(self) -> None:
        self._try(int(os.environ.get("MILKRUN_SOAK_RUNS", "100")), derandomize=False)

    def _try(self, examples: int, *, derandomize: bool) -> None:
        @settings(
            max_examples=examples,
            derandomize=derandomize,
            database=None,
            phases=SHOWN,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(scenarios(self.options()))
        def tried(scenario: Scenario) -> None:
            self.check(scenario)

        tried()

    def test_what_failed_once(self) -> None:
        for scenario in self.kept:
            self.check(scenario)

    def check(self, scenario: Scenario) -> None:
        """Preview and deliver a scenario, round by round."""
        with TemporaryDirectory() as name:
            folder = Path(name)
            log = EmbeddedLog(folder / "log" / "log.db", SystemClock())
            try:
                shop = Shop(folder, log, scenario.pipeline(self.connector, self.config(folder)))
                shown: dict[tuple[str, str], set[str]] = {}
                for events in scenario.rounds:
                    shop.take(events)
                    if not self._round(shop, shown):
                        return
            finally:
                log.close()

    def _round(self, shop: Shop, shown: dict[tuple[str, str], set[str]]) -> bool:
        """Preview and deliver what waits; whether the sink goes on."""
        folder = shop.folder
        rows, files, letters = self.rows(folder), self.files(folder), len(shop.letters())
        draft, stretches = shop.preview(), shop.waiting()
        try:
            statements = draft.ddl()
        except Refused as refusal:
            # What the worker writes before it comes to that is not what was shown.
            with pytest.raises(Stopped, match=re.escape(str(refusal))):
                shop.work()
            return False
        self.mirror(folder, statements)
        if draft.problem:
            with pytest.raises(Stopped):
                shop.work()
        else:
            shop.work()
        held = self.rows(folder)
        assert held == self._written(draft, rows)
        assert self._of(held, stretches) == self._shown(draft)
        self._check_columns(draft, folder, shown)
        self._check_files(draft, files, self.files(folder))
        refused = [letter for cut in draft.cuts for letter in cut.letters]
        assert _plain(refused) == _plain(shop.letters()[letters:])
        return not draft.problem

    def _written(self, draft: SinkDraft, before: Mapping[str, Rows]) -> dict[str, Rows]:
        """What tables with these rows hold after the plans' outputs."""
        tables = {table: list(rows) for table, rows in before.items()}
        for cut in draft.cuts:
            for output in cut.plan.outputs():
                if isinstance(output, TableRows):
                    rows = tables.setdefault(output.table, [])
                    if output.replaced is not None:
                        keys = {tuple(key.items()) for key in output.replaced.to_pylist()}
                        names, topic = output.replaced.column_names, cut.stretch.partition.topic
                        rows[:] = [
                            row
                            for row in rows
                            if row[self.named("_topic")] != topic
                            or tuple((name, row.get(name)) for name in names) not in keys
                        ]
                    rows += self._rows(output.rows, dict(output.columns))
        return {table: self._sorted(rows) for table, rows in tables.items()}

    def _shown(self, draft: SinkDraft) -> dict[str, Rows]:
        """What a person is shown of tables."""
        found = {table.name: self._sorted(self._rows(table.rows, table.columns)) for table in draft.tables()}
        return {table: rows for table, rows in found.items() if rows}

    def _of(self, held: Mapping[str, Rows], stretches: Sequence[Stretch]) -> dict[str, Rows]:
        """The rows that come from these offsets."""
        starts = {(each.partition.topic, each.partition.partition): each.start for each in stretches}
        names = [self.named(name) for name in ("_topic", "_partition", "_offset")]
        found = {
            table: [
                row for row in rows if row[names[2]] >= starts.get((row[names[0]], row[names[1]]), 1 << 62)
            ]
            for table, rows in held.items()
        }
        return {table: rows for table, rows in found.items() if rows}

    def _check_columns(self, draft: SinkDraft, folder: Path, shown: dict[tuple[str, str], set[str]]) -> None:
        """The statements that were shown make the columns that there are, of the types that were shown."""
        columns = self.columns(folder)
        assert columns == self.columns(folder, mirror=True)
        assert list(draft.ddl()) == []
        for cut in draft.cuts:
            for output in cut.plan.outputs():
                if isinstance(output, TableRows):
                    for name, kind in output.columns:
                        shown.setdefault((output.table, name), set()).add(self.as_type(kind))
        for (table, name), kinds in shown.items():
            there = dict(columns[table])
            # What cuts need differently is one type in the table that holds them all.
            assert len(kinds) > 1 or kinds == {there[name]}, f"{name} is {there[name]}, shown were {kinds}"

    def _check_files(self, draft: SinkDraft, before: Mapping[str, bytes], after: Mapping[str, bytes]) -> None:
        shown = draft.files()
        assert {each.file.name: each.file.content for each in shown} == {
            name: content for name, content in after.items() if before.get(name) != content
        }
        for each in shown:
            if each.rows is not None:
                assert self._rows(each.rows, {}) == self.file_rows(after[each.file.name])

    def _rows(self, rows: pa.Table, kinds: Mapping[str, str]) -> Rows:
        return [
            normal({name: self.value(value, kinds.get(name, "")) for name, value in row.items()})
            for row in rows.to_pylist()
        ]

    def _sorted(self, rows: Rows) -> Rows:
        names = [self.named(name) for name in ("_topic", "_partition", "_offset")]
        return sorted(rows, key=lambda row: tuple(row[name] for name in names))


def _plain(letters: Sequence[DeadLetter]) -> list[tuple[Any, ...]]:
    """Dead letters without what only tells them apart, by where they come from."""
    names = [name for name in DeadLetter.__dataclass_fields__ if name not in ("id", "uid")]
    found = [tuple(getattr(letter, name) for name in names) for letter in letters]
    return sorted(found, key=repr)
