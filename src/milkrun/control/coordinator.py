"""`Project`: everything that can be asked of, or done to, a project folder. CLI, server and users call this and nothing beside it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

from milkrun.control.applied import current_number, materialise, read_version
from milkrun.control.dead import DeadFilter, DeadGroup, DeadLetters
from milkrun.control.inferring import MAX_EVENTS, InferredSchema, infer_schemas, sample_values, write_schemas
from milkrun.control.ledgers import LedgerReport, read_ledger
from milkrun.control.loading import PROJECT_FILE, load, load_machine, sketch_version
from milkrun.control.moving import MOVER, MoveResult, Report, cancel, move
from milkrun.control.moving_target import read_target, write_section
from milkrun.control.pipelines import topic_pattern
from milkrun.control.plan import ProjectPlan, apply_plan, make_plan
from milkrun.control.reading import Moment, TopicHandle, moment_ms
from milkrun.control.status import ProjectStatus, read_status
from milkrun.control.topic_schemas import KnownSchema, schema_of
from milkrun.control.verifying import Verification, verify
from milkrun.log.embedded import EmbeddedLog
from milkrun.log.opening import log_place, open_log
from milkrun.log.protocol import Log, PartitionInfo
from milkrun.model.clock import Clock, SystemClock
from milkrun.model.errors import NotFound, Refused
from milkrun.model.spec import EmbeddedLogSpec, PipelineSpec, ProjectSpec, TopicSpec
from milkrun.runtime.dead_letters import DeadLetter
from milkrun.runtime.moves import check_startable
from milkrun.runtime.sink_task import matches


@dataclass(frozen=True)
class TopicStatus:
    """A topic as it stands: settings, incarnation, and its partitions by number."""

    spec: TopicSpec
    incarnation: str
    partitions: tuple[PartitionInfo, ...]

    @property
    def rows(self) -> int:
        """Events kept."""
        return sum(partition.rows for partition in self.partitions)

    @property
    def bytes(self) -> int:
        """Bytes on disk."""
        return sum(partition.bytes for partition in self.partitions)


class Project:
    """A project folder, read and checked. The log is opened when first needed; `close` lets go of it.

    `bare` reads `milkrun.yaml` alone: a worker's machine has no pipelines, the log has them. `machine` is what the folder itself says.

    Raises ConfigErrors with every mistake in the files, NotFound where there is no project. Methods may be called from any thread.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        environment: Mapping[str, str] | None = None,
        clock: Clock | None = None,
        log: Log | None = None,
        bare: bool = False,
    ) -> None:
        self.environment = environment
        self.loaded = (load_machine if bare else load)(folder, environment)
        self.spec = self.machine = self.loaded.spec
        self._bare = bare
        self._sketch: tuple[int, ProjectSpec] | None = None
        self.folder = self.spec.folder
        self.clock = clock or SystemClock()
        self._log = log
        self._given = log is not None
        self._lock = threading.Lock()

    @property
    def log(self) -> Log:
        """The project's log, made if there is none yet."""
        with self._lock:
            if self._log is None:
                self._log = open_log(self.spec.log, self.clock)
            return self._log

    @property
    def started(self) -> bool:
        """Whether there is a log yet. On Kafka there always is: only asking the cluster would tell what is in it."""
        place = self.spec.log
        return self._log is not None or not isinstance(place, EmbeddedLogSpec) or place.path.exists()

    def existing_log(self) -> Log:
        """The project's log. NotFound where nothing has run yet."""
        if not self.started:
            raise NotFound(
                f"there is no log at {log_place(self.spec.log)}: nothing has run yet; start with `milkrun up`"
            )
        return self.log

    @contextmanager
    def worker_log(self, name: str) -> Iterator[Log]:
        """The log for the worker `name` to write to while inside.

        On Kafka a connection of its own, because opening it fences whoever wrote under the name before; hold the name's
        `WorkerSlot` first. An embedded log, and one given to the project, is shared with everything else in this process.
        """
        if self._given or isinstance(self.spec.log, EmbeddedLogSpec):
            yield self.log
            return
        log = open_log(self.spec.log, self.clock, name=name)
        try:
            yield log
        finally:
            log.close()

    def close(self) -> None:
        """Let go of the log."""
        with self._lock:
            if self._log is not None:
                self._log.close()
                self._log = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- from files to the log

    def plan(self) -> ProjectPlan:
        """What `apply` would change. Changes nothing, and makes no log."""
        return make_plan(self.loaded, self.log if self.started else None)

    def apply(self, *, allow_incompatible: bool = False) -> ProjectPlan:
        """Make and change topics, and remember the project as applied. Refused where the plan can't or may not be carried out."""
        check_startable(self.log)
        return apply_plan(self.loaded, self.log, self.clock, allow_incompatible=allow_incompatible)

    def move(
        self, to: str, *, settings: Path | None = None, write: bool = False, report: Report | None = None
    ) -> MoveResult:
        """Carry everything from the embedded log to Kafka, `to` being `kafka://host:9092[,host2:9092]`.

        `settings` is a YAML file with what else `log: kafka:` is to have. With `write`, milkrun.yaml names the new log afterwards. A move
        that was interrupted goes on. Refused where a worker runs, or the cluster has such a project or such topics already.
        """
        log = self._embedded()
        target = read_target(to, settings, self.folder, self.spec.name, self.environment)
        result = move(
            self.spec,
            log,
            target.log,
            lambda: open_log(target.log, self.clock, name=MOVER),
            self.clock,
            report or (lambda doing, done, total: None),
        )
        if write:
            write_section(self.folder / PROJECT_FILE, target)
        return replace(result, log=target.text, written=write)

    def cancel_move(self) -> None:
        """Give an unfinished move up: the project goes on with its embedded log. Refused where there is none."""
        cancel(self.spec, self._embedded())

    def _embedded(self) -> EmbeddedLog:
        if not isinstance(self.spec.log, EmbeddedLogSpec):
            raise Refused(
                f"the project's log is {log_place(self.spec.log)} already; only an embedded log can be moved"
            )
        log = self.existing_log()
        assert isinstance(log, EmbeddedLog)
        return log

    # -- looking

    def status(self) -> ProjectStatus:
        """How workers, tasks and sinks do."""
        log = self.existing_log()
        return read_status(self._running(log), log, self.clock)

    def _running(self, log: Log) -> ProjectSpec:
        """What workers run: on a cluster what was applied, whatever this folder has."""
        if self._bare or isinstance(self.machine.log, EmbeddedLogSpec):
            return self.spec
        number = current_number(log)
        if number is None:
            return self.spec
        with self._lock:
            if self._sketch is None or self._sketch[0] != number:
                # Not into the folder: who only looks need not be able to write there.
                with TemporaryDirectory(prefix="milkrun-") as scratch:
                    files = materialise(read_version(log, number), Path(scratch))
                    self._sketch = number, sketch_version(files, self.machine)
            return self._sketch[1]

    def topics(self) -> list[TopicStatus]:
        """All topics, by name."""
        log = self.existing_log()
        infos = log.topics()
        places = [(info.spec.name, number) for info in infos for number in range(info.spec.partitions)]
        found = log.partitions_of(places)
        return [
            TopicStatus(
                info.spec,
                info.incarnation,
                tuple(
                    found[info.spec.name, number]
                    for number in range(info.spec.partitions)
                    if (info.spec.name, number) in found
                ),
            )
            for info in infos
        ]

    def topic(self, name: str) -> TopicHandle:
        """One topic, to read from. NotFound where there is none of that name."""
        return TopicHandle(name, self.existing_log(), self.clock, self.spec.pipelines)

    def topic_status(self, name: str) -> TopicStatus:
        """One topic as it stands. NotFound where there is none of that name."""
        self.topic(name)
        return next(each for each in self.topics() if each.spec.name == name)

    def topic_schema(self, name: str) -> KnownSchema:
        """The schema by which the project's pipelines decode a topic, as far as it is known."""
        return schema_of(self.topic(name).name, self.existing_log(), self.spec.pipelines)

    def ledger(
        self,
        *,
        pipeline: str | None = None,
        by_minute: bool = False,
        since: Moment = None,
        prove: bool = True,
    ) -> LedgerReport:
        """What became of all events, by topic or by topic and minute (then those since `since`). Without `prove` only the figures, as they
        stand at the moment."""
        start = moment_ms(since, self.clock.now())
        return read_ledger(
            self._pipelines(pipeline),
            self.existing_log(),
            by_minute=by_minute,
            since_minute=None if start is None else start // 60_000,
            prove=prove,
        )

    def verify(self, *, pipeline: str | None = None, sink: str | None = None) -> Verification:
        """Read the targets back and compare them with the log, offset by offset."""
        chosen = self._pipelines(pipeline)
        if sink is not None and not any(each.name == sink for one in chosen for each in one.sinks):
            names = ", ".join(sorted({each.name for one in chosen for each in one.sinks})) or "none"
            raise NotFound(f"there is no sink {sink!r}; there are: {names}")
        return verify(self.spec, self.existing_log(), self.clock, pipeline=pipeline, sink=sink)

    # -- dead letters

    def dead_groups(self, wanted: DeadFilter | None = None) -> list[DeadGroup]:
        """The dead letters counted by cause, most first."""
        return self._dead().groups(wanted or DeadFilter())

    def dead_letters(self, wanted: DeadFilter | None = None, *, limit: int = 100) -> list[DeadLetter]:
        """Single dead letters, oldest first."""
        return list(self._dead().letters(wanted or DeadFilter(), limit))

    def dead_letter(self, identity: str, *, pipeline: str | None = None) -> DeadLetter:
        """The dead letter of an id such as `shop/0:12`, with its bytes."""
        return self._dead().show(identity, pipeline)

    def _dead(self) -> DeadLetters:
        return DeadLetters(self.existing_log(), self.spec.pipelines)

    # -- schemas

    def infer(
        self,
        topic: str | None = None,
        *,
        sample: Path | None = None,
        type_path: str | None = None,
        name: str | None = None,
        write: bool = True,
        force: bool = False,
    ) -> list[InferredSchema]:
        """Schemas of the event types in a topic or a sample file, written to the pipeline's schema folder for review.

        `type_path` is the pipeline's own unless given. Refused where a schema is there already and `force` isn't given.
        """
        if (topic is None) == (sample is None):
            raise Refused("give a topic or a sample file to infer from, one of them")
        path = type_path or self._type_path(topic)
        if sample is not None:
            found = infer_schemas(
                sample_values(sample), type_path=path, name=name or sample.name.split(".")[0]
            )
        else:
            assert topic is not None
            events = self.topic(topic).read(limit=MAX_EVENTS).to_table()
            values = events.column("value").combine_chunks()
            found = infer_schemas(values, type_path=path, name=name or topic, events=events)
        return write_schemas(found, self.folder / "schemas", force=force) if write else found

    def _type_path(self, topic: str | None) -> str | None:
        for pipeline in self.spec.pipelines:
            patterns = tuple(topic_pattern(source) for source in pipeline.sources)
            if pipeline.schema.type and (topic is None or matches(topic, patterns)):
                return pipeline.schema.type
        return None

    def _pipelines(self, name: str | None) -> tuple[PipelineSpec, ...]:
        chosen = tuple(each for each in self.spec.pipelines if name in (None, each.name))
        if name is not None and not chosen:
            names = ", ".join(each.name for each in self.spec.pipelines) or "none"
            raise NotFound(f"there is no pipeline {name!r}; there are: {names}")
        return chosen


def time_text(milliseconds: int | None) -> str | None:
    """Unix ms as RFC 3339 in UTC, to the millisecond."""
    if milliseconds is None:
        return None
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{milliseconds % 1000:03d}Z"
