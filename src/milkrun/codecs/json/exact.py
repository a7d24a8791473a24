"""One event at a time against a plan, exactly: the judge of every row that the column builder can't take as it stands.

Gives an event whose values the column builder takes for certain, or the reason why the row fails.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from milkrun.codecs.json.faults import Code, RowError, Steps
from milkrun.codecs.json.plan import Node, Shape
from milkrun.codecs.json.reading import LITERALLY, Reading
from milkrun.codecs.json.text import Parsed, first_written, kind_of, offset_of, parse, text_at

_MISSING = object()


@dataclass(frozen=True, slots=True)
class Exact:
    """An event for the column builder: values converted, open parts as their text, unknown fields as they were parsed."""

    members: dict[str, Any]
    duplicates: int


def convert(value: bytes, root: Node, reading: Reading = LITERALLY) -> Exact:
    """The event by the plan whose root is `root`. Raises RowError with a byte offset."""
    parsed = parse(value, reading.max_depth)
    conversion = _Conversion(parsed, reading)
    try:
        members = conversion.struct(parsed.members, root, ())
    except RowError as error:
        if error.offset is None:
            error.offset = offset_of(parsed, error.steps)
        raise
    return Exact(members, parsed.duplicates + conversion.folded)


class _Conversion:
    """The conversion of one event. `folded` counts keys that only differ in case from another of the same field."""

    def __init__(self, parsed: Parsed, reading: Reading) -> None:
        self._parsed = parsed
        self._reading = reading
        self.folded = 0

    def struct(self, members: dict[str, Any], node: Node, steps: Steps) -> dict[str, Any]:
        """The members of an object under the names of the schema; in the order of the document, so that the first error is."""
        keys = self._keys(members, node) if self._reading.ignore_case else {}
        converted: dict[str, Any] = {}
        for key, value in members.items():
            name = keys.get(key, key)
            child = node.by_name.get(name)
            if child is not None:
                converted[name] = self._member(value, child, (*steps, key))
            elif node.closed:
                raise RowError(Code.UNKNOWN_FIELD, "the schema has no such field here", (*steps, key))
            else:
                converted[key] = value
        for child in node.children:
            if child.name not in converted and (child.required or child.present):
                raise RowError(Code.REQUIRED, "missing, and the schema requires it", (*steps, child.name))
        return converted

    def _keys(self, members: dict[str, Any], node: Node) -> dict[str, str]:
        """Which field each key of another spelling means; of several keys for one field only the last is left in `members`."""
        folded = {name.lower(): name for name in reversed([child.name for child in node.children])}
        last: dict[str, str] = {}
        for key in list(members):
            name = key if key in node.names else folded.get(key.lower())
            if name is None:
                continue
            if name in last:
                del members[last[name]]
                self.folded += 1
            last[name] = key
        return {key: name for name, key in last.items()}

    def _member(self, value: Any, node: Node, steps: Steps) -> Any:
        if value is None:
            if node.required:
                raise RowError(Code.REQUIRED, "null, and the schema requires a value", steps)
            if node.no_null:
                raise RowError(Code.TYPE, "null, which the schema doesn't allow", steps)
            return None
        if node.shape is Shape.LEAF:
            return self._scalar(value, node, steps)
        if node.shape is Shape.JSON:
            return self._open(value, node, steps)
        due: type = list if node.shape is Shape.LIST else dict
        _demand(value, due, steps)
        if node.shape is Shape.STRUCT:
            return self.struct(value, node, steps)
        item = node.children[0]
        if node.shape is Shape.MAP:
            keys = self._in_order(value, steps)
            return {key: self._member(value[key], item, (*steps, key)) for key in keys}
        return [self._member(each, item, (*steps, index)) for index, each in enumerate(value)]

    def _in_order(self, members: dict[str, Any], steps: Steps) -> Iterable[str]:
        """The keys of a map, one that was written again in the place of its first: as the quick way has them."""
        return first_written(text_at(self._parsed, steps)) if self._parsed.duplicates else members

    def _scalar(self, value: Any, node: Node, steps: Steps) -> Any:
        assert node.leaf is not None
        try:
            if self._reading.coerce:
                value = node.leaf.coerced(value, lambda: text_at(self._parsed, steps))
            return node.leaf.exactly(value)
        except RowError as error:
            error.steps = steps
            raise

    def _open(self, value: Any, node: Node, steps: Steps) -> str:
        if node.must_be is not None:
            _demand(value, node.must_be, steps)
        return text_at(self._parsed, steps)


def _demand(value: Any, due: type, steps: Steps) -> None:
    if not isinstance(value, due):
        name = "an object" if due is dict else "an array"
        raise RowError(Code.TYPE, f"expected {name}, found {kind_of(value)}", steps)
