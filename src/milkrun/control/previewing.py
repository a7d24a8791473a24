"""`milkrun preview`: what a pipeline's sinks would write, for a stretch of the log, for a sample, or for what its sources bring now.

Nothing is written: not to the log, not to a target, and no source is told that anything was taken.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa

from milkrun.control.comparing import Difference, compare
from milkrun.control.inferring import sample_values
from milkrun.log.protocol import Log
from milkrun.model.batch import TopicPartition, no_headers
from milkrun.model.clock import Clock
from milkrun.model.errors import MilkrunError, NotFound, OffsetOutOfRange, Refused
from milkrun.model.spec import PipelineSpec, SinkSpec, SourceSpec
from milkrun.plugin.config import parse
from milkrun.plugin.source import Received, Source, SourceContext
from milkrun.runtime.cutting import cut
from milkrun.runtime.dead_letters import DeadLetter
from milkrun.runtime.drafting import DraftIntake, DraftLog, Stretch
from milkrun.runtime.previewing import FileDraft, Readable, SinkDraft, SinkPreviewer, TableDraft
from milkrun.runtime.reading import EventReader
from milkrun.runtime.registry import source_class
from milkrun.runtime.sink_task import matches

POLL_SECONDS = 0.1
_OFFSETS = re.compile(
    r"(?P<topic>[A-Za-z0-9._-]+)\[(?P<partition>\d+)\]:(?P<start>\d+)(?:(?P<to>-)(?P<end>\d+)?)?"
)


@dataclass(frozen=True)
class LogStretch:
    """Which events of the log: those named by `offsets` (`topic[partition]:first-last`), or with timestamps in `[since, until)` (Unix
    ms); at most `limit`, the newest unless `since` or `offsets` says where to begin."""

    offsets: tuple[str, ...] = ()
    since: int | None = None
    until: int | None = None
    limit: int = 1000


@dataclass(frozen=True)
class Listening:
    """What sources bring within so many seconds, at most `limit` events: of the source named, or of all. `bindings` are for sources that
    can't know where to listen."""

    seconds: float = 10.0
    limit: int = 1000
    source: str | None = None
    bindings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sample:
    """The events of a file (NDJSON or a JSON array), as if the source had brought them; the only one unless named."""

    path: Path
    limit: int = 1000
    source: str | None = None


@dataclass(frozen=True)
class SourcePreview:
    """What a source brought, and what became of it."""

    source: str
    received: int
    accepted: int
    duplicates: int
    refused: int


@dataclass(frozen=True)
class StretchPreview:
    """The offsets from `start` to `end` of a topic partition that were looked at."""

    topic: str
    partition: int
    start: int
    end: int


@dataclass(frozen=True)
class TablePreview:
    """The rows that a table would get; `columns` are their names and types. Of `replaced` keys older rows would go first."""

    table: str
    columns: dict[str, str]
    rows: pa.Table
    replaced: int


@dataclass(frozen=True)
class FilePreview:
    """A file that would be written. `rows` are read from its very bytes; None where the connector has no way to."""

    name: str
    bytes: int
    sha256: str
    rows: pa.Table | None


@dataclass(frozen=True)
class SinkPreview:
    """What one sink would do. `ddl` are the statements before its rows, `cuts` its writes; `problem` says why it would stop."""

    sink: str
    connector: str
    cuts: int
    delivered: int
    filtered: int
    dead: int
    held: int
    ddl: tuple[str, ...] = ()
    tables: tuple[TablePreview, ...] = ()
    files: tuple[FilePreview, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class Preview:
    """What a pipeline would do with the events of `origin` (`log`, `file` or `live`). `differences` are None where nothing was compared."""

    pipeline: str
    version: str
    origin: str
    stretches: tuple[StretchPreview, ...]
    sources: tuple[SourcePreview, ...]
    sinks: tuple[SinkPreview, ...]
    dead_letters: tuple[DeadLetter, ...]
    differences: tuple[Difference, ...] | None = None
    notes: tuple[str, ...] = ()

    @property
    def events(self) -> int:
        """Offsets that were looked at."""
        return sum(each.end - each.start for each in self.stretches)

    @property
    def ok(self) -> bool:
        """Whether no sink would stop, and nothing differs where that was asked."""
        problems = any(sink.problem for sink in self.sinks)
        return not problems and all(each.equal for each in self.differences or ())


@dataclass
class Previewer:
    """Previews one pipeline. `log` is None where there is none yet; `report` is told, for people, where events are taken from; `stop` ends
    the listening."""

    pipeline: PipelineSpec
    folder: Path
    log: Log | None
    clock: Clock
    sinks: Sequence[str] = ()
    report: Callable[[str], None] = lambda text: None
    stop: threading.Event = field(default_factory=threading.Event)

    # -- of the log

    def of_log(self, wanted: LogStretch, *, diff: bool = False) -> Preview:
        """Of events that are in the log. NotFound where there are none of the pipeline's topics."""
        log = self._existing_log()
        chosen = self._chosen_sinks()
        stretches = self._named(wanted, log, chosen) if wanted.offsets else self._timed(wanted, log, chosen)
        stretches, left = _limited(stretches, wanted.limit)
        notes = [f"{left} more events are left out: raise --limit to see them"] if left else []
        drafts = self._drafts(stretches, EventReader(log))
        differences = None
        if diff:
            found: list[Difference] = []
            for draft in drafts:
                mine = [each for each in stretches if matches(each.partition.topic, draft.spec.topics)]
                found += compare(self.pipeline.name, draft, mine, log)
            differences = tuple(found)
        return self._preview("log", stretches, drafts, notes, differences=differences)

    def _existing_log(self) -> Log:
        if self.log is None:
            raise NotFound(
                "there is no log yet: nothing has run; preview a sample with --file, or what sources bring now with --live"
            )
        return self.log

    def _timed(self, wanted: LogStretch, log: Log, sinks: Sequence[SinkSpec]) -> list[Stretch]:
        found = []
        for info in log.topics():
            topic = info.spec.name
            if not any(matches(topic, sink.topics) for sink in sinks):
                continue
            for number in range(info.spec.partitions):
                start, end = log.bounds(topic, number)
                if wanted.since is not None:
                    start = max(start, log.offset_at(topic, number, wanted.since))
                if wanted.until is not None:
                    end = min(end, max(start, log.offset_at(topic, number, wanted.until)))
                if start < end:
                    found.append(Stretch(TopicPartition(topic, number), info.incarnation, start, end))
        if not found:
            patterns = ", ".join(sorted({pattern for sink in sinks for pattern in sink.topics}))
            raise NotFound(
                f"the log has no such events of the topics {patterns}; preview a sample with --file, or what sources bring now with --live"
            )
        return found if wanted.since is not None else _newest(found, wanted.limit)

    def _named(self, wanted: LogStretch, log: Log, sinks: Sequence[SinkSpec]) -> list[Stretch]:
        found = []
        for text in wanted.offsets:
            match = _OFFSETS.fullmatch(text)
            if match is None:
                raise Refused(
                    f"{text!r} names no offsets; write TOPIC[PARTITION]:FIRST-LAST, such as shop.order[0]:10-19"
                )
            topic, number, first = match["topic"], int(match["partition"]), int(match["start"])
            info = log.topic(topic)
            if info is None or number >= info.spec.partitions:
                raise NotFound(f"there is no topic partition {topic}[{number}]")
            if not any(matches(topic, sink.topics) for sink in sinks):
                raise Refused(
                    f"no sink of the pipeline {self.pipeline.name} that is previewed takes the topic {topic}"
                )
            start, end = log.bounds(topic, number)
            last = int(match["end"]) if match["end"] else end - 1 if match["to"] else first
            if not start <= first <= last < end:
                raise OffsetOutOfRange(
                    f"{topic}[{number}] has the offsets {start} to {end - 1}, not {first} to {last}",
                    start=start,
                    end=end,
                )
            found.append(Stretch(TopicPartition(topic, number), info.incarnation, first, last + 1))
        return found

    # -- of events that come

    def of_sample(self, wanted: Sample) -> Preview:
        """Of the events of a file."""
        spec = self._source(wanted.source)
        kind = source_class(spec.connector)
        values = sample_values(wanted.path)
        notes = []
        if len(values) > wanted.limit:
            notes.append(f"{len(values) - wanted.limit} more events are left out: raise --limit to see them")
            values = values.slice(0, wanted.limit)
        draft = DraftLog(self.log)
        intake = DraftIntake(self.pipeline, spec, kind.capabilities, draft)
        intake.take(Received(values=values, headers=no_headers(len(values))), self.clock.now())
        return self._taken("file", draft, {spec.name: intake}, notes)

    def of_live(self, wanted: Listening) -> Preview:
        """Of what sources bring from now on. Refused where one that was named can't be listened to, or none can."""
        specs = [self._source(wanted.source)] if wanted.source else list(self.pipeline.sources)
        if not specs:
            raise Refused(f"the pipeline {self.pipeline.name} has no sources to listen to")
        draft, notes, refusals = DraftLog(self.log), [], []
        intakes: dict[str, DraftIntake] = {}
        with ExitStack() as stack:
            sources: list[tuple[Source, DraftIntake]] = []
            for spec in specs:
                source = self._open(spec)
                stack.callback(source.close)
                try:
                    self.report(f"{spec.name}: {source.tap(wanted.bindings)}")
                except Refused as error:
                    refusals.append(error)
                    continue
                intakes[spec.name] = DraftIntake(self.pipeline, spec, source.capabilities, draft)
                sources.append((source, intakes[spec.name]))
            if not sources:
                raise refusals[0]
            notes += [str(error) for error in refusals]
            self._listen(sources, wanted)
        return self._taken("live", draft, intakes, notes)

    def _open(self, spec: SourceSpec) -> Source:
        kind = source_class(spec.connector)
        context = SourceContext(
            self.pipeline.name, spec.name, self.folder, self.clock, id_path=spec.route.id, split=cut
        )
        return kind(parse(kind.Config, spec.config), context)

    def _listen(self, sources: Sequence[tuple[Source, DraftIntake]], wanted: Listening) -> None:
        """Poll the sources in turn until enough has come, the time is over, or all that could come has."""
        deadline = self.clock.monotonic() + wanted.seconds
        open_ones, left = list(sources), wanted.limit
        while open_ones and left > 0 and not self.stop.is_set():
            for source, intake in list(open_ones):
                if left <= 0 or self.clock.monotonic() >= deadline:
                    return
                received = source.poll(left, POLL_SECONDS)
                if received is not None:
                    intake.take(received, self.clock.now())
                    left -= len(received)
                elif source.capabilities.resume == "position":
                    # All that is there has been read; what may be added later isn't waited for.
                    open_ones.remove((source, intake))

    def _source(self, name: str | None) -> SourceSpec:
        found = [each for each in self.pipeline.sources if name in (None, each.name)]
        if len(found) == 1:
            return found[0]
        names = ", ".join(each.name for each in self.pipeline.sources) or "none"
        if name is not None:
            raise NotFound(f"the pipeline {self.pipeline.name} has no source {name!r}; there are: {names}")
        raise Refused(f"which source brings the events? give --source; there are: {names}")

    def _taken(
        self, origin: str, draft: DraftLog, intakes: dict[str, DraftIntake], notes: list[str]
    ) -> Preview:
        stretches = draft.stretches()
        letters = [letter for intake in intakes.values() for letter in intake.letters]
        sources = tuple(
            SourcePreview(
                name,
                intake.counts.received,
                intake.counts.accepted,
                intake.counts.duplicates,
                intake.counts.refused,
            )
            for name, intake in intakes.items()
        )
        if not any(source.received for source in sources):
            notes = [*notes, "no events came"]
        return self._preview(
            origin, stretches, self._drafts(stretches, draft), notes, letters=letters, sources=sources
        )

    # -- what sinks would do

    def _chosen_sinks(self) -> list[SinkSpec]:
        known = {sink.name: sink for sink in self.pipeline.sinks}
        for name in self.sinks:
            if name not in known:
                raise NotFound(
                    f"the pipeline {self.pipeline.name} has no sink {name!r}; there are: {', '.join(known) or 'none'}"
                )
        if not known:
            raise Refused(f"the pipeline {self.pipeline.name} has no sinks: nothing would be written")
        return [sink for name, sink in known.items() if not self.sinks or name in self.sinks]

    def _drafts(self, stretches: Sequence[Stretch], events: Readable) -> list[SinkDraft]:
        drafts = []
        for spec in self._chosen_sinks():
            previewer = SinkPreviewer(self.pipeline, spec, folder=self.folder, log=self.log, clock=self.clock)
            mine = [each for each in stretches if matches(each.partition.topic, spec.topics)]
            drafts.append(previewer.plan(mine, events))
        return drafts

    def _preview(
        self,
        origin: str,
        stretches: Sequence[Stretch],
        drafts: Sequence[SinkDraft],
        notes: Sequence[str],
        *,
        letters: Sequence[DeadLetter] = (),
        sources: tuple[SourcePreview, ...] = (),
        differences: tuple[Difference, ...] | None = None,
    ) -> Preview:
        notes = list(notes)
        sinks = tuple(_sink_preview(draft, notes) for draft in drafts)
        dead = [*letters, *(letter for draft in drafts for cut in draft.cuts for letter in cut.letters)]
        return Preview(
            pipeline=self.pipeline.name,
            version=self.pipeline.version,
            origin=origin,
            stretches=tuple(
                StretchPreview(each.partition.topic, each.partition.partition, each.start, each.end)
                for each in stretches
            ),
            sources=sources,
            sinks=sinks,
            dead_letters=tuple(dead),
            differences=differences,
            notes=tuple(notes),
        )


def _newest(stretches: Sequence[Stretch], limit: int) -> list[Stretch]:
    """The ends of the stretches: at most `limit` offsets, of each as many as of any other as far as there are so many."""
    left, shares = limit, dict.fromkeys(range(len(stretches)), 0)
    open_ones = sorted(shares, key=lambda index: stretches[index].end - stretches[index].start)
    for position, index in enumerate(open_ones):
        fair = -(-left // (len(open_ones) - position))
        shares[index] = min(stretches[index].end - stretches[index].start, fair, left)
        left -= shares[index]
    return [
        replace(stretch, start=stretch.end - shares[index])
        for index, stretch in enumerate(stretches)
        if shares[index]
    ]


def _limited(stretches: Sequence[Stretch], limit: int) -> tuple[list[Stretch], int]:
    """The first `limit` offsets of the stretches, and how many are left out."""
    found, left = [], limit
    for stretch in stretches:
        size = min(stretch.end - stretch.start, left)
        if size:
            found.append(replace(stretch, end=stretch.start + size))
        left -= size
    return found, sum(each.end - each.start for each in stretches) - (limit - left)


def _sink_preview(draft: SinkDraft, notes: list[str]) -> SinkPreview:
    ddl: Sequence[str] = ()
    problem = draft.problem
    try:
        ddl = draft.ddl()
    except Refused as error:
        # What the target can't be made to hold would stop the sink.
        problem = problem or str(error)
    except MilkrunError as error:
        notes.append(f"{draft.spec.name}: what would change in the target can't be told: {error}")
    cuts = draft.cuts
    return SinkPreview(
        sink=draft.spec.name,
        connector=draft.spec.connector,
        cuts=len(cuts),
        delivered=sum(cut.delivered for cut in cuts),
        filtered=sum(cut.filtered for cut in cuts),
        dead=sum(len(cut.letters) for cut in cuts),
        held=sum(cut.held for cut in cuts),
        ddl=tuple(ddl),
        tables=tuple(_table_preview(table) for table in draft.tables()),
        files=tuple(_file_preview(file) for file in draft.files()),
        problem=problem,
    )


def _table_preview(table: TableDraft) -> TablePreview:
    return TablePreview(table.name, table.columns, table.rows, table.replaced)


def _file_preview(draft: FileDraft) -> FilePreview:
    content = draft.file.content
    return FilePreview(draft.file.name, len(content), hashlib.sha256(content).hexdigest(), draft.rows)
