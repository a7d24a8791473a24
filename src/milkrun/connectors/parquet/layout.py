"""Where a cut's events go: Hive-style folders, and file names that tell topic, partition, offsets and incarnation.

Every name is a pure function of the cut and the configuration, is safe on S3 and on any file system, and shows no reader a
folder or file that it would skip (those that begin with `_` or `.`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote

from milkrun.model.batch import TopicPartition
from milkrun.model.errors import ConfigError, Refused

NULL_FOLDER = "__HIVE_DEFAULT_PARTITION__"
"""Hive's name for null, which readers give back as null; Hive puts the empty text there too."""

LABEL_BYTES = 160
"""The longest a value may be in a folder's name, percent-encoded; a file system's limit is 255 with the key."""

NAME_BYTES = 1024
"""S3's limit for an object's whole name (Amazon S3 user guide, "Naming Amazon S3 objects")."""

_TOPIC_BYTES = 140
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_OFFSET_DIGITS = 20
_FILE = re.compile(
    r"(?P<topic>.+)-(?P<partition>\d{5,10})-(?P<start>\d{20})-(?P<end>\d{20})-(?P<incarnation>[0-9a-f]{8})"
    r"(?:-g(?P<generation>\d+))?(?P<repairs>-repairs)?\.parquet"
)


@dataclass(frozen=True, slots=True)
class Level:
    """One level of folders, named `key=value`; `steps` lead into the body where `source` says so."""

    key: str
    source: Literal["topic", "date", "hour", "body"]
    steps: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.key}=body.{'.'.join(self.steps)}" if self.source == "body" else self.source


Layout = tuple[Level, ...]


def parse_layout(entries: Sequence[str]) -> Layout:
    """The levels that the option `partition_by` asks for. ConfigError where an entry means nothing or a key comes twice."""
    levels: list[Level] = []
    for index, entry in enumerate(entries):
        path = ("partition_by", index)
        # An hour says nothing without its day.
        if entry == "hour" and not any(level.source == "date" for level in levels):
            _add(levels, Level("date", "date"), path)
        _add(levels, _parse_level(entry, path), path)
    return tuple(levels)


def _add(levels: list[Level], level: Level, path: tuple[str | int, ...]) -> None:
    if level.key.lower() in {other.key.lower() for other in levels}:
        raise ConfigError(
            f"the folder key {level.key!r} comes twice",
            "leave one out, or name it: other=body.field",
            path=path,
        )
    levels.append(level)


def _parse_level(entry: str, path: tuple[str | int, ...]) -> Level:
    for word in ("topic", "date", "hour"):
        if entry == word:
            return Level(word, word)
    key, named, field = entry.partition("=")
    steps = parse_steps(field if named else entry, path)
    if not named:
        key = "by_" + re.sub(r"[^A-Za-z0-9_-]", "_", "_".join(steps))
    if not _KEY.fullmatch(key):
        raise ConfigError(
            f"{key[:80]!r} can't be a folder's key",
            "use up to 64 letters, digits, '_' or '-', and begin with a letter or digit: country=body.country",
            path=path,
        )
    return Level(key, "body", steps)


def parse_steps(text: str, path: tuple[str | int, ...]) -> tuple[str, ...]:
    """The field names of a path such as `body.address.city`. ConfigError where it is none."""
    root, *steps = text.split(".")
    if root != "body" or not steps or not all(steps):
        raise ConfigError(
            f"{text[:80]!r} is no path to a field",
            "write body.<field>, or in partition_by also topic, date or hour",
            path=path,
        )
    return tuple(steps)


def folder(key: str, value: str | None) -> str:
    """The folder's name for a value: percent-encoded, so that no value leaves its folder and readers get it back unchanged.

    A value too long for a name is cut off and gets a digest; the file itself has all of it.
    """
    return f"{key}={label(value)}"


def label(value: str | None) -> str:
    """The value's part of a folder's name."""
    if value is None or value == "":
        return NULL_FOLDER
    encoded = _encoded(value)
    if encoded.startswith("_"):
        encoded = "%5F" + encoded[1:]
    return _shortened(encoded, value, LABEL_BYTES)


def file_name(
    partition: TopicPartition,
    start: int,
    end: int,
    incarnation: str,
    generation: int,
    *,
    repairs: bool = False,
) -> str:
    """The name of the file with a partition's events `[start, end)`, without folders; with `repairs`, of those that come late."""
    suffix = ("" if generation == 1 else f"-g{generation}") + ("-repairs" if repairs else "")
    return (
        f"{stem(partition.topic)}-{partition.partition:05d}-{start:0{_OFFSET_DIGITS}d}-{end:0{_OFFSET_DIGITS}d}"
        f"-{short_incarnation(incarnation)}{suffix}.parquet"
    )


def stem(topic: str) -> str:
    """A topic's part of a file's name; the file's metadata has the whole name where it is too long for one."""
    encoded = _encoded(topic)
    # Readers of data lakes skip files whose names begin with an underscore.
    if encoded.startswith("_"):
        encoded = "%5F" + encoded[1:]
    return _shortened(encoded, topic, _TOPIC_BYTES)


def short_incarnation(incarnation: str) -> str:
    """Eight hexadecimal digits for an incarnation, whatever it looks like."""
    return hashlib.sha256(incarnation.encode()).hexdigest()[:8]


@dataclass(frozen=True, slots=True)
class FileName:
    """What a file's name tells. `topic` is the topic's stem, `incarnation` its eight digits. With `repairs` the offsets of the events in
    it are others than `[start, end)`."""

    topic: str
    partition: int
    start: int
    end: int
    incarnation: str
    generation: int
    repairs: bool = False


def parse_file_name(name: str) -> FileName | None:
    """What the name of a file (folders before it are ignored) tells, or None where it is not this sink's."""
    match = _FILE.fullmatch(name.rpartition("/")[2])
    if match is None:
        return None
    return FileName(
        match["topic"],
        int(match["partition"]),
        int(match["start"]),
        int(match["end"]),
        match["incarnation"],
        int(match["generation"] or 1),
        match["repairs"] is not None,
    )


def check_length(name: str, prefix: str) -> None:
    """Refused where `name` below `prefix` is longer than an object's name may be."""
    length = len(f"{prefix}/{name}".encode())
    if length > NAME_BYTES:
        raise Refused(
            f"an object's name would be {length} bytes long, S3 allows {NAME_BYTES}: {name[:80]}…; "
            "use a shorter prefix in url or fewer entries in partition_by"
        )


def _encoded(value: str) -> str:
    encoded = quote(value, safe="", errors="replace")
    # `quote` keeps dots; names of dots alone lead elsewhere.
    return encoded.replace(".", "%2E") if set(encoded) == {"."} else encoded


def _shortened(encoded: str, value: str, limit: int) -> str:
    if len(encoded) <= limit:
        return encoded
    digest = hashlib.sha256(value.encode(errors="replace")).hexdigest()[:16]
    # A percent sign at the cut would lose its digits.
    head = re.sub(r"%[0-9A-F]?$", "", encoded[: limit - len(digest) - 1])
    return f"{head}~{digest}"
