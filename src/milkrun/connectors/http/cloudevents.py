"""CloudEvents 1.0 over HTTP: context attributes out of a JSON event, or out of `ce-` headers in binary mode.

Facts from the CloudEvents specification 1.0.2, its JSON event format and its HTTP protocol binding.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import unquote_to_bytes

import msgspec
import pyarrow as pa

from milkrun.connectors.http.rows import CloudEvent, Rows
from milkrun.plugin import Fault

MAX_ID = 512
"""Characters of an event's id: the window of ids seen keeps them all."""

_REQUIRED = ("specversion", "id", "source", "type")
_ESCAPED = re.compile(rb"\\(.)")
_DECODER = msgspec.json.Decoder(CloudEvent)


class _Wrong(Exception):
    """What keeps an event from being a CloudEvent."""


def read_attributes(rows: Rows) -> None:
    """Fill in the attributes of rows that are CloudEvents as JSON; rows that aren't become faults."""
    wrong = {fault.row for fault in rows.faults}
    events: list[CloudEvent | None] = []
    for row, value in enumerate(rows.values.to_pylist()):
        event = None
        if row not in wrong:
            try:
                event = _checked(_DECODER.decode(value))
            except (msgspec.DecodeError, UnicodeDecodeError, _Wrong) as error:
                rows.faults.append(Fault(row, "cloudevent", f"no CloudEvent 1.0: {error}"))
        events.append(event)
    rows.events = events
    rows.ids = pa.array([event.id if event else None for event in events], pa.string())


def read_headers(rows: Rows, headers: Mapping[bytes, bytes]) -> None:
    """Fill in the attributes of the one row that is a CloudEvent's data: from the headers, which are also kept with the event as
    `ce.<attribute>`; the media type as `ce.datacontenttype`.
    """
    event = None
    try:
        attributes = {
            name[3:].decode("latin-1"): _value(name, value)
            for name, value in headers.items()
            if name.startswith(b"ce-") and len(name) > 3
        }
        rows.headers = [(f"ce.{name}", value.encode()) for name, value in attributes.items()]
        if b"content-type" in headers:
            rows.headers.append(("ce.datacontenttype", headers[b"content-type"]))
        event = _from_headers(attributes)
    except _Wrong as error:
        rows.faults.append(Fault(0, "cloudevent", f"no CloudEvent 1.0: {error}"))
    rows.events = [event]
    rows.ids = pa.array([event.id if event else None], pa.string())


def _from_headers(attributes: Mapping[str, str]) -> CloudEvent:
    for name in _REQUIRED:
        if name not in attributes:
            raise _Wrong(f"the header ce-{name} is missing")
    names = (*_REQUIRED, "subject", "time")
    return _checked(CloudEvent(**{name: attributes[name] for name in names if name in attributes}))


def _checked(event: CloudEvent) -> CloudEvent:
    if event.specversion != "1.0":
        raise _Wrong("specversion is not 1.0")
    for name in ("id", "source", "type"):
        if not getattr(event, name):
            raise _Wrong(f"{name} is empty")
    if len(event.id) > MAX_ID:
        raise _Wrong(f"id is longer than {MAX_ID} characters")
    return event


def _value(name: bytes, value: bytes) -> str:
    """An attribute's value from its header (HTTP binding 3.1.3.2): quotes removed, then percent-decoded once, as UTF-8."""
    if len(value) > 1 and value[:1] == value[-1:] == b'"':
        value = _ESCAPED.sub(rb"\1", value[1:-1])
    try:
        return unquote_to_bytes(value).decode()
    except UnicodeDecodeError:
        raise _Wrong(f"the header {name.decode('latin-1')} is no UTF-8 after percent-decoding") from None
