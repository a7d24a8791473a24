"""The small parts: backoff, progress, the registry, timestamps of the ledger's kin."""

from __future__ import annotations

import random
from typing import Any

import pytest

from milkrun.model.errors import ConfigError
from milkrun.plugin import Sink, Source
from milkrun.runtime import registry
from milkrun.runtime.backoff import Backoff
from milkrun.runtime.progress import Progress, State
from milkrun.runtime.registry import sink_class, sink_names, source_class, source_names
from milkrun.testing.clock import ManualClock
from milkrun.testing.fakes import MemoryTarget, SourceScript

# -- backoff


class Always(random.Random):
    """Randomness that isn't."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def random(self) -> float:
        return self.value


@pytest.mark.parametrize(("chance", "first"), [(0.0, 0.5), (0.5, 0.75)])
def test_delays_double_up_to_the_longest(chance: float, first: float) -> None:
    backoff = Backoff(1.0, 8.0, rng=Always(chance))
    assert [backoff.next() for _ in range(6)] == [first * n for n in (1, 2, 4, 8, 8, 8)]


def test_success_begins_anew_and_the_other_sides_wish_counts() -> None:
    backoff = Backoff(1.0, 8.0, rng=Always(0.0))
    assert (backoff.next(), backoff.next(at_least=20.0), backoff.next(at_least=0.1)) == (0.5, 20.0, 2.0)
    backoff.reset()
    assert backoff.next() == 0.5


def test_very_many_failures_overflow_nothing() -> None:
    backoff = Backoff(1.0, 8.0, rng=Always(0.0))
    assert {backoff.next() for _ in range(2000)} == {0.5, 1.0, 2.0, 4.0}


# -- progress


def made(clock: ManualClock) -> Progress:
    return Progress(clock, "shop", "sink", "out")


def test_progress_is_what_happened_last() -> None:
    clock = ManualClock(1000)
    progress = made(clock)
    assert progress.snapshot() == {
        "pipeline": "shop",
        "kind": "sink",
        "name": "out",
        "state": "starting",
        "since": 1000,
        "error": None,
        "last_progress": None,
        "events": 0,
        "holds": (),
    }
    clock.advance(1)
    progress.moved(5)
    clock.advance(1)
    progress.moved(2)
    assert (progress.state, progress.state_seconds()) == (State.RUNNING, 1.0)
    found = progress.snapshot()
    assert (found["since"], found["last_progress"], found["events"]) == (2000, 3000, 7)


def test_an_error_stands_until_the_work_goes_on() -> None:
    progress = made(ManualClock())
    progress.at(State.RETRYING, "no broker")
    assert progress.snapshot()["error"] == "no broker"
    progress.at(State.IDLE)
    assert progress.snapshot()["error"] is None
    progress.at(State.FAILED, "why")
    progress.moved(1)
    assert (progress.snapshot()["error"], progress.state) == (None, State.RUNNING)


def test_a_turn_without_events_is_no_progress() -> None:
    progress = made(ManualClock())
    progress.moved(0)
    assert (progress.state, progress.snapshot()["last_progress"]) == (State.RUNNING, None)


# -- the registry


class Entry:
    """An entry point that gives, or raises, what it was made with."""

    def __init__(self, made: Any) -> None:
        self._made = made

    def load(self) -> Any:
        if isinstance(self._made, Exception):
            raise self._made
        return self._made


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, type[Any]]:
    classes: dict[str, type[Any]] = {
        "scripted": SourceScript().connector(),
        "memory": MemoryTarget().connector(),
    }
    source, sink = classes["scripted"], classes["memory"]
    groups: dict[str, dict[str, Entry]] = {
        registry.SOURCES: {
            "scripted": Entry(source),
            "broken": Entry(ImportError("No module named 'zmq'")),
            "a_sink": Entry(sink),
            "no_class": Entry(42),
        },
        registry.SINKS: {"memory": Entry(sink), "a_source": Entry(source)},
    }
    monkeypatch.setattr(registry, "_entries", groups.__getitem__)
    return classes


def test_connectors_by_name(installed: dict[str, type[Any]]) -> None:
    assert source_class("scripted") is installed["scripted"]
    assert sink_class("memory") is installed["memory"]
    assert source_names() == ["a_sink", "broken", "no_class", "scripted"]
    assert sink_names() == ["a_source", "memory"]


@pytest.mark.parametrize(
    ("find", "name", "message"),
    [
        (source_class, "memory", "no source 'memory'; installed are: a_sink, broken, no_class, scripted"),
        (sink_class, "x", "no sink 'x'; installed are: a_source, memory"),
        (source_class, "broken", "can't be loaded: No module named 'zmq'; install what it needs"),
        (source_class, "a_sink", "of source 'a_sink' is no Source"),
        (source_class, "no_class", "of source 'no_class' is no Source"),
        (sink_class, "a_source", "of sink 'a_source' is no Sink"),
    ],
)
@pytest.mark.usefixtures("installed")
def test_what_is_no_connector_is_refused(find: Any, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find(name)


def test_with_nothing_installed_it_says_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_entries", lambda _: {})
    with pytest.raises(ConfigError, match="installed are: none"):
        source_class("x")


def test_the_built_in_connectors_are_found_by_their_entry_points() -> None:
    assert {"files", "http", "rabbitmq"} <= set(source_names())
    assert {"duckdb", "parquet"} <= set(sink_names())
    assert all(issubclass(source_class(name), Source) for name in ("files", "http", "rabbitmq"))
    assert all(issubclass(sink_class(name), Sink) for name in ("duckdb", "parquet"))
