"""Moves a project from the embedded log to Kafka: events, positions, stores, ids seen and the ledger, exactly once each.

1. Hold all worker slots, and mark both logs: until the end no worker starts on either.
2. Settle the cuts that are under way, by the same recovery as a worker's.
3. Copy each topic partition, archived events too, which the new log archives anew meanwhile; then compare both sides, and store where each sink goes on.
4. Carry stores and ids; count the ledger, and compare it.
5. Mark the move as done: first on the old log, from when on there is no way back, then on the target.

Each step finds out what has been done, so a move that was killed goes on when it is started again.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec

from milkrun.control.applied import APPLIED, CATALOG
from milkrun.control.moving_archive import Archiving, archiving_there, check_place, hot_log, offsets_of
from milkrun.control.moving_events import Copied, copied_key, copy, offsets_there, read_copied
from milkrun.control.moving_settle import check_erasures, check_held, check_positions, settle
from milkrun.control.moving_state import carry_ledger, carry_seen, carry_state
from milkrun.control.slots import AllSlots
from milkrun.log.archive import TieredLog
from milkrun.log.opening import log_place
from milkrun.log.protocol import Log, TopicInfo
from milkrun.model.batch import TopicPartition
from milkrun.model.clock import Clock
from milkrun.model.errors import MilkrunError, Refused
from milkrun.model.faults import reach
from milkrun.model.spec import KAFKA_DEDUPE_SECONDS, EmbeddedLogSpec, LogSpec, ProjectSpec, TopicSpec
from milkrun.runtime.moves import Mark, Moved, read_mark, write_mark
from milkrun.runtime.stores import CUTS, MOVED, MOVES, POSITIONS, PROGRESS, SCHEMAS, dump, load

MOVER = "move"
"""The name under which a move writes to the target: whoever opens the log by it ends what a killed one has left open."""

_DONE = "done"
"""`MOVES`: what was carried besides events, as `Carried`."""

Report = Callable[[str, int, int], None]
"""Told what is being done, how many events of it are done, and how many there are."""


@dataclass(frozen=True)
class MovedTopic:
    """A topic on the target. `bytes` are those of keys, values and headers."""

    name: str
    partitions: int
    events: int
    bytes: int


@dataclass(frozen=True)
class MoveResult:
    """What was moved. `ledger` counts the sums that are equal on both logs, `log` is the section for milkrun.yaml; `written`: it is
    there. `before`: it had all been moved by an earlier run. `archived` of the events are in the new log's `archive` (where it is)."""

    source: str
    target: str
    topics: tuple[MovedTopic, ...]
    positions: int
    ids: int
    keys: int
    ledger: int
    before: bool
    archived: int = 0
    archive: str = ""
    log: str = ""
    written: bool = False

    @property
    def events(self) -> int:
        """Events of all topics."""
        return sum(topic.events for topic in self.topics)

    @property
    def bytes(self) -> int:
        """Bytes of all topics."""
        return sum(topic.bytes for topic in self.topics)


class Carried(msgspec.Struct, frozen=True):
    """Keys of stores, ids seen and sums of the ledger."""

    keys: int
    ids: int
    ledger: int


def move(
    project: ProjectSpec,
    source: Log,
    place: LogSpec,
    open_target: Callable[[], Log],
    clock: Clock,
    report: Report,
) -> MoveResult:
    """Move everything from an embedded log to the one at `place`, which `open_target` opens; each with its archive, if the project has one.
    Refused where a worker runs, or the target isn't free.

    Transient where a server can't be reached: started again, it goes on.
    """
    _check_windows(project)
    with _quiet(project, source) as slots:
        target = open_target()
        try:
            mover = _Mover(project, source, target, log_place(place), clock, report)
            return mover.run(slots)
        finally:
            target.close()


def cancel(project: ProjectSpec, source: Log) -> None:
    """Give an unfinished move up: the embedded log is the project's again. What was copied stays on the target."""
    with _quiet(project, source):
        mark = read_mark(source)
        if mark is None:
            raise Refused("no move of this project is under way; there is nothing to give up")
        if mark.done:
            raise Refused(
                f"this project was moved to {mark.other}, and may have run there: there is no way back"
            )
        write_mark(source, None)


@contextmanager
def _quiet(project: ProjectSpec, source: Log) -> Iterator[AllSlots]:
    """While inside, all slots are held. Refused where a worker has one, or another move."""
    assert isinstance(project.log, EmbeddedLogSpec)
    with AllSlots(project.log) as slots:
        _check_nobody(slots, source)
        yield slots


def _check_nobody(slots: AllSlots, source: Log) -> None:
    if not slots.busy:
        return
    holders = []
    for name in slots.busy:
        record = source.get(PROGRESS, name)
        holders.append(f"{name} (process {load(record)['pid']})" if record else name)
    raise Refused(
        f"{', '.join(holders)} of this project still runs, or another move does; stop it first: a project is moved while no worker runs"
    )


def _check_windows(project: ProjectSpec) -> None:
    days = f"{KAFKA_DEDUPE_SECONDS / 86_400:g}d"
    for pipeline in project.pipelines:
        for source in pipeline.sources:
            if source.dedupe_seconds > KAFKA_DEDUPE_SECONDS:
                raise Refused(
                    f"pipeline {pipeline.name}, source {source.name}: a log on Kafka remembers ids for {days}; write dedupe: {days}, or less"
                )


class _Mover:
    def __init__(
        self,
        project: ProjectSpec,
        source: Log,
        target: Log,
        place: str,
        clock: Clock,
        report: Report,
    ) -> None:
        self._project = project
        self._source = source
        self._target = target
        self._place = place
        self._clock = clock
        self._report = report

    def run(self, slots: AllSlots) -> MoveResult:
        mark, fresh = self._begin()
        theirs = read_mark(self._target)
        if theirs is not None and theirs.done:
            return self._result(before=True)
        try:
            # Who started meanwhile has either seen the mark, or is seen here.
            slots.take()
            _check_nobody(slots, self._source)
            reach("move.marked")
            settle(self._project, self._source, self._clock)
            check_positions(self._project, self._source)
            check_held(self._source)
            check_erasures(self._source)
            reach("move.settled")
        except MilkrunError:
            if fresh:
                write_mark(self._source, None)
            raise
        if theirs is None:
            theirs = Mark(mark.id, "to", log_place(self._project.log))
            write_mark(self._target, theirs)
        self._topics()
        self._rest()
        self._finish(mark, theirs)
        return self._result(before=False)

    # -- marks

    def _begin(self) -> tuple[Mark, bool]:
        """The move's mark on the old log, and whether it was set now. Refused where the target isn't free, or another's."""
        ours, theirs = read_mark(self._source), read_mark(self._target)
        if theirs is not None and (ours is None or theirs.id != ours.id):
            raise Refused(
                f"{self._place} has what another move has brought under this project's name, from {theirs.other}; delete the topics of that "
                "move, or give another `project` in --settings"
            )
        if ours is not None and theirs is None and (ours.done or ours.other != self._place):
            state = "was moved" if ours.done else "is being moved"
            raise Refused(f"this project {state} to {ours.other}, not to {self._place}; give that by --to")
        if theirs is None:
            self._check_free()
        if ours is not None:
            return ours, False
        mark = Mark(uuid.uuid4().hex, "from", self._place)
        write_mark(self._source, mark)
        return mark, True

    def _check_free(self) -> None:
        """Refused where the target has anything that the move would add to."""
        check_place(self._target)
        used = any(
            True
            for store in (APPLIED, CATALOG, POSITIONS, SCHEMAS, CUTS, PROGRESS)
            for _ in self._target.scan(store)
        )
        if used or self._target.ledger().num_rows:
            raise Refused(
                f"a project called as this one has run on {self._place} already; move to a cluster where it hasn't, or give another `project` "
                "in --settings"
            )
        filled = []
        for info in self._source.topics():
            there = self._target.topic(info.spec.name)
            if there is not None and self._holds_events(there):
                filled.append(info.spec.name)
        if filled:
            raise Refused(
                f"{self._place} has topics of these names with events in them: {', '.join(filled)}; a move begins with empty topics: delete "
                "them there, or move to another cluster"
            )

    def _holds_events(self, info: TopicInfo) -> bool:
        bounds = [self._target.bounds(info.spec.name, number) for number in range(info.spec.partitions)]
        return any(end > 0 for _, end in bounds)

    def _finish(self, ours: Mark, theirs: Mark) -> None:
        """Mark both as done. The old log first: once the project can run on the target, there must be no way back."""
        if not ours.done:
            write_mark(self._source, msgspec.structs.replace(ours, done=True))
            reach("move.finished")
        if not theirs.done:
            write_mark(self._target, msgspec.structs.replace(theirs, done=True))
            reach("move.done")

    # -- topics

    def _partitions(self) -> Iterator[TopicPartition]:
        for info in self._source.topics():
            for number in range(info.spec.partitions):
                yield TopicPartition(info.spec.name, number)

    def _topics(self) -> None:
        for info in self._source.topics():
            self._prepare(info.spec)
        reach("move.prepared")
        total = sum(self._source.partition(each.topic, each.partition).rows for each in self._partitions())
        if not all(self._is_mapped(each) for each in self._partitions()):
            compacted = {info.spec.name for info in self._source.topics() if info.spec.compact}
            with archiving_there(self._target, self._clock, MOVER, compacted) as archiving:
                self._copy(total, archiving)
        self._walk("comparing", total, self._map)
        for info in self._source.topics():
            self._target.create_topic(info.spec)

    def _is_mapped(self, partition: TopicPartition) -> bool:
        copied = read_copied(self._target, partition)
        return copied is not None and copied.mapped

    def _copy(self, total: int, archiving: Archiving | None) -> None:
        appended = _ignored if archiving is None else archiving.appended
        self._walk(
            "copying", total, lambda each, done: copy(self._source, self._target, each, done, appended)
        )
        if archiving is not None:
            self._report("archiving", 0, 0)
            archiving.turn()

    def _walk(
        self, doing: str, total: int, step: Callable[[TopicPartition, Callable[[int], None]], object]
    ) -> None:
        passed = 0

        def done(events: int) -> None:
            nonlocal passed
            passed += events
            self._report(doing, passed, total)

        done(0)
        for partition in self._partitions():
            step(partition, done)

    def _prepare(self, spec: TopicSpec) -> None:
        """The topic on the target, without limits until all has been compared: they might remove events meanwhile."""
        if read_copied(self._target, TopicPartition(spec.name, 0)) is not None:
            return
        info = self._target.create_topic(TopicSpec(spec.name, spec.partitions))
        if info.spec.partitions != spec.partitions:
            raise Refused(
                f"the topic {spec.name} has {info.spec.partitions} partitions on {self._place}, and {spec.partitions} here; events of a key "
                "would change places: delete it there"
            )
        with self._target.transaction() as transaction:
            for number in range(spec.partitions):
                copied = Copied(info.incarnation, 0)
                key = copied_key(TopicPartition(spec.name, number))
                transaction.put(MOVES, key, msgspec.json.encode(copied))

    def _map(self, partition: TopicPartition, done: Callable[[int], None]) -> None:
        """Compare a partition, and store where its sinks go on."""
        copied = read_copied(self._target, partition)
        old = self._source.topic(partition.topic)
        assert copied is not None and old is not None
        if copied.mapped:
            done(copied.events)
            return
        groups = [
            each for each in offsets_of(self._source) if (each.topic, each.partition) == _place(partition)
        ]
        places = offsets_there(self._source, self._target, partition, [each.offset for each in groups], done)
        reach("move.compared")
        with self._target.transaction() as transaction:
            for each in groups:
                offset = places[each.offset]
                moved = Moved(old.incarnation, each.offset, copied.incarnation, offset)
                transaction.commit_offset(each.group, *_place(partition), offset)
                key = f"{each.group}/{copied_key(partition)}"
                transaction.put(MOVED, key, msgspec.json.encode(moved))
            mapped = msgspec.structs.replace(copied, mapped=True)
            transaction.put(MOVES, copied_key(partition), msgspec.json.encode(mapped))
        reach("move.mapped")

    # -- the rest

    def _rest(self) -> None:
        if self._target.get(MOVES, _DONE) is not None:
            return
        self._report("carrying state", 0, 0)
        hot = hot_log(self._source)
        keys = carry_state(hot, self._target)
        self._report("carrying ids", 0, 0)
        ids = carry_seen(hot, self._target, self._clock.now())
        self._report("carrying the ledger", 0, 0)
        ledger = carry_ledger(self._source, self._target)
        with self._target.transaction() as transaction:
            transaction.put(MOVES, _DONE, dump(Carried(keys, ids, ledger)))

    def _result(self, *, before: bool) -> MoveResult:
        stored = self._target.get(MOVES, _DONE)
        assert stored is not None
        carried = msgspec.json.decode(stored, type=Carried)
        topics = []
        for info in self._source.topics():
            numbers = range(info.spec.partitions)
            found = [read_copied(self._target, TopicPartition(info.spec.name, number)) for number in numbers]
            events = sum(each.events for each in found if each is not None)
            size = sum(each.bytes for each in found if each is not None)
            topics.append(MovedTopic(info.spec.name, info.spec.partitions, events, size))
        return MoveResult(
            log_place(self._project.log),
            self._place,
            tuple(topics),
            sum(1 for _ in self._target.scan(MOVED)),
            carried.ids,
            carried.keys,
            carried.ledger,
            before,
            *self._archived(),
        )

    def _archived(self) -> tuple[int, str]:
        """How many events are in the target's archive, and where that is."""
        if not isinstance(self._target, TieredLog):
            return 0, ""
        files = self._target.manifest.all().values()
        return sum(file.rows for each in files for file in each), self._target.site.place


def _ignored(size: int) -> None:
    """Nothing is archived."""
    del size


def _place(partition: TopicPartition) -> tuple[str, int]:
    return partition.topic, partition.partition
