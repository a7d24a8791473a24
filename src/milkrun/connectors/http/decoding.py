"""From a request's body to rows: told apart by msgspec without building values, the events' bytes untouched.

What is checked here is what the collector owes whoever sent the events: RFC 8259, UTF-8, an object, size and depth. An event that fails
is a fault, the others go on; where events can't be told apart, the whole body is one row with a fault.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import numpy as np

from milkrun.connectors.http import cloudevents
from milkrun.connectors.http.forms import Form
from milkrun.connectors.http.refusals import Refusal
from milkrun.connectors.http.rows import Rows
from milkrun.plugin import Fault

VALUES_PER_EVENT = 200
"""Commas an event may have on average where a request is as full as can be. Telling elements apart takes memory for each of them, and they
can only be counted afterwards: no more may be there than this allows."""

BLANK_LINES = 10
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
_ONE = msgspec.json.Decoder(msgspec.Raw)
_BOM = b"\xef\xbb\xbf"
_FIRST = re.compile(rb"[ \t\r\n]*")
_STRINGS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_OBJECT = ord("{")
_NAMES = {
    ord("["): "an array",
    ord('"'): "text",
    ord("t"): "a boolean",
    ord("f"): "a boolean",
    ord("n"): "null",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """Of each event its bytes and levels; of a request its events."""

    max_event: int
    max_events: int
    max_depth: int


def decode(body: bytes, form: Form, headers: Mapping[bytes, bytes], limits: Limits) -> Rows:
    """The events of a body. Refusal 400 where it is empty, 413 where it has more than `max_events`."""
    if form is Form.BINARY or form is Form.BINARY_JSON:
        return _binary(body, form, headers, limits)
    body = body.removeprefix(_BOM)
    if form is Form.LINES:
        return _lines(body, limits)
    start = _FIRST.match(body).end()  # type: ignore[union-attr]  # it matches the empty text too
    if start == len(body):
        raise Refusal(400, "empty", "the body is empty; send an event")
    rows = _json(body, form, body[start] == ord("["), limits)
    if form in (Form.STRUCTURED, Form.BATCH) and not rows.unparsed:
        cloudevents.read_attributes(rows)
    return rows


def _json(body: bytes, form: Form, is_array: bool, limits: Limits) -> Rows:
    if form is Form.STRUCTURED and is_array:
        return _whole(
            body, "not_object", "a CloudEvent is an object; send arrays as application/cloudevents-batch+json"
        )
    if form is Form.BATCH and not is_array:
        return _whole(body, "not_array", "an array of CloudEvents is due")
    if is_array:
        _check_pieces(body, b",", limits.max_events * VALUES_PER_EVENT, limits)
    try:
        values = [bytes(raw) for raw in _ARRAY.decode(body)] if is_array else [bytes(_ONE.decode(body))]
    except RecursionError:
        return _whole(body, "depth", f"nested deeper than {limits.max_depth} levels")
    except msgspec.DecodeError as error:
        return _whole(body, "syntax", _reason(error))
    _check_count(len(values), limits)
    return Rows(values, _faults(values, body.isascii() or _is_utf8(body), limits))


def _lines(body: bytes, limits: Limits) -> Rows:
    _check_pieces(body, b"\n", limits.max_events * BLANK_LINES, limits)
    lines = [line for line in body.split(b"\n") if line and not line.isspace()]
    _check_count(len(lines), limits)
    try:
        values = [bytes(_ONE.decode(line)) for line in lines]
        wrong: list[Fault] = []
    except (msgspec.DecodeError, RecursionError):
        values, wrong = _each_line(lines, limits)
    known = {fault.row for fault in wrong}
    faults = _faults(values, body.isascii() or _is_utf8(body), limits)
    return Rows(values, sorted([*wrong, *(fault for fault in faults if fault.row not in known)], key=_row))


def _each_line(lines: list[bytes], limits: Limits) -> tuple[list[bytes], list[Fault]]:
    values, faults = [], []
    for row, line in enumerate(lines):
        try:
            values.append(bytes(_ONE.decode(line)))
        except RecursionError:
            faults.append(_too_deep(row, limits))
            values.append(line)
        except msgspec.DecodeError as error:
            faults.append(Fault(row, "syntax", _reason(error)))
            values.append(line)
    return values, faults


def _binary(body: bytes, form: Form, headers: Mapping[bytes, bytes], limits: Limits) -> Rows:
    rows = Rows([body])
    cloudevents.read_headers(rows, headers)
    if not rows.faults and len(body) > limits.max_event:
        rows.faults.append(_too_large(0, limits))
    if not rows.faults and form is Form.BINARY_JSON:
        rows.faults += _wrong_data(body, limits)
    return rows


def _wrong_data(body: bytes, limits: Limits) -> list[Fault]:
    """What is wrong with data that its sender calls JSON; it needn't be an object."""
    try:
        _ONE.decode(body.removeprefix(_BOM))
    except RecursionError:
        return [_too_deep(0, limits)]
    except msgspec.DecodeError as error:
        return [Fault(0, "syntax", _reason(error))]
    fault = _fault(0, body, body.isascii() or _is_utf8(body), limits, any_value=True)
    return [] if fault is None else [fault]


def _check_pieces(body: bytes, separator: bytes, most: int, limits: Limits) -> None:
    if len(body) > most and body.count(separator) > most:
        raise Refusal(
            413,
            "too_many_events",
            f"the request has far more values than {limits.max_events} events have; nothing was kept, send less at a time",
        )


def _check_count(count: int, limits: Limits) -> None:
    if count > limits.max_events:
        raise Refusal(
            413,
            "too_many_events",
            f"the request has {count} events, more than {limits.max_events}; nothing was kept, send fewer at a time",
        )


def _whole(body: bytes, code: str, message: str) -> Rows:
    return Rows([body], [Fault(0, code, message)], unparsed=True)


def _faults(values: list[bytes], utf8: bool, limits: Limits) -> list[Fault]:
    """What is wrong with values that are well-formed JSON: one pass that finds suspects, and a closer look at those."""
    size, depth = limits.max_event, limits.max_depth
    suspects = [
        row
        for row, value in enumerate(values)
        if not utf8
        or value[0] != _OBJECT
        or len(value) > size
        or value.count(b"{") + value.count(b"[") > depth
    ]
    found = (_fault(row, values[row], utf8, limits) for row in suspects)
    return [fault for fault in found if fault is not None]


def _fault(row: int, value: bytes, utf8: bool, limits: Limits, *, any_value: bool = False) -> Fault | None:
    if len(value) > limits.max_event:
        return _too_large(row, limits)
    if not utf8 and not _is_utf8(value):
        return Fault(row, "utf8", "invalid UTF-8")
    if not any_value and value[0] != _OBJECT:
        return Fault(row, "not_object", f"an object is due, this is {_NAMES.get(value[0], 'a number')}")
    if value.count(b"{") + value.count(b"[") > limits.max_depth and depth_of(value) > limits.max_depth:
        return _too_deep(row, limits)
    return None


def depth_of(value: bytes) -> int:
    """Levels of nesting of well-formed JSON: 1 for `{}`, 0 for a scalar."""
    signs = np.frombuffer(_STRINGS.sub(b"", value), np.uint8)
    steps = np.isin(signs, (0x5B, 0x7B)).astype(np.int32) - np.isin(signs, (0x5D, 0x7D))
    return int(np.cumsum(steps).max(initial=0))


def _too_large(row: int, limits: Limits) -> Fault:
    return Fault(row, "too_large", f"the event is larger than {limits.max_event} bytes")


def _too_deep(row: int, limits: Limits) -> Fault:
    return Fault(row, "depth", f"nested deeper than {limits.max_depth} levels")


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _reason(error: msgspec.DecodeError) -> str:
    """msgspec's message, which names what is wrong and the byte, and never the payload."""
    return str(error).removeprefix("JSON is malformed: ")


def _row(fault: Fault) -> int:
    return fault.row
