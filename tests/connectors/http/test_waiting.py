"""The line of waiting requests: order, room, deadlines, and exactly one answer each."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pyarrow as pa
import pytest

from milkrun.connectors.http.refusals import Refusal
from milkrun.connectors.http.rows import Rows
from milkrun.connectors.http.waiting import Answer, Hold, Line, Request, Settled
from milkrun.testing.clock import ManualClock


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def line(clock: ManualClock) -> Line:
    return Line(clock, 100, 30.0)


def join(line: Line, loop: asyncio.AbstractEventLoop, events: int = 1, nbytes: int = 1) -> Request:
    hold = Hold(line.room)
    hold.reserve(nbytes)
    request = Request(Rows(pa.array([b"{}"] * events, pa.binary())), nbytes, loop.create_future())
    line.join(request)
    hold.pass_on()
    return request


def answer(loop: asyncio.AbstractEventLoop, request: Request) -> Answer | None:
    """The answer so far, after everything the loop has to do."""
    loop.run_until_complete(asyncio.sleep(0))
    return request.future.result() if request.future.done() else None


def refused(answer: Answer | None) -> tuple[int, str]:
    assert isinstance(answer, Refusal)
    return answer.status, answer.code


def free(line: Line) -> int:
    """The bytes that are free, found by taking them."""
    size = next(size for size in range(200, -1, -1) if line.room.take(size))
    line.room.give(size)
    return size


def test_requests_come_whole_in_order_and_about_as_many_as_asked(
    line: Line, loop: asyncio.AbstractEventLoop
) -> None:
    requests = [join(line, loop, events) for events in (3, 4, 5, 20, 1)]
    polls = [line.take(10, 0.1) for _ in range(4)]
    assert polls == [requests[:2], requests[2:3], requests[3:4], requests[4:]]
    assert line.take(10, 0.1) == []


def test_an_empty_poll_waits_for_its_timeout(line: Line, clock: ManualClock) -> None:
    before = clock.monotonic()
    assert line.take(10, 2.5) == []
    assert clock.monotonic() - before == 2.5


def test_settling_answers_and_gives_the_room_back(line: Line, loop: asyncio.AbstractEventLoop) -> None:
    one, two = join(line, loop, nbytes=60), join(line, loop, nbytes=40)
    assert free(line) == 0
    taken = line.take(1, 0.1)
    assert (answer(loop, one), taken) == (None, [one])
    line.settle(taken, [Settled(1)])
    assert (answer(loop, one), answer(loop, two)) == (Settled(1), None)
    assert free(line) == 60


def test_settling_out_of_order_or_twice_is_a_bug(line: Line, loop: asyncio.AbstractEventLoop) -> None:
    join(line, loop), join(line, loop)
    first, second = line.take(1, 0.1), line.take(1, 0.1)
    with pytest.raises(RuntimeError):
        line.settle(second, [Settled(1)])
    line.settle(first, [Settled(1)])
    with pytest.raises(RuntimeError):
        line.settle(first, [Settled(1)])


def test_beyond_the_room_a_request_is_refused_and_holds_nothing(line: Line) -> None:
    hold = Hold(line.room)
    hold.reserve(60)
    other = Hold(line.room)
    with pytest.raises(Refusal) as raised:
        other.reserve(41)
    assert refused(raised.value) == (503, "busy")
    assert dict(raised.value.extra)[b"retry-after"] == b"1"
    hold.shrink(10)
    other.reserve(90)
    hold.release()
    other.release()
    assert free(line) == 100


def test_after_the_deadline_the_queued_are_unkept_and_the_taken_unknown(
    line: Line, loop: asyncio.AbstractEventLoop, clock: ManualClock
) -> None:
    taken, queued = join(line, loop, nbytes=30), join(line, loop, nbytes=30)
    polled = line.take(1, 0.1)
    clock.advance(29.9)
    line.expire()
    assert (answer(loop, taken), answer(loop, queued)) == (None, None)
    clock.advance(0.2)
    late = join(line, loop, nbytes=30)
    line.expire()
    assert refused(answer(loop, taken)) == (504, "unknown_outcome")
    assert refused(answer(loop, queued)) == (503, "busy")
    assert free(line) == 40
    # What was taken may be stored after all; that changes no answer, and what left the line never comes.
    line.settle(polled, [Settled(1)])
    assert refused(answer(loop, taken)) == (504, "unknown_outcome")
    assert line.take(10, 0.1) == [late]


def test_draining_lets_nobody_in_and_everybody_out(line: Line, loop: asyncio.AbstractEventLoop) -> None:
    inside = join(line, loop)
    line.drain()
    with pytest.raises(Refusal) as raised:
        line.admit()
    assert refused(raised.value) == (503, "stopping")
    with pytest.raises(Refusal):
        join(line, loop)
    assert line.take(10, 0.1) == [inside]
    assert line.take(10, 0.1) == []


def test_throttling_turns_new_requests_away_for_a_while(line: Line) -> None:
    line.throttle(True)
    with pytest.raises(Refusal) as raised:
        line.admit()
    assert refused(raised.value) == (503, "busy")
    line.throttle(False)
    line.admit()


def test_closing_answers_everybody(line: Line, loop: asyncio.AbstractEventLoop) -> None:
    taken, queued = join(line, loop), join(line, loop)
    line.take(1, 0.1)
    line.close()
    assert refused(answer(loop, taken)) == (503, "unknown_outcome")
    assert refused(answer(loop, queued)) == (503, "stopping")
    assert free(line) == 100
    line.close()


def test_closing_after_the_server_is_gone_is_no_error(line: Line, loop: asyncio.AbstractEventLoop) -> None:
    join(line, loop)
    loop.close()
    line.close()
