"""The tests of pipeline files: how they are read, what passes, what fails and how that is told."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from milkrun.control.coordinator import Project
from milkrun.control.examples import ExampleResult, ExamplesReport, agrees, junit
from milkrun.control.loading import load
from milkrun.model.errors import ConfigErrors, Refused
from tests.control.conftest import Write

HEAD = """\
sources:
  in:
    queue: {url: "amqp://u:geheim@h"}
    topic: "shop.{body.type}"
    key: body.who
    id: body.id
  other: {queue: {url: "amqp://h"}, topic: "{routing_key}", id: body.id}
topics: {"*": {partitions: 4}}
schema: {type: body.type}
sinks:
  out: {table: {}, topics: ["shop.*"]}
  orders: {table: {}, topics: ["shop.*"], only: {body.type: [order]}}
"""


def results(write: Write, tests: str, head: str = HEAD) -> list[ExampleResult]:
    folder = write({"pipelines/shop.yaml": head + "tests:\n" + tests})
    with Project(folder) as project:
        report = project.test()
    assert not (folder / ".milkrun").exists()
    return list(report.results)


def failures(write: Write, tests: str) -> list[str]:
    (result,) = results(write, tests)
    return list(result.failures)


def mistakes(write: Write, tests: str) -> list[tuple[int, str]]:
    with pytest.raises(ConfigErrors) as caught:
        load(write({"pipelines/shop.yaml": HEAD + "tests:\n" + tests}), {})
    return [(error.location.line if error.location else 0, error.what) for error in caught.value.errors]


LINES = HEAD.count("\n") + 1
"""The line of `tests:`."""


def test_what_is_as_expected_passes(write: Write) -> None:
    (result,) = results(
        write,
        """\
  - name: an order and its repetition
    at: 2026-11-24T10:00:00+01:00
    events:
      - {source: in, value: {id: 1, type: order, who: anna, lines: [{sku: a, n: 2}]}}
      - {source: in, value: {id: 1, type: order, who: anna}}
      - {source: other, value: {id: 2, type: click}, attributes: {routing_key: shop.click}}
      - {topic: shop.order, key: bert, value: null}
      - {topic: else.where, value: {n: 1}}
    expect:
      out:
        shop.order:
          - {_key: anna, _id: "1", lines: [{sku: a, n: 2}], _timestamp: "2026-11-24T09:00:00Z", missing: null}
          - {_key: bert, _offset: 1, type: null}
        shop.click: [{_partition: 0}]
      orders:
        shop.order: [{who: anna}]
        shop.click: []
""",
    )
    assert result.failures == ()
    assert (result.pipeline, result.name, result.ok) == ("shop", "an order and its repetition", True)


LABELS = """\
{"type": "object", "properties": {"labels": {"type": "object", "additionalProperties": {"type": ["integer", "null"]}}}}
"""


def test_maps_are_written_like_objects(write: Write) -> None:
    tests = """\
tests:
  - name: labels
    events:
      - {source: in, value: {id: 1, type: order, who: anna, labels: {a.b: 1, C: null}}}
      - {source: in, value: {id: 2, type: order, who: anna, labels: {a.b: x}}}
    expect:
      orders: {shop.order: [{labels: {a.b: 2}}]}
"""
    folder = write({"pipelines/shop.yaml": HEAD + tests, "schemas/order.json": LABELS})
    with Project(folder) as project:
        (result,) = project.test().results
    assert list(result.failures) == [
        'orders: shop.order: row 1: labels is {"a.b": 1, "C": null}, not {"a.b": 2}',
        "event 2 is a dead letter: type, refused by source in: labels.a.b: expected an integer, found a string",
    ]


def test_what_is_not_as_expected_is_told_by_table_row_and_column(write: Write) -> None:
    found = failures(
        write,
        """\
  - name: wrong
    events:
      - {source: in, value: {id: 1, type: order, who: anna, amount: 12.5}}
      - {source: in, value: {id: 2, type: click, who: anna}}
    expect:
      out:
        shop.order: [{amount: 13, whom: anna}]
        shop.nix: [{a: 1}]
""",
    )
    assert found == [
        "out: shop.order: row 1: amount is 12.5, not 13",
        "out: shop.order: row 1: there is no column 'whom'; there are: "
        "_topic, _partition, _offset, _key, _timestamp, _id, _received_at, id, type, who, amount",
        "out: shop.nix: 0 rows, not 1: []",
        "out: 1 rows for shop.click, of which the test says nothing",
    ]


def test_dead_letters_are_expected_or_fail_the_test(write: Write) -> None:
    events = """\
    events:
      - {source: in, value: "{broken"}
      - {source: in, value: {id: 1, type: order}}
      - {topic: shop.order, value: "[1]"}
"""
    found = failures(write, "  - name: unexpected\n" + events)
    assert [text.partition(": ")[0] for text in found] == [
        "event 1 is a dead letter",
        "event 3 is a dead letter",
    ]
    assert found[1].startswith("event 3 is a dead letter: not_object, refused by sink out: ")
    passing = """\
    dead:
      - {code: syntax, party: in, event: 1}
      - {code: not_object, event: 3}
"""
    assert failures(write, "  - name: expected\n" + events + passing) == []
    wrong = passing.replace("event: 3", "event: 2") + "      - {code: nix, party: out}\n"
    assert failures(write, "  - name: wrong\n" + events + wrong) == [
        found[1],
        "there is no dead letter not_object of event 2, which the test expects",
        "there is no dead letter nix, which the test expects",
    ]


def test_mistakes_are_told_with_their_lines(write: Write) -> None:
    found = mistakes(
        write,
        """\
  - name: one
    events: [{value: {a: 1}}]
  - name: one
    at: yesterday
    events:
      - {source: nix, value: 1}
      - {source: in, topic: shop.a, value: 1}
    expect:
      nix: {}
      out: {shop.a: {id: 1}}
    dead: [{code: syntax, event: 3}]
""",
    )
    assert sorted(found) == [
        (LINES + 2, "nothing says which source brings the event"),
        (LINES + 3, "a second test called 'one'"),
        (LINES + 4, "'yesterday' is no time"),
        (LINES + 6, "there is no source 'nix'"),
        (LINES + 7, "an event with both a source and a topic"),
        (LINES + 9, "there is no sink 'nix'"),
        (LINES + 10, "no list of rows"),
        (LINES + 11, "there is no event 3"),
    ]


def test_an_unknown_key_of_a_test_is_a_mistake(write: Write) -> None:
    ((line, what),) = mistakes(write, "  - name: one\n    events: [{source: in, valeu: 1}]\n")
    assert (line, what) == (LINES + 2, "unknown option 'valeu'")


def test_tests_are_no_part_of_the_version(write: Write) -> None:
    without = load(write({"pipelines/shop.yaml": HEAD}), {})
    with_one = load(write({"pipelines/shop.yaml": HEAD + "tests: [{name: a, events: [{source: in}]}]\n"}), {})
    assert with_one.examples["shop"][0].events[0].value is None
    assert [each.spec.pipelines[0].version for each in (without, with_one)] == [
        without.spec.pipelines[0].version
    ] * 2
    assert without.definitions == with_one.definitions


def test_no_tests_at_all_are_refused(write: Write) -> None:
    with Project(write({"pipelines/shop.yaml": HEAD})) as project:
        with pytest.raises(Refused, match="there are no tests in shop"):
            project.test()
        with pytest.raises(Exception, match="there is no pipeline 'nix'"):
            project.test(["nix"])


@pytest.mark.parametrize(
    ("expected", "actual", "same"),
    [
        (None, None, True),
        (None, 0, False),
        (0, None, False),
        (1, 1, True),
        (1, 1.0, True),
        (1, True, False),
        (True, True, True),
        (True, 1, False),
        ("1", 1, False),
        (1, "1", False),
        ("a", "a", True),
        (12.5, Decimal("12.500"), True),
        ("12.50", Decimal("12.5"), True),
        ("x", Decimal(1), False),
        ("2026-11-24T10:00:00Z", datetime(2026, 11, 24, 10, tzinfo=UTC), True),
        ("2026-11-24T11:00:00+01:00", datetime(2026, 11, 24, 10, tzinfo=UTC), True),
        ("2026-11-24 10:00", datetime(2026, 11, 24, 10, tzinfo=UTC), True),
        ("2026-11-24T10:00:01Z", datetime(2026, 11, 24, 10, tzinfo=UTC), False),
        ("2026-11-24T10:00:00Z", datetime(2026, 11, 24, 10), False),
        ("soon", datetime(2026, 11, 24, 10), False),
        ("2026-11-24", date(2026, 11, 24), True),
        ("10:00:00", time(10), True),
        ("a", b"a", True),
        ({"a": 1, "b": None}, {"a": 1}, True),
        ({"a": 1}, {"a": 1, "b": None}, True),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ({"a": 1}, '{"a": 1}', True),
        ([1, {"a": None}], "[1, {}]", True),
        ({"a": 1}, "no json", False),
        ([1, 2], [1, 2], True),
        ([1, 2], [1], False),
        ([1], 1, False),
        ({"a": 1}, 1, False),
        ({}, {"a": None}, True),
    ],
)
def test_agrees(expected: Any, actual: Any, same: bool) -> None:
    assert agrees(expected, actual) is same


def test_junit_tells_suites_cases_and_failures(tmp_path: Path) -> None:
    report = ExamplesReport(
        (
            ExampleResult("shop", "good", (), 0.25),
            ExampleResult("shop", 'bad "one" <&>', ("first\x00", "second"), 0.5),
            ExampleResult("till", "other", (), 0.0),
        )
    )
    root = ElementTree.fromstring(junit(report))
    assert root.attrib == {"tests": "3", "failures": "1", "errors": "0", "time": "0.750"}
    assert [(suite.attrib["name"], suite.attrib["tests"]) for suite in root] == [("shop", "2"), ("till", "1")]
    bad = root[0][1]
    assert (bad.attrib["name"], bad.attrib["classname"]) == ('bad "one" <&>', "shop")
    assert (bad[0].attrib["message"], bad[0].text) == ("first\ufffd", "first\ufffd\nsecond")
    assert len(root[0][0]) == 0
