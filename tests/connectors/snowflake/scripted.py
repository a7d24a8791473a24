"""A connection whose answers a test scripts, and which keeps every statement: for what the stand-in can't show."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import pytest
import snowflake.connector

from milkrun.connectors.snowflake import SnowflakeConfig, SnowflakeSink
from milkrun.plugin import Secret
from milkrun.testing.cuts import context

Rows = Sequence[tuple[Any, ...]]
UPLOADED = [("f", "f", 1, 1, "NONE", "NONE", "UPLOADED", "")]


@dataclass
class Connection:
    """Answers each statement by the first pattern that it begins with: rows, an error, or a list of such to give one after the other."""

    answers: dict[str, Any] = field(default_factory=dict)
    statements: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)
    uploads: list[bytes] = field(default_factory=list)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    closed: bool = False

    def cursor(self) -> Cursor:
        return Cursor(self)

    def close(self) -> None:
        self.closed = True

    def answer(self, statement: str) -> Rows:
        for pattern, answer in self.answers.items():
            if re.match(pattern, statement):
                if isinstance(answer, list) and answer and isinstance(answer[0], list | Exception):
                    answer = answer.pop(0) if len(answer) > 1 else answer[0]
                if isinstance(answer, Exception):
                    raise answer
                return list(answer)
        return []

    @property
    def texts(self) -> list[str]:
        return [text for text, _ in self.statements]


class Cursor:
    """One statement of a `Connection`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._rows: Rows = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def execute(
        self, statement: str, parameters: Sequence[Any] | None = None, *, file_stream: IO[bytes] | None = None
    ) -> None:
        self._connection.statements.append((statement, tuple(parameters or ())))
        if file_stream is not None:
            self._connection.uploads.append(file_stream.read())
        self._rows = self._connection.answer(statement)

    def fetchall(self) -> Rows:
        return self._rows


def opened(
    monkeypatch: pytest.MonkeyPatch, connection: Connection, folder: Path, **options: Any
) -> SnowflakeSink:
    """A sink, open on the connection, which has forgotten the statements of that."""

    def connect(**arguments: Any) -> Connection:
        connection.arguments = arguments
        return connection

    monkeypatch.setattr(snowflake.connector, "connect", connect)
    config: dict[str, Any] = {
        "account": "acme-prod",
        "user": "MILKRUN",
        "password": Secret("not-a-secret"),
        "database": "RAW",
        "warehouse": "LOADING",
        "schema": "SHOP",
    }
    sink = SnowflakeSink(SnowflakeConfig(**{**config, **options}), context(folder))
    sink.open()
    return sink
