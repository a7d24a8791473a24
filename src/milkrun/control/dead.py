"""The dead letters of a project: counted by cause, listed, and shown whole.

Letters of one cause are those of one stage whose errors are alike but for their variables: numbers, quoted text, places. Payloads are
given only by `show`, to whoever asks for that one event.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from milkrun.log.protocol import Log
from milkrun.model.batch import TopicPartition
from milkrun.model.errors import NotFound, OffsetOutOfRange, Refused
from milkrun.model.spec import PipelineSpec, dead_letter_topic
from milkrun.runtime.dead_letters import DeadLetter, parse
from milkrun.runtime.holding import Offsets
from milkrun.runtime.letters import SETTLED, Letter, State, Step, read_letters
from milkrun.runtime.reading import EventReader
from milkrun.runtime.refused import dead_batches, refused_offsets

_ID = re.compile(r"(?:([A-Za-z0-9_-]+)/)?(\d+):(\d+)")
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`")
_PLACES = re.compile(
    r"(?<![\w/])/[^\s:;,]+|\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4,12}){1,4}\b|\b(?=\w*\d)[0-9a-f]{16,}\b"
)
_NUMBERS = re.compile(r"(?<![\w.])[-+]?\d[\d,_]*(?:\.\d+)?(?:[eE][-+]?\d+)?")


@dataclass(frozen=True)
class DeadFilter:
    """Which dead letters are meant: None takes all. `since` is Unix ms of the event's timestamp; `state` may also be `unsettled`: open,
    repaired or on their way."""

    pipeline: str | None = None
    stage: str | None = None
    code: str | None = None
    topic: str | None = None
    since: int | None = None
    state: str | None = None

    def takes(self, letter: DeadLetter, state: State) -> bool:
        """Whether the letter, in its state, is one of them."""
        return (
            (self.stage is None or letter.stage == self.stage)
            and (self.code is None or letter.code == self.code)
            and (self.topic is None or letter.topic == self.topic)
            and (self.since is None or letter.timestamp >= self.since)
            and (
                self.state is None
                or self.state == state
                or (self.state == "unsettled" and state not in SETTLED)
            )
        )


@dataclass(frozen=True)
class DeadGroup:
    """Dead letters of one cause, whose `id` is the same at any time. `cause` is their error without its variables, `message` that of the
    latest; `first` and `last` are Unix ms of events, `sample` is the id of the latest; `states` counts by state, `topics` has all there are.
    """

    id: str
    pipeline: str
    stage: str
    party: str
    code: str
    path: str
    cause: str
    count: int
    first: int
    last: int
    sample: str
    message: str
    topic: str
    topics: tuple[str, ...] = ()
    states: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """A dead letter, and what has become of it."""

    letter: DeadLetter
    group: str
    record: Letter

    @property
    def id(self) -> str:
        """Its id with the pipeline's name."""
        return f"{self.letter.pipeline}/{self.letter.id}"

    @property
    def state(self) -> State:
        return self.record.state

    @property
    def steps(self) -> Sequence[Step]:
        """How it came to its state."""
        return self.record.steps


class DeadLetters:
    """Reads the dead letters of pipelines."""

    def __init__(self, log: Log, pipelines: Sequence[PipelineSpec]) -> None:
        self._log = log
        self._names = [pipeline.name for pipeline in pipelines]

    def groups(self, wanted: DeadFilter) -> list[DeadGroup]:
        """How many there are of each cause, most first."""
        found: dict[str, DeadGroup] = {}
        states: dict[str, Counter[str]] = {}
        for each in self.found(wanted):
            known = found.get(each.group)
            found[each.group] = _group(each) if known is None else _joined(known, each)
            states.setdefault(each.group, Counter())[each.state] += 1
        made = [replace(group, states=dict(states[name])) for name, group in found.items()]
        return sorted(made, key=lambda group: (-group.count, group.pipeline, group.code, group.id))

    def found(self, wanted: DeadFilter) -> Iterator[Found]:
        """Single dead letters with what has become of them, oldest first."""
        if wanted.pipeline is not None and wanted.pipeline not in self._names:
            raise NotFound(f"there is no pipeline {wanted.pipeline!r}; there are: {', '.join(self._names)}")
        for name in self._names:
            if wanted.pipeline not in (None, name):
                continue
            records = read_letters(self._log, name)
            for batch in dead_batches(self._log, name):
                for letter in parse(name, batch):
                    record = records.get(letter.uid, Letter())
                    if wanted.takes(letter, record.state):
                        yield Found(letter, group_of(letter), record)

    def show(self, identity: str, pipeline: str | None = None) -> Found:
        """The dead letter of an id such as `shop/0:12`, or `0:12` where there is one pipeline. NotFound where there is none."""
        name, partition, offset = self.place(identity, pipeline)
        topic = dead_letter_topic(name)
        info = self._log.topic(topic)
        if info is None or partition >= info.spec.partitions:
            raise NotFound(f"there is no dead letter {name}/{partition}:{offset}")
        start, end = self._log.bounds(topic, partition)
        if start <= offset < end:
            letter = self._at(name, partition, offset)
            if letter is not None and letter.id == f"{partition}:{offset}":
                return Found(
                    letter, group_of(letter), read_letters(self._log, name).get(letter.uid, Letter())
                )
        raise NotFound(
            f"there is no dead letter {name}/{partition}:{offset}; kept are offsets {start} to {end - 1}, but for those erased"
        )

    def _at(self, pipeline: str, partition: int, offset: int) -> DeadLetter | None:
        try:
            batch = EventReader(self._log).read(dead_letter_topic(pipeline), partition, offset, max_rows=1)
        except OffsetOutOfRange:
            return None
        return next(parse(pipeline, batch), None)

    def place(self, identity: str, pipeline: str | None = None) -> tuple[str, int, int]:
        """Pipeline, partition and offset that an id says. Refused where it says none."""
        match = _ID.fullmatch(identity)
        if not match:
            raise Refused(
                f"{identity!r} is no id of a dead letter; `milkrun dead list` shows them: shop/0:12"
            )
        name = match[1] or pipeline or (self._names[0] if len(self._names) == 1 else None)
        if name is None:
            raise Refused(f"which pipeline? write <pipeline>/{identity}; there are: {', '.join(self._names)}")
        if name not in self._names:
            raise NotFound(f"there is no pipeline {name!r}; there are: {', '.join(self._names)}")
        return name, int(match[2]), int(match[3])

    def offsets(self, pipeline: str, sink: str, topic: str, partition: int) -> Offsets:
        """The offsets of one topic partition that a sink refused and hasn't delivered after all, ascending."""
        return refused_offsets(self._log, pipeline, sink, TopicPartition(topic, partition))


@lru_cache(10_000)
def cause_of(message: str) -> str:
    """An error without its variables: quoted text, numbers, files, ids."""
    text = _PLACES.sub("…", _QUOTED.sub("…", message))
    return _NUMBERS.sub("…", text)


def group_of(letter: DeadLetter) -> str:
    """The id of the letter's group."""
    return _group_id(
        letter.pipeline,
        letter.stage,
        letter.party,
        letter.code,
        _field(letter.path),
        cause_of(letter.message),
    )


@lru_cache(10_000)
def _group_id(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]


def _field(path: str) -> str:
    """The path without the numbers of list items."""
    return re.sub(r"\[\d+\]", "[]", path)


def _group(found: Found) -> DeadGroup:
    letter = found.letter
    return DeadGroup(
        found.group,
        letter.pipeline,
        letter.stage,
        letter.party,
        letter.code,
        _field(letter.path),
        cause_of(letter.message),
        1,
        letter.timestamp,
        letter.timestamp,
        found.id,
        letter.message,
        letter.topic,
        (letter.topic,) if letter.topic else (),
    )


def _joined(group: DeadGroup, found: Found) -> DeadGroup:
    """The group with one more letter, the latest so far."""
    letter = found.letter
    topics = (
        group.topics if letter.topic in group.topics or not letter.topic else (*group.topics, letter.topic)
    )
    return replace(
        group,
        count=group.count + 1,
        first=min(group.first, letter.timestamp),
        last=max(group.last, letter.timestamp),
        sample=found.id,
        message=letter.message,
        topic=letter.topic,
        topics=topics,
    )
