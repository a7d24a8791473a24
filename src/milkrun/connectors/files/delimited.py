"""CSV and TSV: rows of RFC 4180 as JSON objects, made column by column.

A row with too few or too many fields, invalid UTF-8 or a field that isn't of its column's type is a fault of its own; the rows
around it are not touched. Rows reach this module already split, and their quotes checked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from milkrun.connectors.files.config import ColumnType, FilesConfig
from milkrun.connectors.files.records import QUOTE, Flags, Positions, Quoting, Spans
from milkrun.connectors.files.rows import Format, gather
from milkrun.model.errors import Refused

_INTEGER = r"^-?(0|[1-9][0-9]*)$"
_NUMBER = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$"
"""The numbers of JSON (RFC 8259, section 6): such a text is the number's JSON, so that no digit is lost."""

Wrong = dict[int, tuple[str, str]]


class DelimitedFormat(Format):
    """CSV or TSV with these columns."""

    def __init__(self, config: FilesConfig, delimiter: int, columns: Sequence[str]) -> None:
        super().__init__(config.max_event)
        self.columns = list(columns)
        self.quoting = Quoting(delimiter, config.max_event) if config.quoting else None
        self._delimiter = delimiter
        self._null = config.null_text
        self._types: list[ColumnType | None] = [config.types.get(name) for name in columns]
        names = [msgspec.json.encode(name).decode() for name in columns]
        self._openings = [f"{'{' if index == 0 else ','}{name}:" for index, name in enumerate(names)]

    def values(self, data: bytes, spans: Spans) -> tuple[pa.BinaryArray, Wrong]:
        wrong: Wrong = {}
        good = ~spans.broken & (spans.ends - spans.starts <= self.longest)
        self._check_text(data, spans, good, wrong)
        rows = np.flatnonzero(good)
        packed = gather(data, spans.starts[rows], spans.ends[rows])
        counts = np.diff(_boundaries(packed, self._delimiter, self.quoting is not None)[1])
        for index in np.flatnonzero(counts != len(self.columns)):
            good[rows[index]] = False
            message = f"{counts[index]} fields, where {len(self.columns)} columns are named"
            wrong[int(rows[index])] = ("field_count", message)
        if not good[rows].all():
            packed = packed.filter(pa.array(good[rows]))
            rows = np.flatnonzero(good)
        fields = _fields(packed, self._delimiter, self.quoting is not None)
        objects = self._objects(fields, rows, wrong)
        if len(rows) == len(spans):
            return objects, wrong
        indices = np.full(len(spans), -1)
        indices[rows] = np.arange(len(rows))
        return objects.take(pa.array(indices, mask=indices < 0)), wrong

    def _check_text(self, data: bytes, spans: Spans, good: Flags, wrong: Wrong) -> None:
        """Make faults of the rows that aren't UTF-8."""
        try:
            data[: spans.consumed].decode()
        except UnicodeDecodeError:
            for row in np.flatnonzero(good):
                try:
                    data[spans.starts[row] : spans.ends[row]].decode()
                except UnicodeDecodeError as error:
                    good[row] = False
                    wrong[int(row)] = ("invalid_utf8", f"byte {error.start} of the row is not UTF-8")

    def _objects(self, fields: pa.StringArray, rows: Positions, wrong: Wrong) -> pa.BinaryArray:
        """The rows as JSON; `fields` has all of the first row, then of the second."""
        width = len(self.columns)
        parts: list[pa.Array | pa.Scalar] = []
        for index, (opening, kind) in enumerate(zip(self._openings, self._types, strict=True)):
            column = fields.take(pa.array(np.arange(index, len(fields), width)))
            parts += [pa.scalar(opening), self._column(column, index, kind, rows, wrong)]
        parts.append(pa.scalar("}"))
        return pc.binary_join_element_wise(*parts, "").cast(pa.binary())

    def _column(
        self, column: pa.StringArray, index: int, kind: ColumnType | None, rows: Positions, wrong: Wrong
    ) -> pa.StringArray:
        """A column's fields as JSON."""
        null = None if self._null is None else pc.equal(column, self._null)
        if kind is None:
            json = pc.binary_join_element_wise('"', _escaped(column), '"', "")
        else:
            json, fits = _TYPED[kind](column)
            fits = fits if null is None else pc.or_(fits, null)
            if not pc.all(fits, min_count=0).as_py():
                for row in np.flatnonzero(~fits.to_numpy(zero_copy_only=False)):
                    wrong.setdefault(
                        int(rows[row]), ("wrong_type", f"column {self.columns[index]!r} is not {_A[kind]}")
                    )
        return json if null is None else pc.if_else(null, "null", json)


_A = {"integer": "an integer", "number": "a number", "boolean": "true or false"}


def _integer(column: pa.StringArray) -> tuple[pa.StringArray, pa.BooleanArray]:
    return column, pc.match_substring_regex(column, _INTEGER)


def _number(column: pa.StringArray) -> tuple[pa.StringArray, pa.BooleanArray]:
    return column, pc.match_substring_regex(column, _NUMBER)


def _boolean(column: pa.StringArray) -> tuple[pa.StringArray, pa.BooleanArray]:
    lower = pc.ascii_lower(column)
    return lower, pc.is_in(lower, pa.array(["true", "false"]))


_TYPED: dict[ColumnType, Callable[[pa.StringArray], tuple[pa.StringArray, pa.BooleanArray]]] = {
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
}


def parse_header(record: bytes, delimiter: int, quoting: bool, path: str) -> list[str]:
    """The column names of a header row. Refused where they are broken, empty or there twice."""
    try:
        record.decode()
    except UnicodeDecodeError as error:
        raise Refused(
            f"{path}: the header is not UTF-8 at byte {error.start}; write the file in UTF-8"
        ) from error
    names = _fields(pa.array([record], pa.binary()), delimiter, quoting).to_pylist()
    if "" in names or len(set(names)) != len(names):
        raise Refused(
            f"{path}: a column of the header has no name, or two have the same; name each differently, or set columns"
        )
    return [str(name) for name in names]


def _buffers(rows: pa.BinaryArray) -> tuple[pa.Buffer, Positions]:
    """The bytes of all rows, and where each begins, and the end."""
    _, offsets, data = rows.buffers()
    positions = np.frombuffer(offsets, np.int32)[rows.offset : rows.offset + len(rows) + 1].astype(np.int64)
    return data if data is not None else pa.py_buffer(b""), positions


def _boundaries(rows: pa.BinaryArray, delimiter: int, quoting: bool) -> tuple[Positions, Positions]:
    """Where all delimiters outside quotes are, and for each row the number of fields before it (and in all, at the end)."""
    data, offsets = _buffers(rows)
    text = np.frombuffer(data, np.uint8)[: offsets[-1]]
    delimiters = np.flatnonzero(text == delimiter)
    delimiters = delimiters[delimiters >= offsets[0]]
    if quoting:
        quotes = np.flatnonzero(text == QUOTE)
        # Rows have whole pairs of quotes, so counting may go over all of them at once.
        if len(quotes):
            delimiters = delimiters[np.searchsorted(quotes, delimiters) % 2 == 0]
    before = np.searchsorted(delimiters, offsets) + np.arange(len(offsets))
    return delimiters, before


def _fields(rows: pa.BinaryArray, delimiter: int, quoting: bool) -> pa.StringArray:
    """All fields of all rows, one after another, without the quotes around them."""
    data, offsets = _buffers(rows)
    delimiters, _ = _boundaries(rows, delimiter, quoting)
    # A stable sort by place: a row that ends in an empty field has a delimiter directly before the next row's start.
    starts = np.sort(np.concatenate([offsets[:-1], delimiters + 1]), kind="stable")
    ends = np.sort(np.concatenate([offsets[1:], delimiters]), kind="stable")
    text = np.frombuffer(data, np.uint8)
    quotes = np.flatnonzero(text == QUOTE) if quoting else text[:0].astype(np.int64)
    if len(quotes):
        keep = np.ones(len(text), np.bool_)
        keep[quotes] = False
        # A doubled quote is a closing one with the next opening one directly after it, in the same row: it stands for one.
        closing, opening = quotes[1:-1:2], quotes[2::2]
        doubled = closing[(opening == closing + 1) & ~np.isin(opening, offsets)]
        keep[doubled] = True
        moved = np.concatenate([[0], np.cumsum(keep)])
        starts, ends, data = moved[starts], moved[ends], pa.py_buffer(text[keep])
    return gather(data, starts, ends).cast(pa.string())


def _escaped(column: pa.StringArray) -> pa.StringArray:
    """Text as it stands between the quotes of JSON."""
    data, offsets = _buffers(column)
    present = np.bincount(np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]], minlength=256)
    replacements = {92: "\\\\", QUOTE: '\\"', 10: "\\n", 13: "\\r", 9: "\\t"}
    # The backslash goes first: the others bring new ones.
    for byte in (92, QUOTE, *range(32)):
        if present[byte]:
            column = pc.replace_substring(column, chr(byte), replacements.get(byte, f"\\u{byte:04x}"))
    return column
