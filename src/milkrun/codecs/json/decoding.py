"""The plain-Python decoder: a column of JSON texts to typed columns, all of a batch at once, each bad row by itself.

Every chunk goes the fast way: msgspec parses, `Builder` makes columns, and bytes are counted to find duplicate keys. Rows that
this way can't take are judged by `exact`; those that are right after all get columns of their own, put in their places.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from milkrun.codecs.json.builder import EMPTY, Builder, count_keys
from milkrun.codecs.json.exact import Exact, convert
from milkrun.codecs.json.faults import RowError, errors_batch
from milkrun.codecs.json.plan import Path, Plan
from milkrun.codecs.json.reading import Reading
from milkrun.codecs.json.rest import count_unknown, rest_name, rest_of
from milkrun.codecs.json.screen import Screen, offsets_of, screen
from milkrun.codecs.json.text import parse
from milkrun.model.schema import json_field

_CHUNK_ROWS = 512
_CHUNK_BYTES = 1 << 26
_UNPARSED = (msgspec.MsgspecError, ValueError, RecursionError)


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a column of events decodes to.

    `columns` has the schema's fields, every one nullable, and where asked for a last JSON column `_rest` (underscores are added
    until no field has that name): an object of the fields the schema lacks, nested ones by their path, list items by index, values
    of maps by key. `errors` (`ERRORS_SCHEMA`) has the rows that failed. `unknown` counts, by path with `[]` for list items and `{}`
    for values of maps, fields the schema lacks, where they hold more than null or an empty list; `duplicates` counts dropped keys;
    both over rows without an error.
    """

    columns: pa.RecordBatch
    errors: pa.RecordBatch
    unknown: Mapping[Path, int]
    duplicates: int


def decode(plan: Plan, values: pa.BinaryArray, reading: Reading) -> Decoded:
    """Decode a column of JSON objects; one that isn't read literally goes the slow way, row by row."""
    errors: dict[int, RowError] = {}
    unknown: Counter[Path] = Counter()
    duplicates = 0
    made: list[list[pa.Array]] = []
    for start, chunk in _chunks(plan, values, reading):
        columns = chunk.columns()
        made.append([*columns, chunk.rest()] if reading.rest else columns)
        errors.update((start + row, error) for row, error in chunk.errors.items())
        unknown.update(chunk.unknown)
        duplicates += chunk.duplicates
    arrays = [pa.concat_arrays(parts) for parts in zip(*made, strict=True)]
    batch = _batch(plan, arrays, len(values), rest=reading.rest)
    return Decoded(batch, errors_batch(errors), dict(unknown), duplicates)


def check(plan: Plan, values: pa.BinaryArray, max_depth: int) -> pa.RecordBatch:
    """The errors that `decode` would give."""
    errors: dict[int, RowError] = {}
    for start, chunk in _chunks(plan, values, Reading(max_depth=max_depth)):
        chunk.columns()
        errors.update((start + row, error) for row, error in chunk.errors.items())
    return errors_batch(errors)


def _batch(plan: Plan, arrays: list[pa.Array], rows: int, *, rest: bool) -> pa.RecordBatch:
    if not arrays:
        # A batch without columns knows its rows only if it comes from a struct.
        return pa.RecordBatch.from_struct_array(pa.array([{}] * rows, pa.struct([])))
    schema = plan.schema
    if rest:
        schema = schema.append(json_field(rest_name(schema.names)))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _chunks(plan: Plan, values: pa.BinaryArray, reading: Reading) -> Iterator[tuple[int, _Chunk]]:
    """The stretches decoded at a time (one at least) and where they start; what Python holds beside the columns is bounded by them."""
    offsets = offsets_of(values)
    start = 0
    while start < len(values) or start == 0:
        end = min(start + _CHUNK_ROWS, len(values))
        limit = int(offsets[start]) + _CHUNK_BYTES
        fitting = int(np.searchsorted(offsets[start + 1 : end + 1], limit, side="right"))
        size = min(end - start, max(1, fitting))
        yield start, _Chunk(plan, values.slice(start, size), reading)
        start += max(1, size)


@dataclass
class _Chunk:
    """A stretch of rows on its way to columns."""

    plan: Plan
    values: pa.BinaryArray
    reading: Reading
    errors: dict[int, RowError] = field(default_factory=dict)
    unknown: Counter[Path] = field(default_factory=Counter)
    duplicates: int = 0

    def columns(self) -> list[pa.Array]:
        """The schema's columns."""
        self._items: list[bytes | None] = self.values.to_pylist()
        seen = screen(self.values, self.reading.max_depth)
        rows, slow = self._parse(seen)
        raws = self._parse_raw(rows, slow)
        empty = sum([row is EMPTY for row in rows])
        builder = Builder(self.plan.root, rows, raws, empty)
        columns = builder.build()
        self._strange = builder.strange
        bad = builder.bad | set(slow)
        fixed = self._judge(sorted(bad))
        self._count_duplicates(rows, seen, bad, builder.keys)
        self._count_unknown(rows, builder)
        return self._put_together(columns, fixed) if bad else columns

    def _parse(self, seen: Screen) -> tuple[list[dict[str, Any]], list[int]]:
        """Each row's members, and the rows that must go the slow way."""
        if not self.reading.literal or self.plan.slow:
            slow = [row for row, item in enumerate(self._items) if item is not None]
            return [EMPTY] * len(self._items), slow
        items: Sequence[Any] = self._items
        if seen.deep.any():
            # Nothing that deep is given to a recursive parser before its depth is known.
            items = [b"" if deep else item for item, deep in zip(items, seen.deep.tolist(), strict=True)]
        found: list[Any] = parse_each(self.plan.parse, items)
        odd = [row for row, members in enumerate(found) if type(members) is not dict]
        for row in odd:
            found[row] = EMPTY
        return found, [row for row in odd if self._items[row] is not None]

    def _parse_raw(self, rows: list[dict[str, Any]], slow: list[int]) -> list[Any] | None:
        """Each row's open parts; rows in which they can't be told join the slow ones."""
        if self.plan.raw is None:
            return None
        wanted = [None if members is EMPTY else item for item, members in zip(self._items, rows, strict=True)]
        found = parse_each(self.plan.raw, wanted)
        for row, raw in enumerate(found):
            if raw is None and rows[row] is not EMPTY:
                rows[row] = EMPTY
                slow.append(row)
        return found

    def _judge(self, bad: Sequence[int]) -> dict[int, Exact]:
        """The bad rows that are right after all; the others become errors."""
        fixed: dict[int, Exact] = {}
        for row in bad:
            value = self._items[row]
            assert value is not None
            try:
                fixed[row] = convert(value, self.plan.root, self.reading)
            except RowError as error:
                self.errors[row] = error
        self.duplicates += sum(exact.duplicates for exact in fixed.values())
        return fixed

    def _put_together(self, columns: list[pa.Array], fixed: dict[int, Exact]) -> list[pa.Array]:
        """The columns with the judged rows in their places: null, or as judged."""
        failed = np.zeros(len(self.values), np.bool_)
        failed[list(self.errors)] = True
        if self.errors:
            columns = [nulled(column, failed) for column in columns]
        if not fixed:
            return columns
        builder = Builder(self.plan.root, [exact.members for exact in fixed.values()], None, 0)
        extra = builder.build()
        if builder.bad:
            raise AssertionError("a row judged right doesn't fit its columns")
        self._strange = self._strange or builder.strange
        self.unknown.update(builder.unknown)
        order = np.arange(len(self.values))
        order[list(fixed)] = np.arange(len(fixed)) + len(self.values)
        indices = pa.array(order)
        return [
            pa.concat_arrays([column, more]).take(indices)
            for column, more in zip(columns, extra, strict=True)
        ]

    def _count_duplicates(
        self, rows: Sequence[dict[str, Any]], seen: Screen, bad: set[int], keys: int
    ) -> None:
        """Every key written is a key kept, or there are duplicates: then they are counted row by row."""
        written, loose = seen.keys, seen.loose
        taken = np.array([members is not EMPTY for members in rows], np.bool_)
        if not loose.any() and int(written[taken].sum()) == keys:
            return
        for row in np.flatnonzero(taken).tolist():
            value = self._items[row]
            if row in bad or value is None:
                continue
            if loose[row] or written[row] != count_keys(rows[row]):
                self.duplicates += parse(value, self.reading.max_depth).duplicates

    def _count_unknown(self, rows: Sequence[dict[str, Any]], builder: Builder) -> None:
        if builder.unknown and builder.bad:
            for row, members in enumerate(rows):
                if row not in builder.bad:
                    count_unknown(members, self.plan.root, self.unknown)
        else:
            self.unknown.update(builder.unknown)

    def rest(self) -> pa.StringArray:
        """The fields the schema lacks, as JSON; null where a row has none. Called after `columns`."""
        if not self._strange and not self.reading.ignore_case:
            return pa.nulls(len(self._items), pa.string())
        return pa.array(
            [
                None
                if item is None or row in self.errors
                else rest_of(item, self.plan.root, self.reading.ignore_case)
                for row, item in enumerate(self._items)
            ],
            pa.string(),
        )


def parse_each(parse: Callable[[bytes], Any], items: Sequence[Any]) -> list[Any]:
    """Each item parsed; None where it is None or can't be."""
    found: list[Any] = []
    append = found.append
    waiting = iter(items)
    while True:
        try:
            for item in waiting:
                append(None if item is None else parse(item))
            return found
        except _UNPARSED:
            append(None)


def nulled(column: pa.Array, failed: np.ndarray[Any, np.dtype[np.bool_]]) -> pa.Array:
    """The column, null also where `failed`. What required members below a null struct hold stays as it is."""
    mask = failed if not column.null_count else failed | column.is_null().to_numpy(zero_copy_only=False)
    kind = column.type
    if pa.types.is_struct(kind) and kind.num_fields:
        members = [column.field(index) for index in range(kind.num_fields)]
        return pa.StructArray.from_arrays(members, fields=list(kind), mask=pa.array(mask))
    if pa.types.is_list(kind):
        return pa.ListArray.from_arrays(column.offsets, column.values, type=kind, mask=pa.array(mask))
    if pa.types.is_map(kind):
        return pa.MapArray.from_arrays(
            column.offsets, column.keys, column.items, type=kind, mask=pa.array(mask)
        )
    return pc.if_else(pa.array(mask), pa.scalar(None, kind), column)
