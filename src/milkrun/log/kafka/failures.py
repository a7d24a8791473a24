"""What Kafka's errors mean to the caller, in plain words: which may pass, which need a person, and what that person does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka import KafkaError, KafkaException

from milkrun.model.errors import Fenced, MilkrunError, NotFound, Refused, Transient, Unreachable

_UNREACHABLE = frozenset(
    {
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._TRANSPORT,
        KafkaError._RESOLVE,
        KafkaError._TIMED_OUT,
        KafkaError._TIMED_OUT_QUEUE,
        KafkaError._AUTHENTICATION,
        KafkaError._SSL,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.REQUEST_TIMED_OUT,
    }
)
NOT_FOUND = frozenset(
    {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}
)
"""The topic or partition isn't there."""

FORBIDDEN = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "on the topic",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "on the consumer group",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "on the cluster",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "on the transactional id",
}
LOST_GROUP = frozenset(
    {
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.FENCED_INSTANCE_ID,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.FENCED_MEMBER_EPOCH,
        KafkaError.STALE_MEMBER_EPOCH,
    }
)
"""A transaction's offsets were refused since the member that committed isn't in the group any more."""


def error_of(exception: KafkaException) -> KafkaError:
    """The KafkaError inside."""
    error: KafkaError = exception.args[0]
    return error


def explained(error: KafkaError, doing: str) -> MilkrunError:
    """The error to raise for `error`, met while `doing`."""
    code = error.code()
    text = f"{doing}: {error.str()}"
    if code in FORBIDDEN:
        return Refused(
            f"{text}; give the project's user the right {FORBIDDEN[code]}, see docs/how-to/kafka.md"
        )
    if code in NOT_FOUND:
        return NotFound(text)
    if code in _UNREACHABLE:
        return Unreachable(f"{text}; check bootstrap, network and credentials, and that brokers run")
    if code in LOST_GROUP:
        return Fenced(text)
    return Transient(text)


@contextmanager
def explaining(doing: str) -> Iterator[None]:
    """Raise what a KafkaException within means."""
    try:
        yield
    except KafkaException as exception:
        raise explained(error_of(exception), doing) from exception
