"""A reader on Kafka over a scripted consumer: what is fetched between reads is given by the next, once and in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from itertools import islice
from typing import Any

import pytest

pytest.importorskip("confluent_kafka")

from confluent_kafka import KafkaError, Message

from milkrun.log.kafka import reader
from milkrun.log.kafka.reader import Reader
from milkrun.model.errors import Refused

TOPIC = "shop"
AT_ONCE = 3
END = 12


class _Scripted:
    """Takes the place of the client library's consumer; each poll begins another fetch of `AT_ONCE` messages."""

    script: Iterator[Message]
    fetches: int
    closed: bool

    def __init__(self, settings: object) -> None:
        type(self).fetches = 0
        type(self).closed = False

    def assign(self, places: object) -> None:
        pass

    def poll(self, timeout: float) -> Message | None:
        type(self).fetches += 1
        return next(self.script, None)

    def consume(self, count: int, timeout: float) -> list[Message]:
        return list(islice(self.script, AT_ONCE - 1))

    def close(self) -> None:
        type(self).closed = True


class _AtOnce(Executor):
    """Has done everything by the time it is told."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class _Busy(Executor):
    """Comes to nothing of what it is told."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return Future()


class _Closed(Executor):
    """Takes nothing any more."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        raise RuntimeError("cannot schedule new futures after shutdown")


def _stored(offset: int) -> Message:
    return Message(topic=TOPIC, partition=0, offset=offset, timestamp=(1, 1_000), value=b"%d" % offset)


def _reader(monkeypatch: pytest.MonkeyPatch, threads: Executor, script: list[Message]) -> Reader:
    monkeypatch.setattr(reader, "Consumer", _Scripted)
    monkeypatch.setattr(_Scripted, "script", iter(script), raising=False)
    return Reader({}, TOPIC, 0, 0, threads)


def _offsets(found: Reader, offset: int, rows: int = 4) -> list[int]:
    batch = found.read(offset, END, rows, 1 << 20)
    offsets: list[int] = batch.events.column("offset").to_pylist()
    assert batch.events.column("value").to_pylist() == [b"%d" % each for each in offsets]
    assert batch.next_offset == offsets[-1] + 1
    return offsets


@pytest.mark.parametrize("threads", [_AtOnce(), _Busy(), _Closed()])
def test_reads_give_everything_once_and_in_order(monkeypatch: pytest.MonkeyPatch, threads: Executor) -> None:
    found = _reader(monkeypatch, threads, [_stored(offset) for offset in range(END)])

    assert _offsets(found, 0) == [0, 1, 2, 3]
    assert _offsets(found, 4) == [4, 5, 6, 7]
    assert _offsets(found, 8) == [8, 9, 10, 11]


def test_what_the_next_read_asks_for_is_fetched_before(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _reader(monkeypatch, _AtOnce(), [_stored(offset) for offset in range(END)])

    _offsets(found, 0)

    # Two fetches hold the first read's four, of which two were left; with one more there are five.
    assert _Scripted.fetches == 3
    assert found.covers(4)
    assert not found.covers(3)
    _offsets(found, 4)
    # That read needed none, and after it one was left: one more holds four.
    assert _Scripted.fetches == 4


def test_no_more_is_fetched_before_than_many_readers_may_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "AHEAD_BYTES", 1)
    found = _reader(monkeypatch, _AtOnce(), [_stored(offset) for offset in range(END)])

    _offsets(found, 0, rows=3)

    # What one fetch brings is more than that already, and the read left nothing.
    assert _Scripted.fetches == 2
    assert found.covers(2 * AT_ONCE)
    assert not found.covers(2 * AT_ONCE + 1)


def test_what_goes_wrong_ahead_is_raised_by_the_next_read(monkeypatch: pytest.MonkeyPatch) -> None:
    forbidden = Message(topic=TOPIC, partition=0, error=KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))
    script = [*(_stored(offset) for offset in range(6)), forbidden]
    found = _reader(monkeypatch, _AtOnce(), script)

    assert _offsets(found, 0) == [0, 1, 2, 3]
    with pytest.raises(Refused):
        _offsets(found, 4)


def test_closing_heeds_nothing_that_went_wrong_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    forbidden = Message(topic=TOPIC, partition=0, error=KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))
    found = _reader(monkeypatch, _AtOnce(), [*(_stored(offset) for offset in range(6)), forbidden])
    _offsets(found, 0)

    found.close()

    assert _Scripted.closed
