"""A producer over a scripted client: a call that never ends is given up, and so is the producer that made it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("confluent_kafka")

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from milkrun.log.kafka import producers
from milkrun.log.kafka.naming import Names
from milkrun.log.kafka.producers import Producing
from milkrun.model.errors import Fenced, Unreachable

OFFSETS = [TopicPartition("shop", 0, 5)]


class _Scripted:
    """Takes the place of the client library's producer: committing offsets waits for `coordinator`, then raises `failure` if there is one."""

    coordinator: threading.Event
    failure: KafkaException | None
    sent: list[Any]

    def __init__(self, settings: object, logger: object) -> None:
        type(self).sent = []

    def send_offsets_to_transaction(self, offsets: object, metadata: object, seconds: float) -> None:
        self.coordinator.wait()
        self.sent.append(offsets)
        if self.failure is not None:
            raise self.failure

    def purge(self) -> None:
        pass

    def poll(self, seconds: float) -> None:
        pass

    def abort_transaction(self, seconds: float) -> None:
        pass


@pytest.fixture
def producing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Producing]:
    _Scripted.coordinator, _Scripted.failure = threading.Event(), None
    monkeypatch.setattr(producers, "Producer", _Scripted)
    yield Producing({}, Names("shop"), "worker.000", marks=True)
    _Scripted.coordinator.set()


def test_offsets_are_committed(producing: Producing) -> None:
    _Scripted.coordinator.set()

    producing.commit_offsets(OFFSETS, "metadata")

    assert _Scripted.sent == [OFFSETS]
    assert producing.abort()


def test_what_the_call_raises_is_raised(producing: Producing) -> None:
    _Scripted.coordinator.set()
    _Scripted.failure = KafkaException(KafkaError(KafkaError.ILLEGAL_GENERATION))

    with pytest.raises(Fenced, match="committing offsets"):
        producing.commit_offsets(OFFSETS, "metadata")


def test_a_call_that_never_ends_ends_the_producer(
    producing: Producing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producers, "OFFSETS_SECONDS", 0.0)

    with pytest.raises(Unreachable, match="no answer in 0 s; it is tried again by another producer"):
        producing.commit_offsets(OFFSETS, "metadata")

    assert not producing.abort()
