"""Ways to correct the bodies of dead letters: a SQL expression, a JSON patch (RFC 6902), or a Python function.

Each gives a new body, or says why it gives none; nothing is written here.
"""

from __future__ import annotations

import json
import runpy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonpatch
import msgspec

from milkrun.control.dead_sql import LetterSql
from milkrun.model.errors import Refused
from milkrun.runtime.dead_letters import DeadLetter

_KINDS = {".sql": "a SQL expression", ".json": "a JSON patch", ".py": "a Python function"}

# Numbers that a double can't hold pass unchanged.
_decoder = msgspec.json.Decoder(float_hook=Decimal)
_encoder = msgspec.json.Encoder(decimal_format="number")


class Fix(ABC):
    """Corrects letters."""

    @abstractmethod
    def bodies(self, letters: Sequence[DeadLetter]) -> list[bytes | str]:
        """Each letter's new body (bytes), or why there is none (text). Refused where the fix itself is wrong."""


class SqlFix(Fix):
    """A SQL expression over the letter; see `milkrun.control.dead_sql` for what it may name."""

    def __init__(self, expression: str) -> None:
        self._expression = expression.strip().rstrip(";")

    def bodies(self, letters: Sequence[DeadLetter]) -> list[bytes | str]:
        with LetterSql() as sql:
            return sql.bodies(self._expression, letters)


class PatchFix(Fix):
    """A JSON patch on the body."""

    def __init__(self, text: str, name: str) -> None:
        try:
            self._patch = jsonpatch.JsonPatch.from_string(text)
        except (ValueError, TypeError, jsonpatch.JsonPatchException) as error:
            raise Refused(
                f'{name}: no JSON patch (RFC 6902): {error}; write a list of operations: [{{"op": "replace", "path": "/quantity", "value": 1}}]'
            ) from None

    def bodies(self, letters: Sequence[DeadLetter]) -> list[bytes | str]:
        return [self._body(letter) for letter in letters]

    def _body(self, letter: DeadLetter) -> bytes | str:
        try:
            document = _decoder.decode(letter.value or b"")
        except (msgspec.DecodeError, UnicodeDecodeError):
            return "its value is no JSON, which a patch needs; correct it by SQL over `value`, or in Python"
        try:
            return _encoder.encode(self._patch.apply(document))
        except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException) as error:
            return f"the patch can't be applied to it: {error}"


class PythonFix(Fix):
    """The function `fix(event)` of a Python file: see `event_of` for what it is given. It returns the new body (bytes, text, or what
    JSON is made of), or None to leave the letter alone."""

    def __init__(self, path: Path) -> None:
        try:
            found = runpy.run_path(str(path)).get("fix")
        except Exception as error:
            raise Refused(f"{path}: {type(error).__name__}: {error}") from error
        if not callable(found):
            raise Refused(
                f"{path} has no function `fix`; write: def fix(event): return event['body'] | {{'quantity': 1}}"
            )
        self._function: Callable[[dict[str, Any]], Any] = found

    def bodies(self, letters: Sequence[DeadLetter]) -> list[bytes | str]:
        return [self._body(letter) for letter in letters]

    def _body(self, letter: DeadLetter) -> bytes | str:
        try:
            made = self._function(event_of(letter))
            if made is None:
                return "the function gives None for it"
            return (
                made
                if isinstance(made, bytes)
                else made.encode()
                if isinstance(made, str)
                else _encoder.encode(made)
            )
        except Exception as error:
            return f"the function raises {type(error).__name__}: {error}"


def event_of(letter: DeadLetter) -> dict[str, Any]:
    """What a Python fix is given: `value` and `key` as bytes, `body` decoded (None where the value is no JSON), `headers`, and what
    is known of the refusal."""
    try:
        body = json.loads(letter.value or b"")
    except ValueError:
        body = None
    return {
        "value": letter.value,
        "body": body,
        "key": letter.key,
        "headers": dict(letter.headers),
        "timestamp": letter.timestamp,
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "stage": letter.stage,
        "party": letter.party,
        "code": letter.code,
        "message": letter.message,
        "path": letter.path,
    }


def read_fix(
    file: Path | None = None,
    *,
    sql: str | None = None,
    patch: Path | None = None,
    python: Path | None = None,
) -> Fix:
    """The fix of whichever is given: `file` is a .sql, .json or .py file, `sql` an expression, the others files. Refused unless it is one."""
    given = [each for each in (file, sql, patch, python) if each is not None]
    if len(given) != 1:
        raise Refused(
            "give one way to correct the events: --fix FILE, --sql EXPRESSION, --patch FILE or --python FILE"
        )
    if sql is not None:
        return SqlFix(sql)
    if python is not None or (file is not None and file.suffix == ".py"):
        return PythonFix(_existing(python or file))
    if patch is not None or (file is not None and file.suffix == ".json"):
        path = _existing(patch or file)
        return PatchFix(path.read_text(encoding="utf-8"), str(path))
    assert file is not None
    if file.suffix == ".sql":
        return SqlFix(_existing(file).read_text(encoding="utf-8"))
    kinds = ", ".join(f"{suffix} for {kind}" for suffix, kind in _KINDS.items())
    raise Refused(f"{file}: what is in it, its name must tell: {kinds}")


def _existing(path: Path | None) -> Path:
    assert path is not None
    if not path.is_file():
        raise Refused(f"there is no file {path}")
    return path
