"""One body to Python values, RFC 8259 to the letter, by the standard library's parser with what it lets through refused.

Beyond the parser: invalid UTF-8, lone surrogates, NaN and Infinity, nesting deeper than the limit, anything but an object. A byte
order mark is skipped (section 8.1). Of equal keys the last one counts.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal
from json import JSONDecoder
from typing import Any, NoReturn

from milkrun.codecs.json.errors import Undecodable

MAX_DEPTH = 128
_BOM = b"\xef\xbb\xbf"
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_OPENING = frozenset(b"[{")
_CLOSING = frozenset(b"]}")
_NAMES = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    Decimal: "a number",
    str: "text",
    list: "an array",
}


def name_of(value: object) -> str:
    """How messages call a value's JSON type."""
    return _NAMES.get(type(value), "an object")


def _constant(name: str) -> NoReturn:
    raise Undecodable("syntax", f"{name} is no JSON value")


class Parser:
    """Parses bodies, counting duplicate keys in `duplicates`. With `exact`, numbers with a fraction or an exponent come as Decimal."""

    def __init__(self, *, exact: bool = False, max_depth: int = MAX_DEPTH) -> None:
        self.duplicates = 0
        self._max_depth = max_depth
        self._decode = JSONDecoder(
            object_pairs_hook=self._object, parse_constant=_constant, parse_float=Decimal if exact else None
        ).decode

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        self.duplicates += len(pairs) - len(found)
        return found

    def parse(self, body: bytes) -> dict[str, Any]:
        """The object that the body is. Raises Undecodable."""
        start = len(_BOM) if body.startswith(_BOM) else 0
        if start == len(body) or not body[start:].strip(b" \t\r\n"):
            raise Undecodable("empty", "the body is empty", 0)
        if body.count(b"[") + body.count(b"{") > self._max_depth:
            check_depth(body, self._max_depth)
        try:
            text = body[start:].decode()
        except UnicodeDecodeError as error:
            raise Undecodable("utf8", "invalid UTF-8", start + error.start) from None
        value = self._parse_text(text, start)
        if type(value) is not dict:
            raise Undecodable("not_object", f"an object is due, this is {name_of(value)}", start)
        if b"\\u" in body:
            _check_surrogates(value)
        return value

    def _parse_text(self, text: str, start: int) -> Any:
        try:
            return self._decode(text)
        except json.JSONDecodeError as error:
            place = start + len(text[: error.pos].encode())
            if error.msg == "Extra data":
                raise Undecodable("trailing", "text after the value", place) from None
            raise Undecodable("syntax", error.msg[0].lower() + error.msg[1:], place) from None
        except RecursionError:
            raise Undecodable("depth", f"nested deeper than {self._max_depth} levels") from None
        except ValueError:
            raise Undecodable("range", "a number of more than 4,300 digits") from None


def check_depth(body: bytes, limit: int) -> None:
    """Raises Undecodable where arrays and objects nest deeper than `limit`, without recursion."""
    depth = 0
    for byte in _STRINGS.sub(b"", body):
        if byte in _OPENING:
            depth += 1
            if depth > limit:
                raise Undecodable("depth", f"nested deeper than {limit} levels")
        elif byte in _CLOSING:
            depth -= 1


def _check_surrogates(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        raise Undecodable("surrogate", "a lone surrogate is no character") from None
