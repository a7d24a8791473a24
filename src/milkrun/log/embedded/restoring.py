"""Makes topics as they were in a log that is lost: with their incarnations, and partitions that begin where that log's ended.

For a new log that nobody else has open yet.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from milkrun.log.embedded.log import EmbeddedLog
from milkrun.model.errors import Refused
from milkrun.model.spec import TopicSpec, check_topic_name


@dataclass(frozen=True, slots=True)
class RestoredTopic:
    """A topic, and of each of its partitions the offsets `(start, end)`: nothing is kept between them, the next event gets `end`."""

    spec: TopicSpec
    incarnation: str
    partitions: tuple[tuple[int, int], ...]


def restore_topics(log: EmbeddedLog, topics: Iterable[RestoredTopic]) -> None:
    """Make these topics, all or none. Refused where one is there already."""
    with log._write():
        connection = log._database.writer
        for topic in topics:
            check_topic_name(topic.spec.name)
            if connection.execute("SELECT count(*) FROM topic WHERE name=?", (topic.spec.name,)).get:
                raise Refused(f"there is a topic {topic.spec.name!r} already")
            connection.execute(
                "INSERT INTO topic(name, incarnation, spec) VALUES(?, ?, ?)",
                (topic.spec.name, topic.incarnation, msgspec.json.encode(topic.spec).decode()),
            )
            key = connection.last_insert_rowid()
            connection.executemany(
                "INSERT INTO partition(topic, partition, start, next) VALUES(?, ?, ?, ?)",
                [(key, number, *bounds) for number, bounds in enumerate(topic.partitions)],
            )
