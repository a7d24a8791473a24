"""Columns from the parsed events of one chunk, a field at a time: a pass of C over each column instead of Python over each value.

Rows with a value that a column can't take are named in `bad` and have no meaning in the result; `exact` judges them afterwards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa

from milkrun.codecs.json.leaves import Leaf
from milkrun.codecs.json.plan import ITEM, VALUE, Node, Path, Shape

EMPTY: dict[str, Any] = {}
"""Stands for an object that isn't there: a null row, a failed row, a null member."""

_NONE = type(None)
_WRONG = (ValueError, OverflowError, pa.ArrowException)

Raws = list[Any] | None
"""Parallel to values: the struct of open parts (`Plan.raw`), the list of them, or the raw bytes; None with the text in the values."""


class Builder:
    """The columns of one chunk.

    `rows` are the events' members, `EMPTY` itself for the `empty` rows that are to be null. After `build`: `bad` has the rows to be
    judged, `keys` the number of keys seen (as against those written, which tells duplicates), `strange` whether there are fields
    that the plan lacks, and `unknown` how often those came that say something.
    """

    def __init__(self, root: Node, rows: Sequence[dict[str, Any]], raws: Raws, empty: int) -> None:
        self._root = root
        self._rows = rows
        self._raws = raws
        self._empty = empty
        self.bad: set[int] = set()
        self.keys = 0
        self.strange = False
        self.unknown: Counter[Path] = Counter()

    def build(self) -> list[pa.Array]:
        """A column for each field of the root."""
        return self._members(self._root, self._rows, self._raws, self._empty)

    def _members(
        self, node: Node, dicts: Sequence[dict[str, Any]], raws: Raws, absent: int
    ) -> list[pa.Array]:
        """The columns of an object's fields; `absent` of the `dicts` stand for objects that aren't there."""
        written = sum(map(len, dicts))
        self.keys += written
        columns, complete = [], True
        for child in node.children:
            try:
                values: list[Any] = list(map(itemgetter(child.name), dicts))
            except KeyError:
                values = [each.get(child.name) for each in dicts]
                complete = False
            self._check_presence(child, dicts, values, absent)
            held = _opened(raws, node, child)
            columns.append(self._column(child, values, held, absent))
        if not complete or len(dicts) * len(node.children) != written:
            self._note_unknown(node, dicts)
        return columns

    def _note_unknown(self, node: Node, dicts: Sequence[dict[str, Any]]) -> None:
        strange = set().union(*dicts) - node.names
        self.strange = self.strange or bool(strange)
        for name in sorted(strange):
            values = [each[name] for each in dicts if name in each]
            self.keys += sum(map(count_keys, values))
            told = sum(value is not None and value != [] for value in values)
            if told:
                self.unknown[(*node.path, name)] += told
        if strange and node.closed:
            self._blame(node, lambda value: type(value) is not dict or node.names.issuperset(value))

    def _check_presence(
        self, node: Node, dicts: Sequence[dict[str, Any]], values: list[Any], absent: int
    ) -> None:
        if not (node.required or node.no_null or node.present) or None not in values:
            return
        missing = len(dicts) - sum([node.name in each for each in dicts])
        nulls = values.count(None) - missing
        if (node.required and missing + nulls > absent) or (node.no_null and nulls):
            self._blame_parents(
                node,
                lambda parent: (
                    parent.get(node.name) is not None
                    or (node.no_null and not node.required and node.name not in parent)
                ),
            )
        if node.present and missing > absent:
            self._blame_parents(node, lambda parent: node.name in parent)

    def _column(self, node: Node, values: list[Any], raws: Raws, absent: int) -> pa.Array:
        if node.shape is Shape.LEAF:
            assert node.leaf is not None
            return self._leaf(node, node.leaf, values)
        if node.shape is Shape.STRUCT:
            return self._struct(node, values, raws)
        if node.shape is Shape.LIST:
            return self._list(node, values, raws)
        if node.shape is Shape.MAP:
            return self._map(node, values, raws)
        return self._open(node, values, raws)

    def _leaf(self, node: Node, leaf: Leaf, values: list[Any]) -> pa.Array:
        kinds = set(map(type, values))
        if not kinds <= leaf.takes | {_NONE}:
            self._blame(node, lambda value: value is None or type(value) in leaf.takes)
            values = [value if type(value) in leaf.takes else None for value in values]
        if node.required and node.path[1:] and None in values:
            values = [leaf.zero if value is None else value for value in values]
        try:
            return leaf.column(values)
        except _WRONG:
            self._blame(
                node, lambda value: value is None or type(value) not in leaf.takes or leaf.good(value)
            )
            spare = leaf.zero if node.required and node.path[1:] else None
            return leaf.column(
                [value if value is not None and leaf.good(value) else spare for value in values]
            )

    def _struct(self, node: Node, values: list[Any], raws: Raws) -> pa.Array:
        values, absent = self._of_type(node, dict, values, EMPTY)
        columns = self._members(node, values, raws, len(absent))
        if not node.children:
            return pa.array([{}] * len(values), node.type)
        mask = None if not absent or (node.required and node.path[1:]) else _mask(len(values), absent)
        return pa.StructArray.from_arrays(columns, fields=list(node.type), mask=mask)

    def _list(self, node: Node, values: list[Any], raws: Raws) -> pa.Array:
        values, absent = self._of_type(node, list, values, [])
        flat = list(chain.from_iterable(values))
        inner = None if raws is None else list(chain.from_iterable(raw or () for raw in raws))
        column = self._held(node.children[0], flat, inner)
        mask = None if not absent or (node.required and node.path[1:]) else _mask(len(values), absent)
        return pa.ListArray.from_arrays(_offsets(values), column, type=node.type, mask=mask)

    def _map(self, node: Node, values: list[Any], raws: Raws) -> pa.Array:
        values, absent = self._of_type(node, dict, values, EMPTY)
        keys = pa.array(list(chain.from_iterable(values)), pa.string())
        self.keys += len(keys)
        flat = list(chain.from_iterable(each.values() for each in values))
        inner = (
            None if raws is None else list(chain.from_iterable(raw.values() if raw else () for raw in raws))
        )
        column = self._held(node.children[0], flat, inner)
        mask = None if not absent or (node.required and node.path[1:]) else _mask(len(values), absent)
        return pa.MapArray.from_arrays(_offsets(values), keys, column, type=node.type, mask=mask)

    def _held(self, node: Node, values: list[Any], raws: Raws) -> pa.Array:
        """The items of all lists, or the values of all maps: where there is none, nothing stands for it."""
        if (node.required or node.no_null) and None in values:
            self._blame(node, lambda value: value is not None)
        return self._column(node, values, raws, 0)

    def _of_type(self, node: Node, due: type, values: list[Any], spare: Any) -> tuple[list[Any], list[int]]:
        """The values with `spare` where they aren't of the type `due`, and at which indexes that is."""
        kinds = set(map(type, values))
        if kinds <= {due}:
            return values, []
        if kinds - {due, _NONE}:
            self._blame(node, lambda value: value is None or type(value) is due)
        absent = [index for index, value in enumerate(values) if type(value) is not due]
        values = list(values)
        for index in absent:
            values[index] = spare
        return values, absent

    def _open(self, node: Node, values: list[Any], raws: Raws) -> pa.Array:
        if raws is None:
            return pa.array(values, pa.string())
        due = node.must_be
        if due is not None and not set(map(type, values)) <= {due, _NONE}:
            self._blame(node, lambda value: value is None or type(value) is due)
        self.keys += sum([count_keys(value) for value in values if type(value) in (dict, list)])
        texts = [
            None if value is None or raw is None else bytes(raw)
            for value, raw in zip(values, raws, strict=True)
        ]
        if node.required and node.path[1:] and None in texts:
            texts = [b"null" if text is None else text for text in texts]
        return pa.array(texts, pa.string())

    def _blame(self, node: Node, fine: Callable[[Any], bool]) -> None:
        """Name the rows that have a value at the node's path for which `fine` is false."""
        for row, members in enumerate(self._rows):
            if members is not EMPTY and not all(map(fine, values_at(members, node.path))):
                self.bad.add(row)

    def _blame_parents(self, node: Node, fine: Callable[[dict[str, Any]], bool]) -> None:
        """Name the rows in which an object that may hold the node is one for which `fine` is false."""
        for row, members in enumerate(self._rows):
            parents = () if members is EMPTY else values_at(members, node.path[:-1])
            if not all(type(parent) is not dict or fine(parent) for parent in parents):
                self.bad.add(row)


def values_at(value: Any, path: Path) -> list[Any]:
    """Every value at a path below `value`; where the way breaks off there is none."""
    found = [value]
    for step in path:
        below: list[Any] = []
        for each in found:
            if type(each) is list and step == ITEM:
                below += each
            elif type(each) is dict and step == VALUE:
                # Of an object that has a field of this name its other values come along: who asks is told too much, never too little.
                below += each.values()
            elif type(each) is dict and step in each:
                below.append(each[step])
        found = below
    return found


def count_keys(value: Any) -> int:
    """Keys of all objects within a parsed value."""
    total, waiting = 0, [value]
    while waiting:
        each = waiting.pop()
        if type(each) is dict:
            total += len(each)
            waiting.extend(each.values())
        elif type(each) is list:
            waiting.extend(each)
    return total


def _opened(raws: Raws, node: Node, child: Node) -> Raws:
    """The open parts of one field of objects."""
    if raws is None or not child.opens:
        return None
    attribute = node.raw_names[child.name]
    return [None if raw is None else getattr(raw, attribute) for raw in raws]


def _offsets(values: list[Any]) -> pa.Array:
    """Where each of the values ends among the items of all, and before the first a zero."""
    offsets = np.zeros(len(values) + 1, np.int32)
    np.cumsum(list(map(len, values)), out=offsets[1:])
    return pa.array(offsets)


def _mask(size: int, absent: list[int]) -> pa.BooleanArray:
    mask = np.zeros(size, np.bool_)
    mask[absent] = True
    return pa.array(mask)
