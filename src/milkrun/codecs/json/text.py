"""One JSON text, checked to the letter (RFC 8259) and parsed without loss: what the fast paths fall back to.

Numbers stay text (`Number`), duplicate keys are counted, and places are found in bytes. Slow, and right on every input.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from json.decoder import JSONDecoder, scanstring  # type: ignore[attr-defined]
from typing import Any

import msgspec

from milkrun.codecs.json.faults import Code, RowError, Steps

BOM = b"\xef\xbb\xbf"
WHITE = b" \t\n\r"
_KEYS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_SPACE = re.compile(r"[ \t\n\r]*")
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[{]|[\]}]', re.DOTALL)
_CONSTANT = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|NaN|-?Infinity', re.DOTALL)
_TRAILING = {
    "Illegal trailing comma before end of object": "Expecting property name enclosed in double quotes",
    "Illegal trailing comma before end of array": "Expecting value",
}
"""What Python before 3.13 says, at the place after the comma: an error reads the same whichever Python finds it."""
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Number:
    """A JSON number as it is written."""

    text: str


@dataclass(frozen=True, slots=True)
class Parsed:
    """An event's text: its members, how many duplicate keys were dropped (the last one wins), and the text without a mark."""

    members: dict[str, Any]
    duplicates: int
    text: str
    skipped: int
    """Bytes before `text`: those of a byte order mark."""


class _Constant(Exception):
    """NaN or an infinity, which RFC 8259 (section 6) doesn't have."""


def parse(value: bytes, max_depth: int) -> Parsed:
    """The event. Raises RowError where it is none."""
    body = value.removeprefix(BOM)
    skipped = len(value) - len(body)
    if not body.strip(WHITE):
        raise RowError(Code.EMPTY, "expected a JSON object, found nothing", offset=len(value))
    text = _decoded(body, skipped)
    check_depth(body, max_depth, skipped)
    found, duplicates = _loaded(text, skipped)
    _check_surrogates(text, skipped)
    if not isinstance(found, dict):
        message = f"expected a JSON object, found {kind_of(found)}"
        raise RowError(Code.NOT_OBJECT, message, offset=skipped + _skip(text, 0))
    return Parsed(found, duplicates, text, skipped)


def _loaded(text: str, skipped: int) -> tuple[Any, int]:
    """The value, and how many duplicate keys it had."""
    members = _Members()
    try:
        found = json.loads(
            text, object_pairs_hook=members, parse_int=Number, parse_float=Number, parse_constant=_refuse
        )
    except json.JSONDecodeError as error:
        what, place = _TRAILING.get(error.msg, error.msg), error.pos
        if what != error.msg:
            place = _skip(text, place + 1)
        message = f"not RFC 8259 JSON: {what}"
    except _Constant:
        message = "not RFC 8259 JSON: NaN and infinities are no numbers"
        place = next(hit.start() for hit in _CONSTANT.finditer(text) if hit[0][0] != '"')
    except RecursionError:
        raise RowError(Code.DEPTH, "nested deeper than this decoder can go") from None
    else:
        return found, members.duplicates
    raise RowError(Code.SYNTAX, message, offset=skipped + _bytes(text, place))


class _Members:
    """Makes objects of their pairs: of equal keys the last one wins, and stands where it was written."""

    def __init__(self) -> None:
        self.duplicates = 0

    def __call__(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            self.duplicates += len(pairs) - len(made)
            made = {}
            for key, value in pairs:
                made.pop(key, None)
                made[key] = value
        return made


def kind_of(value: Any) -> str:
    """What JSON calls a parsed value, with its article."""
    if value is None:
        return "null"
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean"}
    return names.get(type(value), "a number")


def _refuse(constant: str) -> None:
    raise _Constant


def is_utf8(body: bytes) -> bool:
    """Whether the bytes are UTF-8."""
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def _decoded(body: bytes, skipped: int) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise RowError(Code.UTF8, "not valid UTF-8", offset=skipped + error.start) from None


def check_depth(body: bytes, max_depth: int, skipped: int) -> None:
    """Raise RowError where brackets outside of strings nest deeper; `skipped` bytes stand before `body`."""
    if body.count(b"[") + body.count(b"{") <= max_depth:
        return
    depth = 0
    for token in _TOKEN.finditer(body):
        if token[0] in (b"[", b"{"):
            depth += 1
            if depth > max_depth:
                raise RowError(
                    Code.DEPTH, f"nested deeper than {max_depth} levels", offset=skipped + token.start()
                )
        elif token[0] in (b"]", b"}"):
            depth -= 1


def _check_surrogates(text: str, skipped: int) -> None:
    """Refuse escapes that are half of a pair: no UTF-8 can carry them (RFC 8259, section 8.2)."""
    if "\\u" not in text:
        return
    high_end = -1
    high_start = 0
    for escape in _ESCAPE.finditer(text):
        unit = int(escape[1], 16) if escape[1] else 0
        pairs = 0xDC00 <= unit <= 0xDFFF and escape.start() == high_end
        if high_end >= 0 and not pairs:
            break
        if pairs:
            high_end = -1
        elif 0xD800 <= unit <= 0xDBFF:
            high_start, high_end = escape.start(), escape.end()
        elif 0xDC00 <= unit <= 0xDFFF:
            high_start, high_end = escape.start(), escape.end()
            break
    if high_end >= 0:
        offset = skipped + _bytes(text, high_start)
        raise RowError(Code.UTF8, "an escape is half of a surrogate pair", offset=offset)


def _bytes(text: str, position: int) -> int:
    return len(text[:position].encode(errors="surrogatepass"))


def locate(parsed: Parsed, steps: Steps) -> tuple[int, int]:
    """Start and end, in characters of the text, of the value that `steps` lead to, or of the last one on the way that exists."""
    position = _skip(parsed.text, 0)
    for step in steps:
        found = _enter(parsed.text, position, step)
        if found is None:
            break
        position = found
    return position, _end(parsed.text, position)


def first_written(text: str) -> Iterable[str]:
    """The keys of a valid JSON object, each where it is written first."""
    found: dict[str, msgspec.Raw] = _KEYS.decode(text)
    return found


def offset_of(parsed: Parsed, steps: Steps) -> int:
    """The byte of the row at which the value of `steps` begins (see `locate`)."""
    return parsed.skipped + _bytes(parsed.text, locate(parsed, steps)[0])


def text_at(parsed: Parsed, steps: Steps) -> str:
    """The JSON text of the value that `steps` lead to, as the producer wrote it."""
    start, end = locate(parsed, steps)
    return parsed.text[start:end]


def _enter(text: str, position: int, step: str | int) -> int | None:
    """Where the member or item `step` of the value at `position` begins; the last of equal keys."""
    opening, index, found = text[position], 0, None
    if opening != ("[" if isinstance(step, int) else "{"):
        return None
    position = _skip(text, position + 1)
    while text[position] not in "]}":
        key: str | int = index
        if opening == "{":
            key, position = scanstring(text, position + 1)
            position = _skip(text, _skip(text, position) + 1)
        if key == step:
            found = position
        position = _skip(text, _end(text, position))
        if text[position] == ",":
            position = _skip(text, position + 1)
        index += 1
    return found


_SCAN = JSONDecoder(parse_int=len, parse_float=len)


def _end(text: str, position: int) -> int:
    return _SCAN.raw_decode(text, position)[1]


def _skip(text: str, position: int) -> int:
    hit = _SPACE.match(text, position)
    return hit.end() if hit else position
