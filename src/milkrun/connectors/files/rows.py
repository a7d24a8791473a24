"""Records as Arrow columns: what a piece of a file's text gives, for line formats and delimited ones alike.

A record becomes a row as it is, or a fault that keeps its raw bytes; blank lines give nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from milkrun.connectors.files.records import Positions, Quoting, Spans, split
from milkrun.plugin import Fault

BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Rows:
    """Events of one piece: values, where each begins (bytes from the start of the piece), line breaks before it; faults."""

    values: pa.BinaryArray
    starts: Positions
    lines: Positions
    faults: list[Fault] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, slots=True)
class Piece:
    """What was made of a piece of text: its rows, and how much of it is done with."""

    rows: Rows
    consumed: int
    breaks: int
    blank: int


class Format(ABC):
    """Turns text into rows. `longest` is the most bytes of an event."""

    quoting: Quoting | None = None
    blanks: bytes = b""
    """A record of nothing but these bytes is blank."""

    def __init__(self, longest: int) -> None:
        self.longest = longest

    @abstractmethod
    def values(self, data: bytes, spans: Spans) -> tuple[pa.BinaryArray, dict[int, tuple[str, str]]]:
        """The value of each span, and the code and message of those that are faults (their value is replaced by the raw bytes)."""

    def read(self, data: bytes, *, limit: int, at_end: bool, first: bool) -> Piece:
        """The first records of `data`, at most `limit`. `first`: the text is the beginning of a file."""
        spans = split(data, self.quoting, limit=limit, at_end=at_end)
        if first and data.startswith(BOM) and len(spans):
            spans.starts[0] = min(len(BOM), int(spans.ends[0]))
        consumed, breaks, total = spans.consumed, spans.breaks, len(spans)
        spans = _without_blank(data, spans, self.blanks)
        values, wrong = self.values(data, spans)
        for row in np.flatnonzero(spans.broken):
            message = "a quote stands where none may be, or isn't closed; enclose the field in quotes and double those inside"
            wrong[int(row)] = ("broken_quotes", message)
        for row in np.flatnonzero(spans.ends - spans.starts > self.longest):
            wrong[int(row)] = too_large(int(spans.ends[row] - spans.starts[row]), self.longest)
        faults = [Fault(row, *wrong[row]) for row in sorted(wrong)]
        rows = Rows(self._with_raw(data, spans, values, list(wrong)), spans.starts, spans.lines, faults)
        return Piece(rows, consumed, breaks, total - len(spans))

    def _with_raw(
        self, data: bytes, spans: Spans, values: pa.BinaryArray, wrong: list[int]
    ) -> pa.BinaryArray:
        """`values`, with the raw bytes (no more than an event may have) in the wrong rows."""
        if not wrong:
            return values
        raw = [
            data[spans.starts[row] : min(spans.ends[row], spans.starts[row] + self.longest)] for row in wrong
        ]
        indices = np.arange(len(spans))
        indices[wrong] = len(spans) + np.arange(len(wrong))
        return pa.concat_arrays([values, pa.array(raw, pa.binary())]).take(pa.array(indices))


class LineFormat(Format):
    """NDJSON: a value is a line's bytes, untouched."""

    blanks = b" \t\r\v\f"

    def values(self, data: bytes, spans: Spans) -> tuple[pa.BinaryArray, dict[int, tuple[str, str]]]:
        return gather(data, spans.starts, spans.ends), {}


def too_large(size: int, longest: int) -> tuple[str, str]:
    """The fault of an event of `size` bytes."""
    return (
        "too_large",
        f"{size} bytes, of which the first {longest} are kept; the most is {longest} (max_event)",
    )


def gather(data: bytes | pa.Buffer, starts: Positions, ends: Positions) -> pa.BinaryArray:
    """The bytes of each `[start, end)`; the spans must be in order and not overlap."""
    # An array over the whole text in which spans and gaps take turns costs nothing; taking every other value copies.
    offsets = np.empty(2 * len(starts) + 1, np.int32)
    offsets[0:-1:2] = starts
    offsets[1::2] = ends
    offsets[-1] = ends[-1] if len(ends) else 0
    both = pa.BinaryArray.from_buffers(
        pa.binary(), 2 * len(starts), [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    )
    return both.take(pa.array(np.arange(0, 2 * len(starts), 2)))


def _without_blank(data: bytes, spans: Spans, blanks: bytes) -> Spans:
    """The spans that hold more than `blanks`."""
    keep = spans.ends > spans.starts
    firsts = np.frombuffer(data, np.uint8)[spans.starts[keep]]
    for row in np.flatnonzero(keep)[np.isin(firsts, np.frombuffer(blanks, np.uint8))]:
        keep[row] = data[spans.starts[row] : spans.ends[row]].strip(blanks) != b""
    if keep.all():
        return spans
    return Spans(
        spans.starts[keep],
        spans.ends[keep],
        spans.broken[keep],
        spans.lines[keep],
        spans.consumed,
        spans.breaks,
    )
