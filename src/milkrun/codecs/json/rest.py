"""What a schema doesn't name: counted, and kept as JSON for the rest column, byte for byte as the producer wrote it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

import msgspec

from milkrun.codecs.json.plan import Node, Path, Shape
from milkrun.codecs.json.text import BOM

_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])
_ENCODER = msgspec.json.Encoder()
_NESTED = (Shape.STRUCT, Shape.LIST, Shape.MAP)


def rest_name(names: Collection[str]) -> str:
    """`_rest`, with as many underscores after it as it takes to differ from all names."""
    name = "_rest"
    while name in names:
        name += "_"
    return name


def rest_of(value: bytes, root: Node, ignore_case: bool = False) -> str | None:
    """The JSON object of the fields that the schema lacks; None where there are none. `value` must have been decoded well."""
    rest = _struct_rest(value.removeprefix(BOM), root, ignore_case)
    return _ENCODER.encode(rest).decode() if rest else None


def _struct_rest(text: bytes | msgspec.Raw, node: Node, ignore_case: bool) -> dict[str, Any]:
    # Of fields that differ only in case the first one takes what no field has exactly.
    folded = {child.name.lower(): child.name for child in reversed(node.children)} if ignore_case else {}
    rest: dict[str, Any] = {}
    for name, raw in _MEMBERS.decode(text).items():
        child = node.by_name.get(name) or node.by_name.get(folded.get(name.lower(), name))
        if child is None:
            rest[name] = raw
            continue
        below = _below(raw, child, ignore_case)
        if below:
            rest[name] = below
    return rest


def _below(raw: msgspec.Raw, node: Node, ignore_case: bool) -> dict[str, Any]:
    if node.shape not in _NESTED or bytes(raw) == b"null":
        return {}
    if node.shape is Shape.STRUCT:
        return _struct_rest(raw, node, ignore_case)
    item = node.children[0]
    if item.shape not in _NESTED:
        return {}
    parts: Iterable[tuple[str, msgspec.Raw]]
    if node.shape is Shape.MAP:
        parts = _MEMBERS.decode(raw).items()
    else:
        parts = ((str(index), part) for index, part in enumerate(_ITEMS.decode(raw)))
    each = ((name, _below(part, item, ignore_case)) for name, part in parts)
    return {name: rest for name, rest in each if rest}


def count_unknown(value: Any, node: Node, counter: Counter[Path]) -> None:
    """Count the fields of one parsed event that the schema lacks and that say something of their type."""
    if node.shape is Shape.LIST and type(value) is list:
        for item in value:
            count_unknown(item, node.children[0], counter)
    elif node.shape is Shape.MAP and type(value) is dict:
        for member in value.values():
            count_unknown(member, node.children[0], counter)
    elif node.shape is Shape.STRUCT and type(value) is dict:
        for name, member in value.items():
            child = node.by_name.get(name)
            if child is not None:
                count_unknown(member, child, counter)
            elif member is not None and member != []:
                counter[(*node.path, name)] += 1
