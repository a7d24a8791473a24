"""`milkrun test`: runs the examples of pipeline files offline, through the code that a preview and a worker run.

No log, no broker and no target is needed or touched. Topics have one partition, so that rows come in the order of the events.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyarrow as pa

from milkrun.control.example_section import Example, ExampleEvent, ExpectedLetter
from milkrun.control.values import MAPS, plain_value, without_nulls
from milkrun.model.batch import HEADERS, RECORD_SCHEMA, TopicPartition
from milkrun.model.clock import Clock
from milkrun.model.errors import MilkrunError
from milkrun.model.spec import PipelineSpec
from milkrun.plugin.source import Received
from milkrun.runtime.dead_letters import DeadLetter
from milkrun.runtime.drafting import DraftIntake, DraftLog
from milkrun.runtime.previewing import SinkDraft, SinkPreviewer
from milkrun.runtime.registry import source_class
from milkrun.runtime.sink_task import matches


@dataclass(frozen=True)
class ExampleResult:
    """How a test went; `failures` say what isn't as expected."""

    pipeline: str
    name: str
    failures: tuple[str, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether all was as expected."""
        return not self.failures


@dataclass(frozen=True)
class ExamplesReport:
    """How all tests went."""

    results: tuple[ExampleResult, ...]

    @property
    def ok(self) -> bool:
        """Whether every test passed."""
        return all(result.ok for result in self.results)


def run_examples(
    pipelines: Sequence[PipelineSpec],
    examples: Mapping[str, Sequence[Example]],
    *,
    folder: Path,
    clock: Clock,
) -> ExamplesReport:
    """Run the tests of these pipelines."""
    results = []
    for pipeline in pipelines:
        for example in examples.get(pipeline.name, ()):
            began = time.perf_counter()
            try:
                failures = tuple(_Run(pipeline, example, folder, clock).failures())
            except MilkrunError as error:
                failures = (str(error),)
            results.append(ExampleResult(pipeline.name, example.name, failures, time.perf_counter() - began))
    return ExamplesReport(tuple(results))


def junit(report: ExamplesReport) -> str:
    """The report as JUnit XML: a suite a pipeline, a case a test."""
    root = ElementTree.Element("testsuites", _sums(report.results))
    for pipeline in dict.fromkeys(result.pipeline for result in report.results):
        mine = [result for result in report.results if result.pipeline == pipeline]
        suite = ElementTree.SubElement(root, "testsuite", {"name": pipeline, **_sums(mine)})
        for result in mine:
            named = {"classname": pipeline, "name": result.name, "time": f"{result.seconds:.3f}"}
            case = ElementTree.SubElement(suite, "testcase", named)
            if result.failures:
                failure = ElementTree.SubElement(case, "failure", {"message": _xml(result.failures[0])})
                failure.text = _xml("\n".join(result.failures))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _sums(results: Sequence[ExampleResult]) -> dict[str, str]:
    failed = sum(not result.ok for result in results)
    seconds = sum(result.seconds for result in results)
    return {"tests": str(len(results)), "failures": str(failed), "errors": "0", "time": f"{seconds:.3f}"}


def _xml(text: str) -> str:
    """Text without the control characters that XML 1.0 can't have (section 2.2)."""
    return "".join(
        sign if sign in "\t\n\r" or (sign >= " " and sign not in "\ufffe\uffff") else "\ufffd"
        for sign in text
    )


class _Run:
    """One test."""

    def __init__(self, pipeline: PipelineSpec, example: Example, folder: Path, clock: Clock) -> None:
        self._pipeline = replace(
            pipeline,
            topic_defaults=replace(pipeline.topic_defaults, partitions=1),
            topics={name: replace(spec, partitions=1) for name, spec in pipeline.topics.items()},
        )
        self._example = example
        self._folder = folder
        self._clock = clock
        self._log = DraftLog(None)
        self._intakes: dict[str, DraftIntake] = {}
        self._numbers: dict[tuple[TopicPartition, int], int] = {}
        self._letters: list[tuple[int | None, DeadLetter]] = []

    def failures(self) -> Iterator[str]:
        """What isn't as expected."""
        for number, event in enumerate(self._example.events, start=1):
            self._take(number, event)
        drafts = [self._draft(index) for index in range(len(self._pipeline.sinks))]
        for draft in drafts:
            if draft.problem:
                yield f"{draft.spec.name}: would stop: {draft.problem}"
            yield from self._rows(draft)
        yield from self._dead(drafts)

    def _take(self, number: int, event: ExampleEvent) -> None:
        """Take one event in, and note where it has gone."""
        before = {stretch.partition: stretch.end for stretch in self._log.stretches()}
        if event.source is None:
            assert event.topic is not None
            self._append(event.topic, event)
        else:
            intake = self._intake(event.source)
            known = len(intake.letters)
            intake.take(_received(event), self._example.at)
            self._letters += [(number, letter) for letter in intake.letters[known:]]
        for stretch in self._log.stretches():
            if stretch.end > before.get(stretch.partition, 0):
                self._numbers[stretch.partition, stretch.end - 1] = number

    def _append(self, topic: str, event: ExampleEvent) -> None:
        self._log.topic(self._pipeline.topic(topic))
        received = _received(event)
        stamps = pa.array([self._example.at], pa.int64()).cast(RECORD_SCHEMA.field("timestamp").type)
        columns = [stamps, received.keys, received.values, received.headers]
        self._log.append(TopicPartition(topic, 0), pa.RecordBatch.from_arrays(columns, schema=RECORD_SCHEMA))

    def _intake(self, name: str) -> DraftIntake:
        if name not in self._intakes:
            spec = next(source for source in self._pipeline.sources if source.name == name)
            kind = source_class(spec.connector)
            self._intakes[name] = DraftIntake(self._pipeline, spec, kind.capabilities, self._log)
        return self._intakes[name]

    def _draft(self, index: int) -> SinkDraft:
        spec = self._pipeline.sinks[index]
        previewer = SinkPreviewer(self._pipeline, spec, folder=self._folder, log=None, clock=self._clock)
        stretches = [each for each in self._log.stretches() if matches(each.partition.topic, spec.topics)]
        return previewer.plan(stretches, self._log)

    # -- rows

    def _rows(self, draft: SinkDraft) -> Iterator[str]:
        name = draft.spec.name
        if name not in self._example.expect:
            return
        held = _tables(draft)
        wanted = self._example.expect[name]
        for table, expected in wanted.items():
            found = _named(held, table)
            for failure in _row_failures(expected, found or []):
                yield f"{name}: {table}: {failure}"
        for table, rows in held.items():
            if rows and not any(_is_called(table, each) for each in wanted):
                yield f"{name}: {len(rows)} rows for {table}, of which the test says nothing"

    # -- dead letters

    def _dead(self, drafts: Sequence[SinkDraft]) -> Iterator[str]:
        letters = list(self._letters)
        for draft in drafts:
            for cut in draft.cuts:
                letters += [
                    (self._numbers.get((cut.stretch.partition, letter.offset or 0)), letter)
                    for letter in cut.letters
                ]
        expected = self._example.dead
        for number, letter in letters:
            if not any(_is_meant(each, number, letter) for each in expected):
                place = f"{letter.path}: " if letter.path else ""
                yield (
                    f"event {number} is a dead letter: {letter.code}, refused by {letter.stage} {letter.party}: "
                    f"{place}{letter.message}"
                )
        for each in expected:
            if not any(_is_meant(each, number, letter) for number, letter in letters):
                what = f" of event {each.event}" if each.event is not None else ""
                yield f"there is no dead letter {each.code}{what}, which the test expects"


def _received(event: ExampleEvent) -> Received:
    headers = [{"key": name, "value": value} for name, value in event.headers.items()]
    return Received(
        values=pa.array([event.value], pa.binary()),
        headers=pa.array([headers], HEADERS),
        attributes={name: pa.array([text], pa.string()) for name, text in event.attributes.items()},
        keys=pa.array([event.key], pa.binary()),
    )


def _is_meant(expected: ExpectedLetter, number: int | None, letter: DeadLetter) -> bool:
    return (
        expected.code == letter.code
        and expected.party in (None, letter.party)
        and expected.path in (None, letter.path)
        and expected.event in (None, number)
    )


def _tables(draft: SinkDraft) -> dict[str, list[dict[str, Any]]]:
    """The rows by table; those of files by topic."""
    found: dict[str, list[dict[str, Any]]] = {
        table.name: table.rows.to_pylist(maps_as_pydicts=MAPS) for table in draft.tables()
    }
    for file in draft.files():
        for row in file.rows.to_pylist(maps_as_pydicts=MAPS) if file.rows is not None else ():
            found.setdefault(row["_topic"], []).append(row)
    return {
        name: sorted(rows, key=lambda row: (row.get("_partition", 0), row.get("_offset", 0)))
        for name, rows in found.items()
    }


def _named(tables: Mapping[str, list[dict[str, Any]]], name: str) -> list[dict[str, Any]] | None:
    return next((rows for table, rows in tables.items() if _is_called(table, name)), None)


def _is_called(table: str, name: str) -> bool:
    """Whether the table is meant: by its whole name, or by the part after its schema."""
    return table == name or table.endswith(f".{name}")


def _row_failures(expected: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if len(expected) != len(rows):
        yield f"{len(rows)} rows, not {len(expected)}: {_shown(rows)}"
        return
    columns = list(dict.fromkeys(name for row in rows for name in row))
    for number, (wanted, row) in enumerate(zip(expected, rows, strict=True), start=1):
        for name, value in wanted.items():
            if name not in columns and value is not None:
                yield f"row {number}: there is no column {name!r}; there are: {', '.join(columns)}"
            elif not agrees(value, row.get(name)):
                yield f"row {number}: {name} is {_shown(row.get(name))}, not {_shown(value)}"


def _shown(value: Any) -> str:
    text = json.dumps(
        plain_value(list(value) if isinstance(value, tuple) else value), ensure_ascii=False, default=str
    )
    return text if len(text) <= 500 else text[:500] + "…"


def agrees(expected: Any, actual: Any) -> bool:
    """Whether a column's value (as `to_pylist` gives it with `MAPS`) is what a test says in YAML: times and dates are text there, decimals text or
    numbers, and a column of JSON may be written out. Absent and null members of objects are the same."""
    if expected is None or actual is None:
        return expected is None and actual is None
    if isinstance(actual, str) and isinstance(expected, Mapping | list):
        try:
            actual = json.loads(actual)
        except ValueError:
            return False
    if isinstance(expected, Mapping):
        wanted = without_nulls(expected)
        found = without_nulls(actual) if isinstance(actual, Mapping) else None
        return (
            found is not None
            and wanted.keys() == found.keys()
            and all(agrees(value, found[name]) for name, value in wanted.items())
        )
    if isinstance(expected, list):
        return (
            isinstance(actual, list) and len(expected) == len(actual) and all(map(agrees, expected, actual))
        )
    return _scalars_agree(expected, actual)


def _scalars_agree(expected: Any, actual: Any) -> bool:
    if isinstance(expected, bool) or isinstance(actual, bool):
        return expected is actual
    if isinstance(actual, Decimal):
        try:
            return Decimal(str(expected)) == actual
        except InvalidOperation:
            return False
    if isinstance(actual, datetime) and isinstance(expected, str):
        return _same_time(expected, actual)
    if isinstance(actual, bytes) and isinstance(expected, str):
        return expected.encode() == actual
    if isinstance(actual, int | float):
        return isinstance(expected, int | float) and expected == actual
    return isinstance(expected, str) and expected == plain_value(actual)


def _same_time(text: str, moment: datetime) -> bool:
    try:
        wanted = datetime.fromisoformat(text)
    except ValueError:
        return False
    if moment.tzinfo is not None and wanted.tzinfo is None:
        wanted = wanted.replace(tzinfo=UTC)
    return (wanted.tzinfo is None) == (moment.tzinfo is None) and wanted == moment
