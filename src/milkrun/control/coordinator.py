"""`Project`: everything that can be asked of, or done to, a project folder. CLI, server and users call this and nothing beside it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

from milkrun.control.alerting import AlertRules
from milkrun.control.applied import current_number, materialise, read_version
from milkrun.control.archive_rebuilding import Rebuilt, rebuild
from milkrun.control.archiving import (
    ArchiveReport,
    ArchiveRun,
    ArchiveVerification,
    TopicArchive,
    read_archive,
    run_archive,
    tiered,
    verify_archive,
)
from milkrun.control.dashboard import dashboard
from milkrun.control.dead import DeadFilter, DeadGroup, DeadLetters, Found
from milkrun.control.dead_fixing import Fix
from milkrun.control.dead_selection import Selection
from milkrun.control.dead_work import Report as DeadReport
from milkrun.control.dead_work import Workbench
from milkrun.control.erasing import Erasing, ErasurePlan
from milkrun.control.erasing_search import Choice
from milkrun.control.erasing_search import Report as SearchReport
from milkrun.control.erasure_status import Certificate, read_certificate, read_certificates
from milkrun.control.examples import ExamplesReport, run_examples
from milkrun.control.inferring import MAX_EVENTS, InferredSchema, infer_schemas, sample_values, write_schemas
from milkrun.control.ledgers import LedgerReport, read_ledger
from milkrun.control.loading import PROJECT_FILE, load, load_machine, sketch_version
from milkrun.control.moving import MOVER, MoveResult, Report, cancel, move
from milkrun.control.moving_archive import archive_there
from milkrun.control.moving_target import check_section, read_target, write_section
from milkrun.control.pipelines import topic_pattern
from milkrun.control.plan import ProjectPlan, apply_plan, check_shareable, make_plan
from milkrun.control.previewing import Listening, LogStretch, Preview, Previewer, Sample
from milkrun.control.reading import Moment, TopicHandle, moment_ms
from milkrun.control.replay_diff import ReplayDiff, compare_generations
from milkrun.control.replaying import Replays
from milkrun.control.sla import Delays, SlaReport, read_delays, read_sla, store_read_back
from milkrun.control.status import ProjectStatus, read_status
from milkrun.control.topic_schemas import KnownSchema, schema_of
from milkrun.control.tracing import Trace, trace
from milkrun.control.verifying import Verification, verify
from milkrun.log.archive import TieredLog
from milkrun.log.archive.rebuilding import Report as FilesRead
from milkrun.log.opening import log_place, open_log, there_is
from milkrun.log.protocol import Log, PartitionInfo
from milkrun.model.clock import Clock, SystemClock
from milkrun.model.errors import Fenced, NotFound, Refused, Transient
from milkrun.model.spec import EmbeddedLogSpec, PipelineSpec, ProjectSpec, TopicSpec
from milkrun.runtime.moves import check_startable
from milkrun.runtime.sink_task import matches


@dataclass(frozen=True)
class TopicStatus:
    """A topic as it stands: settings, incarnation, and its partitions by number, both tiers together; `archive` has what is archived of it,
    None where the project has no archive, or nothing of the topic there."""

    spec: TopicSpec
    incarnation: str
    partitions: tuple[PartitionInfo, ...]
    archive: TopicArchive | None = None

    @property
    def rows(self) -> int:
        """Events kept."""
        return sum(partition.rows for partition in self.partitions)

    @property
    def bytes(self) -> int:
        """Bytes on disk; of what only the archive has, there."""
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
                self._log = open_log(self.spec.log, self.clock, archive=self.spec.archive)
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
        log = open_log(self.spec.log, self.clock, name=name, archive=self.spec.archive)
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
        self,
        to: str,
        *,
        settings: Path | None = None,
        archive: str | None = None,
        write: bool = False,
        report: Report | None = None,
    ) -> MoveResult:
        """Carry everything from the embedded log to Kafka, `to` being `kafka://host:9092[,host2:9092]`.

        `settings` is a YAML file with what else `log: kafka:` is to have; `archive` is the new archive's url, where the project has one. With
        `write`, milkrun.yaml names the new log and archive afterwards. A move that was interrupted goes on. Refused where a worker runs, or
        the cluster has such a project or such topics already; ConfigErrors where secrets stand in the project's files.
        """
        log = self._embedded()
        target = read_target(to, settings, self.folder, self.spec.name, self.environment)
        there = archive_there(self.spec.archive, archive)
        check_shareable(self.loaded.files)
        check_section(target)
        result = move(
            self.spec,
            log,
            target.log,
            lambda: open_log(target.log, self.clock, name=MOVER, archive=there),
            self.clock,
            report or (lambda doing, done, total: None),
        )
        if write:
            write_section(self.folder / PROJECT_FILE, target, archive)
        return replace(result, log=target.text, written=write)

    def cancel_move(self) -> None:
        """Give an unfinished move up: the project goes on with its embedded log. Refused where there is none."""
        cancel(self.spec, self._embedded())

    def _embedded(self) -> Log:
        if not isinstance(self.spec.log, EmbeddedLogSpec):
            raise Refused(
                f"the project's log is {log_place(self.spec.log)} already; only an embedded log can be moved"
            )
        return self.existing_log()

    # -- looking

    def status(self) -> ProjectStatus:
        """How workers, tasks and sinks do."""
        log = self.existing_log()
        return read_status(self._running(log), log, self.clock)

    @property
    def running(self) -> ProjectSpec:
        """What workers run: on a cluster what was applied, whatever this folder has."""
        return self._running(self.existing_log())

    def _running(self, log: Log) -> ProjectSpec:
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
        archived = read_archive(log, self.clock).by_topic() if isinstance(log, TieredLog) else {}
        return [
            TopicStatus(
                info.spec,
                info.incarnation,
                tuple(
                    found[info.spec.name, number]
                    for number in range(info.spec.partitions)
                    if (info.spec.name, number) in found
                ),
                archived.get(info.spec.name),
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

    # -- previews and tests

    def preview(
        self,
        pipeline: str,
        wanted: LogStretch | Sample | Listening | None = None,
        *,
        sinks: Sequence[str] = (),
        diff: bool = False,
        report: Callable[[str], None] = lambda text: None,
        stop: threading.Event | None = None,
    ) -> Preview:
        """What the sinks (all, or those named) would write of these events, the newest of the log unless said. Nothing is written
        anywhere.

        With `diff`, for events of the log, the targets are read and compared. `report` is told where live events are taken from.
        """
        (chosen,) = self._pipelines(pipeline)
        log = self.log if self._log is not None or there_is(self.spec.log) else None
        previewer = Previewer(chosen, self.folder, log, self.clock, sinks, report, stop or threading.Event())
        if isinstance(wanted, LogStretch | None):
            return previewer.of_log(wanted or LogStretch(), diff=diff)
        if diff:
            raise Refused("only events of the log can be compared: leave out --diff, or --file and --live")
        return previewer.of_sample(wanted) if isinstance(wanted, Sample) else previewer.of_live(wanted)

    def test(self, pipelines: Sequence[str] = ()) -> ExamplesReport:
        """Run the tests that pipelines have, all or those named. Refused where there are none."""
        chosen = [each for name in pipelines or (None,) for each in self._pipelines(name)]
        report = run_examples(chosen, self.loaded.examples, folder=self.folder, clock=self.clock)
        if not report.results:
            names = ", ".join(each.name for each in chosen) or "the project, which has no pipelines"
            raise Refused(f"there are no tests in {names}; write some under `tests:` in the pipeline's file")
        return report

    # -- archive

    def archive(self) -> ArchiveReport:
        """What is archived of each topic, and what it costs. Refused where the project has no archive."""
        return read_archive(tiered(self.existing_log()), self.clock)

    def run_archive(self) -> ArchiveRun:
        """Archive what is due now. Refused where the project has no archive, or a running worker archives already."""
        log = tiered(self.existing_log())
        check_startable(log)
        return run_archive(log, self.clock, self._running(log).pipelines)

    def rebuild_archive(self, report: FilesRead | None = None) -> Rebuilt:
        """Make the log, which is lost, of its archive. Refused where there is a log, or the archive's files don't fit together; NotFound where it
        has none."""
        return rebuild(self.spec, self.clock, report or (lambda done, total: None))

    def verify_archive(self, topic: str | None = None) -> ArchiveVerification:
        """Read archived files back, all or those of a topic, and compare them with the manifest."""
        return verify_archive(tiered(self.existing_log()), topic)

    # -- replays

    @property
    def replays(self) -> Replays:
        """New generations of sinks beside those that readers find: to start, look after and switch to."""
        log = self.existing_log()
        check_startable(log)
        return Replays(self._running(log), log, self.clock)

    def diff_replay(
        self, pipeline: str, sink: str | None = None, generation: int | None = None
    ) -> list[ReplayDiff]:
        """Compare replays with what readers find, both read back from their targets."""
        log = self.existing_log()
        project = self._running(log)
        return [
            compare_generations(project, log, self.clock, target, record, number)
            for target, record, number in self.replays.comparable(pipeline, sink, generation)
        ]

    # -- promises

    def sla(self, *, pipeline: str | None = None, read_back: bool = False) -> SlaReport:
        """What pipelines promise, and whether they keep it. With `read_back` targets are read and compared first, as `verify` does; else
        what that told last counts. Refused where the pipeline named promises nothing."""
        chosen = self._pipelines(pipeline)
        if pipeline is not None and chosen[0].sla is None:
            raise Refused(
                f"the pipeline {pipeline!r} promises nothing; write into its file for example "
                "sla: {fresh_within: 5m, complete: 99.9%, over: 30d}"
            )
        log = self.existing_log()
        if read_back:
            for each in chosen:
                if each.sla is not None:
                    store_read_back(log, self.clock, verify(self.spec, log, self.clock, pipeline=each.name))
        return read_sla(self._running(log).pipelines, log, self.clock.now(), pipeline)

    def delays(self) -> list[tuple[str, str, Delays]]:
        """At the sinks of pipelines that promise nothing, how long events took to become queryable in the last 5 minutes; of the others
        `sla` tells."""
        log = self.existing_log()
        return list(read_delays(self._running(log).pipelines, log, self.clock.now()))

    def trace(self, identity: str, *, pipeline: str | None = None, since: Moment = "-24h") -> Trace:
        """The way of the event with that id. Topics are read from `since` on where no source remembers the id."""
        self._pipelines(pipeline)
        moment = moment_ms(since, self.clock.now())
        return trace(
            self.spec, self.existing_log(), self.clock, identity, pipeline=pipeline, since=moment or 0
        )

    # -- dead letters

    def dead_groups(self, wanted: DeadFilter | None = None) -> list[DeadGroup]:
        """The dead letters counted by cause, most first."""
        return self._dead().groups(wanted or DeadFilter())

    def dead_letters(self, wanted: DeadFilter | None = None, *, limit: int = 100) -> list[Found]:
        """Single dead letters with what has become of them, oldest first."""
        return list(islice(self._dead().found(wanted or DeadFilter()), limit))

    def dead_letter(self, identity: str, *, pipeline: str | None = None) -> Found:
        """The dead letter of an id such as `shop/0:12`, with its bytes and what has become of it."""
        return self._dead().show(identity, pipeline)

    def repair_dead(
        self,
        selection: Selection,
        fix: Fix,
        *,
        apply: bool = False,
        why: str = "",
        by: str | None = None,
        show: int = 3,
    ) -> DeadReport:
        """Correct dead letters: what they would become, and with `apply` keep the corrected bodies until `redeliver_dead`. Nothing else is
        written. `by` is who acts, the user of this process unless given."""
        return self._workbench(by).repair(selection, fix, apply=apply, why=why, show=show)

    def redeliver_dead(
        self, selection: Selection, *, why: str = "", dry: bool = False, by: str | None = None
    ) -> DeadReport:
        """Send dead letters again: each once, whatever is killed meanwhile. Its sink's worker does the last step of those that a sink
        refused."""
        return self._workbench(by).redeliver(selection, why=why, dry=dry)

    def drop_dead(self, selection: Selection, why: str, *, by: str | None = None) -> DeadReport:
        """Give dead letters up. Their bytes and the reason stay."""
        return self._workbench(by).drop(selection, why)

    def _workbench(self, by: str | None) -> Workbench:
        log = self.existing_log()
        check_startable(log)
        made = Workbench(log, self.clock, self._running(log).pipelines, self.folder)
        return made if by is None else replace(made, by=by)

    def _dead(self) -> DeadLetters:
        return DeadLetters(self.existing_log(), self.spec.pipelines)

    # -- erasures

    def plan_erasure(
        self, topic: str, choice: Choice, *, report: SearchReport = lambda done, total: None
    ) -> ErasurePlan:
        """What an erasure of these events would be about, and what it wouldn't reach. Nothing is written."""
        return self._erasing().plan(topic, choice, report)

    def erase(
        self,
        topic: str,
        choice: Choice,
        *,
        why: str,
        by: str | None = None,
        report: SearchReport = lambda done, total: None,
    ) -> Certificate | None:
        """Erase these events from the log, the archive, dead letters and sinks; None where there are none. From the order on nobody sees
        them; what is left to do then, which the certificate tells, workers do. `by` is who acts, the user of this process unless given.

        Transient where the order holds and the work of this process couldn't be done: `resume_erasure` goes on with it, or any worker.
        """
        erasing = self._erasing()
        made = erasing.order(topic, choice, why=why, by=by, report=report)
        return None if made is None else self._finished(erasing, made)

    def resume_erasure(self, erasure: str) -> Certificate:
        """Go on with what a command that was interrupted has left. NotFound where there is no such erasure."""
        return self._finished(self._erasing(), erasure)

    def erasures(self) -> list[Certificate]:
        """The certificates of all erasures, oldest first."""
        log = self.existing_log()
        return read_certificates(self._running(log), log, self.clock)

    def erasure(self, erasure: str) -> Certificate:
        """The certificate of one. NotFound where there is none of that id."""
        log = self.existing_log()
        return read_certificate(self._running(log), log, self.clock, erasure)

    def _erasing(self) -> Erasing:
        log = self.existing_log()
        check_startable(log)
        return Erasing(self._running(log), log, self.clock)

    def _finished(self, erasing: Erasing, erasure: str) -> Certificate:
        try:
            erasing.finish(erasure)
        except (Transient, Fenced) as error:
            raise Transient(
                f"the erasure {erasure} is ordered and holds; what was left to do in this process couldn't be done now: {error}; a worker goes on with "
                f"it, or `milkrun erase --resume {erasure}`"
            ) from error
        return self.erasure(erasure)

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


@dataclass(frozen=True)
class AlertFiles:
    """Rules for Prometheus (YAML) and a dashboard for Grafana (JSON), and the files they were written to."""

    rules: str
    dashboard: str
    files: tuple[str, ...] = ()


def alert_files(job: str = "milkrun", folder: Path | None = None) -> AlertFiles:
    """Alerting rules for what Prometheus scrapes as `job`, and a dashboard; written into `folder`, made if need be, where one is given.
    Refused where that can't be written."""
    rules, board = AlertRules(job).text(), json.dumps(dashboard(), indent=2) + "\n"
    if folder is None:
        return AlertFiles(rules, board)
    files = {folder / "milkrun-rules.yml": rules, folder / "milkrun-dashboard.json": board}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in files.items():
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Refused(
            f"{error.filename} can't be written: {error.strerror}; give a folder that you may write"
        ) from error
    return AlertFiles(rules, board, tuple(map(str, files)))


def time_text(milliseconds: int | None) -> str | None:
    """Unix ms as RFC 3339 in UTC, to the millisecond."""
    if milliseconds is None:
        return None
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{milliseconds % 1000:03d}Z"
