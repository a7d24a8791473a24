"""In which form a request carries events, told from its headers: media type, CloudEvents mode, content encoding."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from functools import lru_cache

from milkrun.connectors.http.refusals import Refusal


class Form(Enum):
    """How a body is to be read."""

    JSON = "one JSON object, or an array of them"
    LINES = "NDJSON"
    STRUCTURED = "a CloudEvent"
    BATCH = "an array of CloudEvents"
    BINARY_JSON = "the data of a CloudEvent whose attributes are in headers, JSON"
    BINARY = "the data of a CloudEvent whose attributes are in headers, of any type"


CE_HEADERS = (b"ce-specversion", b"ce-id", b"ce-type", b"ce-source")
_ACCEPTED = (
    "application/json, application/x-ndjson, application/jsonl, application/cloudevents+json or "
    "application/cloudevents-batch+json"
)
_BY_TYPE = {
    b"application/json": Form.JSON,
    b"text/json": Form.JSON,
    b"application/x-ndjson": Form.LINES,
    b"application/ndjson": Form.LINES,
    b"application/jsonl": Form.LINES,
    b"application/x-jsonlines": Form.LINES,
    b"application/cloudevents+json": Form.STRUCTURED,
    b"application/cloudevents-batch+json": Form.BATCH,
}
_CHARSET = re.compile(rb';\s*charset\s*=\s*"?([^\s";]+)', re.IGNORECASE)
_ENCODINGS = {b"": None, b"identity": None, b"gzip": "gzip", b"x-gzip": "gzip", b"zstd": "zstd"}


def form_of(headers: Mapping[bytes, bytes]) -> Form:
    """The form of a request's body. Refusal 415 where it is none of those known.

    A request without media type is none, CloudEvents in binary mode apart: a web page may send such a request to any address without
    asking, and must not reach a collector that has no keys.
    """
    content_type = headers.get(b"content-type", b"")
    form = _form(content_type[:256])
    is_event = form not in (Form.STRUCTURED, Form.BATCH) and any(name in headers for name in CE_HEADERS)
    if is_event:
        return _binary(content_type)
    if form is None:
        raise Refusal(415, "media_type", f"send content-type {_ACCEPTED}")
    return form


def encoding_of(headers: Mapping[bytes, bytes]) -> str | None:
    """`gzip`, `zstd`, or None for none. Refusal 415 where it is another."""
    encoding = headers.get(b"content-encoding")
    if encoding is None:
        return None
    try:
        return _ENCODINGS[encoding.strip().lower()]
    except KeyError:
        extra = ((b"accept-encoding", b"gzip, zstd"),)
        raise Refusal(415, "encoding", "send content-encoding gzip or zstd, or none", extra=extra) from None


@lru_cache(maxsize=64)
def _form(content_type: bytes) -> Form | None:
    kind = _media_type(content_type)
    form = _BY_TYPE.get(kind)
    if form is None and _is_json(kind):
        form = Form.JSON
    charset = _CHARSET.search(content_type)
    if form is not None and charset and charset[1].lower() not in (b"utf-8", b"utf8", b"us-ascii"):
        raise Refusal(415, "charset", "send JSON in UTF-8 (RFC 8259, section 8.1)")
    return form


def _binary(content_type: bytes) -> Form:
    """JSON must be JSON where the sender says that it is; without a type nothing is promised."""
    return Form.BINARY_JSON if _is_json(_media_type(content_type)) else Form.BINARY


def _is_json(kind: bytes) -> bool:
    plain = kind in (b"application/json", b"text/json") or kind.endswith(b"+json")
    return plain and not kind.startswith(b"application/cloudevents")


def _media_type(content_type: bytes) -> bytes:
    return content_type.partition(b";")[0].strip().lower()
