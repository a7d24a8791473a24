"""The rest column put back: fields that the schema lacks go behind the others of their objects, byte for byte as they are in it."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import pyarrow as pa

from milkrun.encoding.forms import Form, Kind
from milkrun.encoding.unfit import Unfit

NO_OBJECT = "is no JSON object"

_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])
_NAME = msgspec.json.Encoder()


def merged(texts: pa.BinaryArray, rests: pa.StringArray, form: Form) -> pa.BinaryArray:
    """The texts of objects with what the rest column has for each. Raises Unfit where it holds something else."""
    if rests.null_count == len(rests):
        return texts
    name = next(child.name for child in form.children if child.kind is Kind.REST)
    pairs = zip(texts.to_pylist(), rests.to_pylist(), strict=True)
    try:
        return pa.array(
            [
                text if text is None or rest is None else _object(text, rest.encode(), form)
                for text, rest in pairs
            ],
            pa.binary(),
        )
    except (msgspec.MsgspecError, RecursionError, ValueError):
        raise Unfit(name, NO_OBJECT) from None


def _object(text: bytes, rest: bytes, form: Form) -> bytes:
    members, more = _MEMBERS.decode(text), _MEMBERS.decode(rest)
    forms = {child.name: child for child in form.children if child.kind is not Kind.REST}
    written = [
        (name, _below(bytes(value), bytes(more[name]), forms[name]) if name in more else bytes(value))
        for name, value in members.items()
    ]
    written += [(name, bytes(value)) for name, value in more.items() if name not in forms]
    return _joined(written)


def _joined(members: Iterable[tuple[str, bytes]]) -> bytes:
    return b"{" + b",".join(_NAME.encode(name) + b":" + value for name, value in members) + b"}"


def _below(text: bytes, rest: bytes, form: Form) -> bytes:
    """The value with its rest, if it is of a kind that has one."""
    if text == b"null" or rest[:1] != b"{":
        return text
    if form.kind is Kind.STRUCT:
        return _object(text, rest, form)
    if form.kind is Kind.LIST:
        more = _MEMBERS.decode(rest)
        return b"[" + b",".join(_items(_ITEMS.decode(text), more, form.children[0])) + b"]"
    if form.kind is Kind.MAP:
        more = _MEMBERS.decode(rest)
        return _joined(_entries(_MEMBERS.decode(text), more, form.children[0]))
    return text


def _entries(
    entries: dict[str, msgspec.Raw], more: dict[str, msgspec.Raw], form: Form
) -> Iterable[tuple[str, bytes]]:
    """A map's, whose keys are distinct, as a decoded one's are."""
    for name, value in entries.items():
        rest = more.get(name)
        yield name, bytes(value) if rest is None else _below(bytes(value), bytes(rest), form)


def _items(items: Iterable[msgspec.Raw], more: dict[str, msgspec.Raw], form: Form) -> Iterable[bytes]:
    for index, item in enumerate(items):
        rest = more.get(str(index))
        yield bytes(item) if rest is None else _below(bytes(item), bytes(rest), form)
