"""A preview equals what is delivered afterwards, over random pipelines and events, for the real sinks; and it leaves no trace."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from milkrun.log.embedded import EmbeddedLog
from milkrun.log.protocol import Log
from milkrun.model.batch import RECORD_SCHEMA, TopicPartition
from milkrun.model.errors import Refused
from milkrun.model.spec import (
    CutSpec,
    OnError,
    PipelineSpec,
    RouteSpec,
    SchemaSpec,
    SinkSpec,
    SourceSpec,
    TopicSpec,
    dead_letter_topic,
)
from milkrun.plugin.config import parse
from milkrun.plugin.sink import FileContent, Sink, SinkContext
from milkrun.runtime import stores
from milkrun.runtime.dead_letters import DeadLetter
from milkrun.runtime.dead_letters import parse as parse_letters
from milkrun.runtime.delivery import Delivery
from milkrun.runtime.drafting import NEW, DraftIntake, DraftLog, Stretch
from milkrun.runtime.ingest import Ingest
from milkrun.runtime.previewing import SinkDraft, SinkPreviewer
from milkrun.runtime.registry import sink_class
from milkrun.runtime.sink_task import matches
from milkrun.runtime.topic_schema import TopicSchemas
from milkrun.testing.clock import ManualClock
from milkrun.testing.cuts import normal
from milkrun.testing.fakes import POSITION_SOURCE, received

STORES = [value for name, value in vars(stores).items() if name.isupper() and isinstance(value, str)]
ORDER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["type"]}

SEEN = (Phase.explicit, Phase.reuse, Phase.generate)
"""An example is whole databases: making it smaller would take minutes."""

# -- random pipelines and events

fields = st.dictionaries(
    st.sampled_from(["n", "who", "note", "deep", "list"]),
    st.one_of(
        st.none(),
        st.integers(-(2**40), 2**40),
        st.text(max_size=4),
        st.booleans(),
        st.floats(allow_nan=False, allow_infinity=False, width=32),
        st.dictionaries(st.sampled_from(["a", "b"]), st.integers(0, 9), max_size=2),
        st.lists(st.integers(0, 9), max_size=3),
    ),
    max_size=4,
)
bodies = st.one_of(
    st.builds(
        lambda found, kind, key, number: json.dumps(
            {**found, "type": kind, "key": key, "id": number}
        ).encode(),
        fields,
        st.sampled_from(["order", "click"]),
        st.sampled_from(["a", "b", "c"]),
        st.integers(0, 40),
    ),
    st.sampled_from([b"{broken", b"[1]", b"", b'{"type":"order","n":"x"}', None]),
)


@st.composite
def pipelines(draw: st.DrawFn, sink: SinkSpec) -> PipelineSpec:
    route = RouteSpec(
        draw(st.sampled_from(["shop", "shop.{type}"])),
        key=draw(st.sampled_from([None, "body.key"])),
        id=draw(st.sampled_from([None, "body.id"])),
    )
    declared = draw(st.booleans())
    schema = SchemaSpec(
        "body.type", {"order": ORDER} if declared else {}, grow=draw(st.booleans()) or not declared
    )
    return PipelineSpec(
        "shop",
        (SourceSpec("in", "scripted", {}, route),),
        (sink,),
        schema=schema,
        topic_defaults=TopicSpec("_", partitions=draw(st.integers(1, 3))),
        version="v1",
    )


@st.composite
def sinks(draw: st.DrawFn, connector: str) -> SinkSpec:
    config: dict[str, Any]
    if connector == "duckdb":
        mode = draw(st.sampled_from(["append", "upsert"]))
        config = {
            "path": "warehouse.duckdb",
            "table": draw(st.sampled_from(["{topic}", "all"])),
            "mode": mode,
        }
    else:
        config = {
            "url": "lake",
            "partition_by": draw(st.sampled_from([[], ["topic", "hour"], ["body.type"]])),
        }
    only = draw(st.sampled_from([{}, {"body.type": ("order",)}]))
    on_error: OnError = "park" if draw(st.booleans()) else "hold_key"
    cut = CutSpec(rows=draw(st.integers(1, 5)), bytes=1 << 20, seconds=0.0)
    return SinkSpec("out", connector, config, ("shop*",), cut, only, on_error)


@dataclass
class Site:
    """A log and a folder for targets."""

    folder: Path
    log: Log
    clock: ManualClock
    pipeline: PipelineSpec

    @property
    def sink(self) -> SinkSpec:
        return self.pipeline.sinks[0]

    def ingest(self, values: Sequence[bytes | None]) -> None:
        if values:
            ingest = Ingest(self.pipeline, self.pipeline.sources[0], POSITION_SOURCE, self.log, self.clock)
            ingest.commit(received(values))

    def append(self, values: Sequence[bytes | None]) -> None:
        """Events that no source has looked at."""
        if values:
            self.log.create_topic(self.pipeline.topic("shop"))
            with self.log.transaction() as transaction:
                transaction.append("shop", 0, foreign(values))

    def stretches(self) -> list[Stretch]:
        """What the sink hasn't delivered yet."""
        found = []
        for info in self.log.topics():
            for number in range(info.spec.partitions) if matches(info.spec.name, self.sink.topics) else ():
                end = self.log.bounds(info.spec.name, number)[1]
                start = self.log.committed("shop/out", info.spec.name, number) or 0
                if start < end:
                    found.append(
                        Stretch(TopicPartition(info.spec.name, number), info.incarnation, start, end)
                    )
        return found

    def make(self) -> Sink:
        kind = sink_class(self.sink.connector)
        context = SinkContext("shop", "out", self.folder, self.clock)
        return kind(parse(kind.Config, self.sink.config), context)

    def deliver(self) -> None:
        """Deliver everything, a cut of each partition in turn."""
        self.log.create_topic(TopicSpec(dead_letter_topic("shop")))
        sink = self.make()
        schemas = TopicSchemas("shop", self.pipeline.schema, self.log, self.clock, "worker/out")
        try:
            sink.open()
            turns: deque[tuple[Delivery, int]] = deque()
            for stretch in self.stretches():
                delivery = Delivery(
                    self.pipeline,
                    self.sink,
                    stretch.partition,
                    sink=sink,
                    log=self.log,
                    clock=self.clock,
                    schemas=schemas,
                )
                delivery.recover()
                turns.append((delivery, stretch.end))
            while turns:
                delivery, end = turns.popleft()
                delivery.advance()
                if delivery.offset < end:
                    turns.append((delivery, end))
        finally:
            sink.close()

    def preview(self) -> SinkDraft:
        previewer = SinkPreviewer(
            self.pipeline, self.sink, folder=self.folder, log=self.log, clock=self.clock
        )
        return previewer.plan(self.stretches(), self.log)

    def letters(self) -> list[DeadLetter]:
        topic = dead_letter_topic("shop")
        if self.log.topic(topic) is None:
            return []
        return list(parse_letters("shop", self.log.read(topic, 0, 0)))

    def trace(self) -> Any:
        """All that the log and the folder hold."""
        topics = self.log.topics()
        places = [(info.spec.name, number) for info in topics for number in range(info.spec.partitions)]
        return (
            topics,
            self.log.version(),
            {place: self.log.bounds(*place) for place in places},
            {place: self.log.committed("shop/out", *place) for place in places},
            {store: list(self.log.scan(store)) for store in STORES},
            self.log.ledger().to_pylist(),
            {
                path: path.read_bytes()
                for path in self.folder.rglob("*")
                if path.is_file() and ".milkrun" not in path.parts
            },
        )


def plain(letters: Sequence[DeadLetter]) -> list[tuple[Any, ...]]:
    """Dead letters without what only tells them apart."""
    names = [name for name in DeadLetter.__dataclass_fields__ if name not in ("id", "uid")]
    return [tuple(getattr(letter, name) for name in names) for letter in letters]


def sorted_rows(tables: Sequence[pa.Table]) -> list[dict[str, Any]]:
    rows = [normal(row) for table in tables for row in table.to_pylist()]
    return sorted(rows, key=lambda row: (row["_topic"], row["_partition"], row["_offset"]))


def refusal(draft: SinkDraft) -> str | None:
    """Why the target wouldn't take it."""
    try:
        draft.ddl()
    except Refused as error:
        return str(error)
    return None


def held(site: Site, stretches: Sequence[Stretch], connector: str) -> list[dict[str, Any]]:
    """The rows of tables; those of files are compared by their bytes."""
    if connector == "parquet":
        return []
    sink = site.make()
    return sorted_rows([sink.held(each.partition, each.start, each.end) for each in stretches])


def check(data: st.DataObject, connector: str) -> None:
    pipeline = data.draw(pipelines(data.draw(sinks(connector), "sink")), "pipeline")
    with TemporaryDirectory() as name:
        folder, clock = Path(name), ManualClock()
        log = EmbeddedLog(folder / ".milkrun" / "log.db", clock)
        try:
            site = Site(folder, log, clock, pipeline)
            site.ingest(data.draw(st.lists(bodies, max_size=12), "delivered before"))
            if data.draw(st.booleans(), "deliver"):
                try:
                    site.deliver()
                except Refused:
                    # The sink stands still already.
                    return
            site.ingest(data.draw(st.lists(bodies, min_size=1, max_size=12), "events"))
            site.append(data.draw(st.lists(bodies, max_size=4), "of others"))
            stretches, known = site.stretches(), site.letters()
            before, files = site.trace(), written(folder)
            draft = site.preview()
            problem = refusal(draft) or draft.problem
            assert site.trace() == before
            if problem:
                # Columns of other types, or declarations that contradict each other, stop the sink, and the preview has said so.
                with pytest.raises(Refused, match=re.escape(problem)):
                    site.deliver()
                return
            tables, wrote = draft.tables(), draft.files()
            site.deliver()
            assert sorted_rows([table.rows for table in tables]) == held(site, stretches, connector)
            assert {file.file.name: file.file.content for file in wrote} == {
                name: content for name, content in written(folder).items() if name not in files
            }
            letters = [letter for cut in draft.cuts for letter in cut.letters]
            assert plain(letters) == plain(site.letters()[len(known) :])
            assert list(draft.ddl()) == []
        finally:
            log.close()


def written(folder: Path) -> dict[str, bytes]:
    """The lake's files by name."""
    lake = folder / "lake"
    return {path.relative_to(lake).as_posix(): path.read_bytes() for path in lake.rglob("*.parquet")}


@settings(max_examples=15, phases=SEEN, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_preview_equals_what_is_written_to_duckdb(data: st.DataObject) -> None:
    check(data, "duckdb")


@settings(max_examples=15, phases=SEEN, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_preview_equals_what_is_written_to_parquet(data: st.DataObject) -> None:
    check(data, "parquet")


# -- taking in


@settings(max_examples=15, phases=SEEN, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_events_taken_into_a_draft_are_those_that_a_source_commits(data: st.DataObject) -> None:
    pipeline = data.draw(pipelines(SinkSpec("out", "duckdb", {}, ("*",), CutSpec(1, 1, 0.0))), "pipeline")
    polls = data.draw(st.lists(st.lists(bodies, max_size=8), min_size=1, max_size=3), "polls")
    with TemporaryDirectory() as name:
        clock = ManualClock()
        log = EmbeddedLog(Path(name) / "log.db", clock)
        try:
            Site(Path(name), log, clock, pipeline).ingest(data.draw(st.lists(bodies, max_size=5), "before"))
            site = Site(Path(name), log, clock, pipeline)
            before, known = site.trace(), site.letters()
            # What was seen before the preview isn't known to it: those ids are forgotten here too.
            clock.advance(7200.0)
            draft = DraftLog(log)
            intake = DraftIntake(pipeline, pipeline.sources[0], POSITION_SOURCE, draft)
            outcomes = [intake.take(received(values), clock.now()) for values in polls]
            assert site.trace() == before
            real = Ingest(pipeline, pipeline.sources[0], POSITION_SOURCE, log, clock)
            for values, outcome in zip(polls, outcomes, strict=True):
                committed = real.commit(received(values))
                assert committed.duplicate.tolist() == outcome.duplicate.tolist()
                assert committed.refused == outcome.refused
            for stretch in draft.stretches():
                place = (stretch.partition.topic, stretch.partition.partition)
                assert log.bounds(*place)[1] == stretch.end
                mine = draft.read(*place, stretch.start, max_rows=1000, max_bytes=1 << 20)
                assert mine.events.to_pylist() == log.read(*place, stretch.start).events.to_pylist()
                there = dict(before[2])
                assert (stretch.incarnation == NEW) == (place not in there)
            assert plain(intake.letters) == plain(site.letters()[len(known) :])
            assert intake.counts.received == sum(map(len, polls))
            assert intake.counts.accepted == sum(outcome.accepted for outcome in outcomes)
        finally:
            log.close()


def draft_of(*values: bytes) -> DraftLog:
    """A topic `shop` with these events, which no source has looked at."""
    draft = DraftLog(None)
    draft.topic(TopicSpec("shop"))
    draft.append(TopicPartition("shop", 0), foreign(values))
    return draft


def foreign(values: Sequence[bytes | None]) -> pa.RecordBatch:
    """Events as another program may write them, all of one key."""
    rows: list[dict[str, Any]] = [
        {"timestamp": 0, "key": b"a", "value": value, "headers": []} for value in values
    ]
    return pa.RecordBatch.from_pylist(rows, RECORD_SCHEMA)


def test_a_cut_of_a_draft_is_bounded_in_bytes_and_never_empty() -> None:
    draft = draft_of(b"x" * 10, b"y" * 8, b"z" * 30)
    (stretch,) = draft.stretches()
    assert (stretch.start, stretch.end, stretch.incarnation) == (0, 3, NEW)
    sizes = []
    offset = 0
    while offset < 3:
        batch = draft.read("shop", 0, offset, max_rows=10, max_bytes=20)
        sizes.append(len(batch))
        offset = batch.next_offset
    assert sizes == [2, 1]
    assert len(draft.read("shop", 0, 0, max_rows=1, max_bytes=1 << 20)) == 1


def test_a_sink_that_stops_at_an_error_stops_in_the_preview(tmp_path: Path) -> None:
    spec = SinkSpec("out", "parquet", {"url": "lake"}, ("shop",), CutSpec(100, 1 << 20, 0.0), on_error="stop")
    pipeline = PipelineSpec("shop", (), (spec,))
    draft = draft_of(b'{"a":1}', b"{", b'{"a":2}')
    previewer = SinkPreviewer(pipeline, spec, folder=tmp_path, log=None, clock=ManualClock())
    found = previewer.plan(draft.stretches(), draft)
    assert found.problem == "shop[0]: stops after the event at offset 1, which it refuses"
    assert [(cut.stretch.start, cut.stretch.end, cut.delivered) for cut in found.cuts] == [(0, 2, 1)]
    assert [isinstance(file.file, FileContent) for file in found.files()] == [True]
    assert list(tmp_path.iterdir()) == []
