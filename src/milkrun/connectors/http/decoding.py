"""From a request's body to rows: cut by the runtime's splitter, the events' bytes untouched.

What keeps events from being told apart, and what is too large or too deep, is found here; the rest that the collector owes whoever sent
them (RFC 8259, UTF-8) the runtime finds, as for every source, and it comes back with the outcome. An event that fails is a fault, the
others go on; where events can't be told apart, the whole body is one row with a fault.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import numpy as np
import pyarrow as pa

from milkrun.connectors.http import cloudevents
from milkrun.connectors.http.forms import Form
from milkrun.connectors.http.refusals import Refusal
from milkrun.connectors.http.rows import Rows
from milkrun.model.errors import Refused
from milkrun.plugin import Fault, Splitter

VALUES_PER_EVENT = 200
"""Commas an event may have on average where a request is as full as can be. Telling elements apart takes memory for each of them, and they
can only be counted afterwards: no more may be there than this allows."""

COUNTED_AFTER = 20
"""Commas an event may have on average before the elements are counted by themselves, without saying of each that it is no event."""

BLANK_LINES = 10
_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])
_ONE = msgspec.json.Decoder(msgspec.Raw)
_BOM = b"\xef\xbb\xbf"
_WHITE = b" \t\r\n"
_HALF_PAIR = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})|"
    rb"(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)
_STRINGS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Limits:
    """Of each event its bytes and levels; of a request its events."""

    max_event: int
    max_events: int
    max_depth: int


def decode(body: bytes, form: Form, headers: Mapping[bytes, bytes], limits: Limits, split: Splitter) -> Rows:
    """The events of a body. Refusal 400 where it is empty, 413 where it has more than `max_events`."""
    if form is Form.BINARY or form is Form.BINARY_JSON:
        return _binary(body, form, headers, limits)
    body = body.removeprefix(_BOM)
    if form is Form.LINES:
        _check_pieces(body, b"\n", limits.max_events * BLANK_LINES, limits)
        return _cut(body, limits, split, lines=True)
    body = body.strip(_WHITE)
    if not body:
        raise Refusal(400, "empty", "the body is empty; send an event")
    rows = _json(body, form, limits, split)
    if form in (Form.STRUCTURED, Form.BATCH) and not rows.unparsed:
        cloudevents.read_attributes(rows)
    return rows


def _json(body: bytes, form: Form, limits: Limits, split: Splitter) -> Rows:
    is_array = body.startswith(b"[")
    if form is Form.STRUCTURED and is_array:
        message = "a CloudEvent is an object; send arrays as application/cloudevents-batch+json"
        return _whole(body, "not_object", message)
    if form is Form.BATCH and not is_array:
        return _whole(body, "not_array", "an array of CloudEvents is due")
    if is_array:
        _check_items(body, limits)
    elif (wrong := _malformed(body, limits)) is not None:
        return _whole(body, *wrong)
    elif body.startswith(b"{") and len(body) <= limits.max_event and _is_flat(body, limits.max_depth):
        # As splitting would say, which is made for many events and costs a single one more.
        return Rows(pa.array([body], pa.binary()))
    try:
        return _cut(body, limits, split)
    except Refused as refused:
        return _whole(body, *(_malformed(body, limits) or ("syntax", str(refused))))


def _cut(body: bytes, limits: Limits, split: Splitter, *, lines: bool = False) -> Rows:
    found = split(body, lines=lines, max_event_bytes=limits.max_event, max_depth=limits.max_depth)
    _check_count(len(found.values), limits)
    return Rows(found.values, list(found.faults), validated=found.validated)


def _malformed(body: bytes, limits: Limits) -> tuple[str, str] | None:
    """Why a body is no JSON text, if it isn't: code and message."""
    try:
        _ONE.decode(body)
    except RecursionError:
        return "depth", _too_deep(limits)
    except msgspec.DecodeError as error:
        # msgspec takes half a pair for a text that ends too soon. Where backslashes are escaped, what follows one may be no escape.
        half = _HALF_PAIR.search(body)
        if half is not None and b"\\\\" not in body:
            return "syntax", f"half of a surrogate pair stands alone at byte {half.start()}; send both halves"
        return "syntax", _reason(error)
    return None


def _binary(body: bytes, form: Form, headers: Mapping[bytes, bytes], limits: Limits) -> Rows:
    rows = Rows(pa.array([body], pa.binary()))
    cloudevents.read_headers(rows, headers)
    if not rows.faults and len(body) > limits.max_event:
        rows.faults.append(
            Fault(0, "too_large", f"{len(body)} bytes; an event may have at most {limits.max_event}")
        )
    if not rows.faults and form is Form.BINARY_JSON and (wrong := _wrong_data(body, limits)) is not None:
        rows.faults.append(Fault(0, *wrong))
    return rows


def _wrong_data(body: bytes, limits: Limits) -> tuple[str, str] | None:
    """What is wrong with data that its sender calls JSON; it needn't be an object."""
    wrong = _malformed(body.removeprefix(_BOM), limits)
    if wrong is not None:
        return wrong
    if not _is_utf8(body):
        return "utf8", "not valid UTF-8"
    if _is_flat(body, limits.max_depth) or depth_of(body) <= limits.max_depth:
        return None
    return "depth", _too_deep(limits)


def _check_items(body: bytes, limits: Limits) -> None:
    """Refuse an array of far too many elements before anything is made of them."""
    _check_pieces(body, b",", limits.max_events * VALUES_PER_EVENT, limits)
    if not _has_more(body, b",", limits.max_events * COUNTED_AFTER):
        return
    try:
        _check_count(len(_ITEMS.decode(body)), limits)
    except (msgspec.DecodeError, RecursionError):
        # What is wrong the splitter finds.
        return


def _check_pieces(body: bytes, separator: bytes, most: int, limits: Limits) -> None:
    if _has_more(body, separator, most):
        raise Refusal(
            413,
            "too_many_events",
            f"the request has far more values than {limits.max_events} events have; nothing was kept, send less at a time",
        )


def _has_more(body: bytes, separator: bytes, most: int) -> bool:
    return len(body) > most and body.count(separator) > most


def _check_count(count: int, limits: Limits) -> None:
    if count > limits.max_events:
        raise Refusal(
            413,
            "too_many_events",
            f"the request has {count} events, more than {limits.max_events}; nothing was kept, send fewer at a time",
        )


def _whole(body: bytes, code: str, message: str) -> Rows:
    return Rows(pa.array([body], pa.binary()), [Fault(0, code, message)], unparsed=True)


def _is_flat(body: bytes, levels: int) -> bool:
    """Whether there are too few brackets for more than so many levels."""
    return body.count(b"{") + body.count(b"[") <= levels


def depth_of(value: bytes) -> int:
    """Levels of nesting of well-formed JSON: 1 for `{}`, 0 for a scalar."""
    signs = np.frombuffer(_STRINGS.sub(b"", value), np.uint8)
    steps = np.isin(signs, (0x5B, 0x7B)).astype(np.int32) - np.isin(signs, (0x5D, 0x7D))
    return int(np.cumsum(steps).max(initial=0))


def _too_deep(limits: Limits) -> str:
    return f"nested deeper than {limits.max_depth} levels"


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _reason(error: msgspec.DecodeError) -> str:
    """msgspec's message, which names what is wrong and the byte, and never the payload."""
    return str(error).removeprefix("JSON is malformed: ")
