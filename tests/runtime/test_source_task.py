"""A source task: commits before it settles, starts anew as errors say, pushes back while the log can't, and drains at the end."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from milkrun.model.errors import ConfigError, Fatal, Fenced, Refused, Reopen, Transient, Unreachable
from milkrun.model.spec import RouteSpec, SourceSpec
from milkrun.runtime.ingest import Ingest
from milkrun.runtime.progress import State
from milkrun.runtime.source_task import LEASE_SECONDS
from milkrun.runtime.stores import POSITIONS
from milkrun.testing.fakes import ACK_SOURCE, MemoryTarget, ScriptedSource, SourceScript, received
from tests.runtime.flows import body, pipeline_spec
from tests.runtime.stepping import Hooks, Stage, hooked, install, run

GROUP = "source:shop/in"


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    made = Stage(tmp_path, SourceScript(), MemoryTarget(), pipeline_spec())
    install(monkeypatch, made.script, made.target)
    yield made
    made.log.close()


@pytest.fixture
def calls(stage: Stage) -> Hooks:
    return hooked(stage.script)


def give(stage: Stage, count: int) -> None:
    """Batches of one event each."""
    stage.script.batches = [received([body(n=n)]) for n in range(count)]


def stored(stage: Stage) -> list[bytes | None]:
    """The values in the log."""
    values: list[bytes | None] = stage.log.read("orders", 0, 0).events.column("value").to_pylist()
    return values


def test_events_are_committed_then_settled_and_it_stops_when_told(stage: Stage, calls: Hooks) -> None:
    give(stage, 3)
    in_log: list[int] = []
    calls.every["settle"] = lambda number: in_log.append(len(stored(stage)))
    task = stage.source_task()
    calls.at("poll", 4, task.close)
    run(task)
    assert stored(stage) == [body(n=n) for n in range(3)]
    assert in_log == [1, 2, 3]
    assert stage.log.get(POSITIONS, "shop/in") == b"3"
    assert (task.progress.state, stage.script.closed, stage.script.drained) == (State.STOPPED, 1, 1)
    assert task.progress.snapshot()["events"] == 3


def test_the_next_start_goes_on_at_the_stored_position(stage: Stage, calls: Hooks) -> None:
    give(stage, 3)
    task = stage.source_task()
    calls.at("poll", 2, task.close)
    run(task)
    before = len(stored(stage))
    again = stage.source_task("w2")
    calls.at("poll", 8, again.close)
    run(again)
    assert stage.script.opened == [None, before]
    assert stored(stage) == [body(n=n) for n in range(3)]


@pytest.mark.parametrize("place", [("open", 1), ("poll", 2), ("settle", 1)])
@pytest.mark.parametrize(
    "error", [Transient("t"), Unreachable("u"), Reopen("r"), Fenced("f"), KeyError("bug")]
)
def test_it_starts_anew_after_an_error_that_may_heal(
    stage: Stage, calls: Hooks, place: tuple[str, int], error: BaseException
) -> None:
    give(stage, 3)
    calls.failures[place] = error
    task = stage.source_task()
    seen: list[tuple[str, str | None]] = []

    def look() -> None:
        found = task.progress.snapshot()
        seen.append((found["state"], found["error"]))

    calls.at("open", 2, look)
    calls.at("poll", 8, task.close)
    logged = run(task)
    described = str(error) if not isinstance(error, KeyError) else "KeyError: 'bug'"
    assert seen == [("retrying", described)]
    assert stored(stage) == [body(n=n) for n in range(3)]
    assert (stage.script.closed, task.progress.state) == (2, State.STOPPED)
    (entry,) = logged
    assert (entry["error"], entry["pipeline"], entry["task"]) == (described, "shop", "in")
    assert entry["log_level"] == ("error" if isinstance(error, KeyError) else "warning")


def test_waits_double_while_it_fails_and_begin_anew_once_it_works(stage: Stage, calls: Hooks) -> None:
    give(stage, 1)
    times: list[float] = []
    calls.every["open"] = lambda _: times.append(stage.clock.monotonic())
    calls.failures.update({("open", n): Unreachable("no broker") for n in range(1, 6)})
    calls.failures["poll", 2] = Transient("gone again")
    task = stage.source_task()
    calls.at("poll", 4, task.close)
    run(task)
    waits = [after - before for before, after in itertools.pairwise(times)]
    assert len(waits) == 6
    for wait, most in zip(waits, [0.2, 0.4, 0.8, 1.6, 3.2, 0.2], strict=True):
        assert most / 2 <= wait <= most + 1e-9


def test_a_commit_that_always_fails_unexpectedly_is_tried_ever_more_seldom(
    stage: Stage, calls: Hooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A poll that goes well is not yet work done."""

    def fail(*_: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(Ingest, "commit", fail)
    give(stage, 1)
    times: list[float] = []
    calls.every["open"] = lambda _: times.append(stage.clock.monotonic())
    task = stage.source_task()
    calls.at("poll", 7, task.close)
    run(task)
    assert times[6] - times[5] >= 0.2 * 2**5 / 2
    assert (stage.script.settled, stored_or_none(stage)) == ([], None)


def stored_or_none(stage: Stage) -> list[bytes | None] | None:
    """The values in the log, None where the topic was never made."""
    return stored(stage) if stage.log.topic("orders") else None


def test_the_other_sides_wish_is_kept_to(stage: Stage, calls: Hooks) -> None:
    calls.failures["open", 1] = Transient("slow down", retry_after=77.0)
    task = stage.source_task()
    calls.at("poll", 1, task.close)
    before = stage.clock.monotonic()
    run(task)
    assert stage.clock.monotonic() - before >= 77.0


@pytest.mark.parametrize("error", [Refused("no"), ConfigError("wrong", "right")])
def test_a_refusal_stops_it_until_a_person_has_acted(stage: Stage, calls: Hooks, error: Refused) -> None:
    calls.failures["open", 1] = error
    task = stage.source_task()
    run(task)
    found = task.progress.snapshot()
    assert (found["state"], found["error"], stage.script.closed) == ("failed", str(error), 1)
    assert (stage.fatal, task.quiet) == ([], True)


def test_a_fatal_error_ends_the_worker(stage: Stage, calls: Hooks) -> None:
    give(stage, 1)
    error = Fatal("fsync failed")
    stage.log.fail_begin = [error]
    task = stage.source_task()
    logged = run(task)
    assert (stage.fatal, stage.script.settled) == ([error], [])
    assert (task.progress.state, logged[0]["log_level"]) == (State.FAILED, "error")


def test_an_unknown_connector_and_a_wrong_option_need_a_person(stage: Stage) -> None:
    stage.spec = pipeline_spec(SourceSpec("in", "kinesis", {}, RouteSpec("orders")))
    task = stage.source_task()
    run(task)
    assert task.progress.snapshot()["error"] == "there is no source 'kinesis'; installed are: scripted"
    stage.spec = pipeline_spec(SourceSpec("in", "scripted", {"colour": "red"}, RouteSpec("orders")))
    task = stage.source_task()
    run(task)
    assert task.progress.state is State.FAILED
    assert "colour" in str(task.progress.snapshot()["error"])


def test_unexpected_errors_are_logged_without_payloads(stage: Stage, calls: Hooks) -> None:
    stage.script.batches = [received([body(secret="geheim")])]
    calls.failures["settle", 1] = RuntimeError("a bug")
    task = stage.source_task()
    calls.at("poll", 3, task.close)
    (entry,) = run(task)
    assert "RuntimeError: a bug" in entry["traceback"]
    assert "geheim" not in repr(entry)


# -- a log that can't commit for a while


def test_it_pushes_back_and_commits_what_it_took_in_once_it_can(stage: Stage, calls: Hooks) -> None:
    give(stage, 2)
    stage.log.fail_begin = [Transient("disk full"), Transient("disk full"), None]
    task = stage.source_task()
    seen: list[tuple[str, str | None, int]] = []

    def note(_: int) -> None:
        found = task.progress.snapshot()
        seen.append((found["state"], found["error"], len(stage.script.settled)))

    calls.every["settle"] = note
    calls.at("poll", 3, task.close)
    run(task)
    assert stage.script.throttled == [True, True, False]
    assert seen[0] == ("retrying", "disk full", 0)
    assert (calls.counts["open"], calls.counts["poll"] >= 3) == (1, True)
    assert stored(stage) == [body(n=0), body(n=1)]


def test_a_stop_ends_the_wait_for_a_log_that_cannot_commit(stage: Stage, calls: Hooks) -> None:
    give(stage, 1)
    task = stage.source_task()
    stage.log.fail_begin = [Transient("disk full")] * 100
    calls.at("poll", 1, task.close)
    run(task)
    assert (stage.script.settled, task.progress.state) == ([], State.STOPPED)
    assert len(stage.log.fail_begin) == 99


# -- draining


def test_what_was_taken_in_before_the_stop_is_made_durable(stage: Stage, calls: Hooks) -> None:
    """The second poll comes after `drain`; a source that still has something gives it then."""
    give(stage, 2)
    task = stage.source_task()
    stage.script.capabilities = ACK_SOURCE
    calls.at("settle", 1, task.close)
    run(task)
    assert (stage.script.drained, len(stage.script.settled), stored(stage)) == (1, 1, [body(n=0)])


def test_a_source_that_never_ends_draining_is_closed_in_time(
    stage: Stage, calls: Hooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ScriptedSource, "drain", lambda self: None)
    give(stage, 1000)
    task = stage.source_task()
    calls.at("poll", 1, task.close)
    calls.every["poll"] = lambda _: stage.clock.advance(1.0)
    run(task)
    assert 8 <= len(stage.script.settled) <= 12
    assert task.progress.state is State.STOPPED


# -- the lease


def test_another_worker_has_the_source(stage: Stage, calls: Hooks) -> None:
    """While the other renews it stands by; once that stops, it takes over, and the other can write nothing more."""
    give(stage, 1)
    (lease,) = stage.log.join(GROUP, "other", ["in"], LEASE_SECONDS)
    task = stage.source_task()
    began = stage.clock.monotonic()
    states: list[State] = []
    calls.at("open", 1, lambda: states.append(task.progress.state))
    calls.at("poll", 3, task.close)
    run(task)
    assert states == [State.STANDBY]
    assert LEASE_SECONDS <= stage.clock.monotonic() - began <= 2 * LEASE_SECONDS
    assert stored(stage) == [body(n=0)]
    with pytest.raises(Fenced), stage.log.transaction(lease) as transaction:
        transaction.put(POSITIONS, "shop/in", b"0")


def test_a_stop_gives_the_lease_back_at_once(stage: Stage, calls: Hooks) -> None:
    task = stage.source_task()
    calls.at("poll", 1, task.close)
    run(task)
    assert len(stage.log.join(GROUP, "other", ["in"], LEASE_SECONDS)) == 1


def test_a_lease_lost_between_polls_ends_the_session_before_the_commit(stage: Stage, calls: Hooks) -> None:
    give(stage, 1)

    def take_over() -> None:
        stage.clock.advance(LEASE_SECONDS + 1)
        assert stage.log.join(GROUP, "other", ["in"], LEASE_SECONDS)

    task = stage.source_task()
    calls.at("poll", 1, take_over)
    calls.at("open", 2, task.close)
    logged = run(task)
    assert "another owner" in logged[0]["error"]
    assert len(stage.script.opened) == 2
    assert stage.script.opened == [None, None]


def test_a_lease_lost_and_got_back_begins_anew_at_the_stored_position(stage: Stage, calls: Hooks) -> None:
    """Meanwhile the other may have brought in what this one would bring in again."""

    def interlude() -> None:
        stage.clock.advance(LEASE_SECONDS + 1)
        (lease,) = stage.log.join(GROUP, "other", ["in"], LEASE_SECONDS)
        with stage.log.transaction(lease) as transaction:
            transaction.put(POSITIONS, "shop/in", b"7")
        stage.log.leave(GROUP, "other")

    task = stage.source_task()
    calls.at("poll", 1, interlude)
    calls.at("open", 2, task.close)
    run(task)
    assert stage.script.opened == [None, 7]


def test_it_renews_its_lease_while_it_works(stage: Stage, calls: Hooks) -> None:
    give(stage, 1)
    task = stage.source_task()
    rivals: list[int] = []

    def rival(number: int) -> None:
        if number > 1:
            rivals.append(len(stage.log.join(GROUP, "other", ["in"], 0.1)))
            stage.log.leave(GROUP, "other")
        stage.clock.advance(4.0)

    calls.every["poll"] = rival
    calls.at("poll", 12, task.close)
    run(task)
    assert set(rivals) == {0}


def test_upkeep_keeps_the_lease_through_a_long_turn(stage: Stage, calls: Hooks) -> None:
    """A worker in a long turn is alive: nobody takes its source from it."""
    give(stage, 1)
    task = stage.source_task()
    rivals: list[int] = []

    def wait_long(_: int) -> None:
        for _ in range(15):
            stage.clock.advance(2.0)
            task.renew()
        rivals.append(len(stage.log.join(GROUP, "other", ["in"], LEASE_SECONDS)))
        stage.log.leave(GROUP, "other")

    calls.every["poll"] = wait_long
    calls.at("poll", 2, task.close)
    assert run(task) == []
    assert (set(rivals), stored(stage)) == ({0}, [body(n=0)])


def test_upkeep_does_not_take_a_lease_that_was_never_held(stage: Stage) -> None:
    task = stage.source_task()
    task.renew()
    assert len(stage.log.join(GROUP, "other", ["in"], LEASE_SECONDS)) == 1


def test_a_source_for_every_worker_needs_no_lease(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    script = SourceScript([received([body(n=0)])], ACK_SOURCE)
    install(monkeypatch, script, stage.target)
    stage.log.join(GROUP, "other", ["in"], LEASE_SECONDS)
    calls = hooked(script)
    task = stage.source_task()
    calls.at("poll", 2, task.close)
    run(task)
    assert stored(stage) == [body(n=0)]
    assert stage.log.get(POSITIONS, "shop/in") is None


# -- quiet


def test_it_is_quiet_once_a_poll_brought_nothing(stage: Stage, calls: Hooks) -> None:
    give(stage, 1)
    task = stage.source_task()
    seen: list[bool] = []
    calls.every["poll"] = lambda _: seen.append(task.quiet)
    calls.at("poll", 3, task.close)
    run(task)
    assert seen[:3] == [False, False, True]


def test_standing_by_is_quiet_only_once_the_holder_must_have_renewed(stage: Stage) -> None:
    task = stage.source_task()
    task.progress.at(State.STANDBY)
    assert not task.quiet
    stage.clock.advance(LEASE_SECONDS + 0.1)
    assert task.quiet


def test_a_topic_deleted_meanwhile_is_made_anew(stage: Stage, calls: Hooks) -> None:
    give(stage, 2)
    task = stage.source_task()
    calls.at("poll", 2, lambda: stage.log.delete_topic("orders"))
    calls.at("poll", 3, task.close)
    assert run(task) == []
    assert stored(stage) == [body(n=1)]
    assert len(stage.script.settled) == 2
