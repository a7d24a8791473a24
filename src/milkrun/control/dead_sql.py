"""A user's SQL over dead letters: conditions that choose some, and expressions that give an event's corrected body.

It runs in a DuckDB of its own, in memory, that can't reach files, the network or extensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

import duckdb
import msgspec
import pyarrow as pa

from milkrun.model.errors import Refused
from milkrun.runtime.dead_letters import DeadLetter

_TEXT = ("id", "stage", "party", "code", "message", "path", "topic", "version", "state")
_SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
    "memory_limit": "1GB",
    "threads": "1",
}
COLUMNS = (*_TEXT, "partition", "offset", "timestamp", "key", "value", "headers", "body")
"""What a condition or expression may name. `value` and `key` are text (null where they are no UTF-8), `body` is the value as JSON
(null where it is none), `timestamp` an instant, `headers` a map of text to text."""


class LetterSql:
    """Evaluates expressions over letters. A context manager, used by one thread. Refused where an expression is wrong."""

    def __init__(self) -> None:
        self._connection = duckdb.connect(":memory:", config=_SETTINGS)
        self._connection.execute("SET TimeZone = 'UTC'; SET lock_configuration = true")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def matching(self, condition: str, letters: Sequence[DeadLetter], states: Sequence[str]) -> list[bool]:
        """For which letters, each in its state, the condition is true."""
        self._offer(letters, states)
        try:
            rows = self._query(f"SELECT coalesce(CAST(({condition}\n) AS BOOLEAN), false) FROM letters")
        except duckdb.Error as error:
            raise _wrong("where", condition, error) from None
        return [bool(row[0]) for row in rows]

    def bodies(self, expression: str, letters: Sequence[DeadLetter]) -> list[bytes | str]:
        """The body (bytes) that the expression gives for each letter, or why it gives none (text)."""
        self._offer(letters, ["open"] * len(letters))
        of_json = not self._binds(expression, "letters_as_text")
        found: list[bytes | str] = []
        try:
            found = [_body(value) for value in self._values(expression, "true")]
        except duckdb.ConversionException:
            # One of them fails all: which, only each on its own can tell.
            found = [self._alone(expression, number) for number in range(len(letters))]
        except duckdb.Error as error:
            raise _wrong("sql", expression, error) from None
        for number, letter in enumerate(letters):
            if of_json and not is_json(letter.value):
                found[number] = (
                    "its value is no JSON, so `body` is null; correct it as text: replace(value, ...)"
                )
        return found

    def _alone(self, expression: str, number: int) -> bytes | str:
        try:
            return _body(self._values(expression, f"row = {number}")[0])
        except duckdb.Error as error:
            return str(error).splitlines()[0]

    def _values(self, expression: str, condition: str) -> list[object]:
        rows = self._query(
            f"SELECT CASE WHEN typeof(fixed) IN ('VARCHAR', 'JSON') THEN CAST(fixed AS VARCHAR) "
            f"ELSE CAST(to_json(fixed) AS VARCHAR) END FROM "
            f"(SELECT row, ({expression}\n) AS fixed FROM letters WHERE {condition}) ORDER BY row"
        )
        return [row[0] for row in rows]

    def _binds(self, expression: str, view: str) -> bool:
        try:
            self._query(f"SELECT ({expression}\n) FROM {view} LIMIT 0")
        except duckdb.Error:
            return False
        return True

    def _query(self, query: str) -> list[tuple[object, ...]]:
        if len(self._connection.extract_statements(query)) != 1:
            raise Refused("give one expression, without semicolons")
        return self._connection.execute(query).fetchall()

    def _offer(self, letters: Sequence[DeadLetter], states: Sequence[str]) -> None:
        table = _table(letters, states)
        self._connection.register("raw_letters", table)
        as_text = "SELECT * EXCLUDE (headers), map_from_entries(headers) AS headers FROM raw_letters"
        self._connection.execute(f"CREATE OR REPLACE TEMP VIEW letters_as_text AS {as_text}")
        self._connection.execute(
            "CREATE OR REPLACE TEMP VIEW letters AS SELECT *, try_cast(value AS JSON) AS body FROM letters_as_text"
        )


def is_json(value: bytes | None) -> bool:
    """Whether the bytes are JSON."""
    try:
        msgspec.json.decode(value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True


def _table(letters: Sequence[DeadLetter], states: Sequence[str]) -> pa.Table:
    columns: dict[str, pa.Array] = {"row": pa.array(range(len(letters)), pa.int64())}
    for name in _TEXT:
        values = states if name == "state" else [getattr(letter, name) for letter in letters]
        columns[name] = pa.array(values, pa.string())
    columns["partition"] = pa.array([letter.partition for letter in letters], pa.int32())
    columns["offset"] = pa.array([letter.offset for letter in letters], pa.int64())
    stamps = pa.array([letter.timestamp for letter in letters], pa.int64())
    columns["timestamp"] = stamps.cast(pa.timestamp("ms", tz="UTC"))
    columns["key"] = pa.array([_text(letter.key) for letter in letters], pa.string())
    columns["value"] = pa.array([_text(letter.value) for letter in letters], pa.string())
    entries = pa.list_(pa.struct([("k", pa.string()), ("v", pa.string())]))
    columns["headers"] = pa.array(
        [
            [{"k": name, "v": _text(value)} for name, value in dict(letter.headers).items()]
            for letter in letters
        ],
        entries,
    )
    return pa.table(columns)


def _text(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def _body(value: object) -> bytes | str:
    return value.encode() if isinstance(value, str) else "the expression gives null for it"


def _wrong(option: str, text: str, error: duckdb.Error) -> Refused:
    reason = str(error).split("\n\nLINE")[0].replace("\n", " ")
    return Refused(f"--{option} {text!r}: {reason}; it may name: {', '.join(COLUMNS)}")
