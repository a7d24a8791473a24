"""Reads one open file from its stored place on, piece by piece, and keeps count of the place.

Only whole records move the place, so what is stored always points to the start of a record. A record without line break at the
end of the text is left there until the caller says that the file has ended.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from milkrun.connectors.files.config import FilesConfig, format_of
from milkrun.connectors.files.delimited import DelimitedFormat, parse_header
from milkrun.connectors.files.position import SAMPLE, Entry, matches, sample
from milkrun.connectors.files.records import Positions, Quoting, split
from milkrun.connectors.files.rows import BOM, Format, LineFormat, Piece, Rows, too_large
from milkrun.connectors.files.streams import GzipStream, open_stream
from milkrun.model.errors import GapError, Refused
from milkrun.plugin import Fault

CHUNK = 1 << 20
"""Bytes read at a time. With the longest event it bounds the memory of a file."""


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one file: `offsets` where each begins in it, `lines` the line each begins on (from 1)."""

    path: str
    mark: str
    rows: Rows
    offsets: Positions
    lines: Positions

    @property
    def nbytes(self) -> int:
        return int(self.rows.values.nbytes)


class Reader:
    """One file's reader; it owns `descriptor`. GapError where the file isn't what the entry says."""

    def __init__(self, entry: Entry, descriptor: int, config: FilesConfig) -> None:
        self.entry = entry
        self.descriptor = descriptor
        self._config = config
        self._stream = open_stream(descriptor, entry.path, config.compression)
        self._buffer = b""
        self._dropped = 0
        self._dropped_tail = b""
        self._format: Format | None = None
        self._header_size = 0
        samples = matches(entry, self._stream)
        if samples is None:
            os.close(descriptor)
            raise GapError(
                f"{entry.path}: the file is not the one that was read up to byte {entry.offset}; "
                "put that one back, or name the source anew to start afresh"
            )
        self._head, self._tail = samples

    @property
    def whole(self) -> bool:
        """False in the middle of a gzip file, which then is incomplete or goes on."""
        return self._stream.whole

    @property
    def compressed(self) -> bool:
        return isinstance(self._stream, GzipStream)

    def next(self, limit: int, *, at_end: bool) -> Part | None:
        """The next rows, at most `limit`; None where there are no whole records at present. With `at_end` the last record needs
        no line break."""
        if self._format is None and not self._begin(at_end):
            return None
        while True:
            part = self._take(limit, at_end=False)
            if part is None and not self._fill():
                part = self._take(limit, at_end=True) if at_end and self.whole else None
                if part is None:
                    return None
            if part is not None and len(part.rows):
                return part

    def rewind(self) -> None:
        """Forget the bytes read beyond the place reached: until they are a whole record, the file's writer may change its mind."""
        if not self.compressed:
            self._stream.offset = self.entry.offset
            self._buffer, self._dropped, self._dropped_tail = b"", 0, b""

    def stamp(self) -> Entry:
        """The entry, its samples brought up to date."""
        if self.entry.head.size != len(self._head):
            self.entry.head = sample(self._head)
        self.entry.tail = sample(self._tail)
        return self.entry

    def close(self) -> None:
        """Close the file. The reader is of no use after it."""
        os.close(self.descriptor)

    # -- records

    def _fill(self) -> bool:
        """Read on; whether there was anything."""
        data = self._stream.read(CHUNK)
        self._buffer += data
        return bool(data)

    def _take(self, limit: int, *, at_end: bool) -> Part | None:
        """The whole records of the buffer; None if there are none. A part may have no rows: blank lines."""
        assert self._format is not None
        if not self._after_torn():
            return None
        if self._dropped or len(self._buffer) > self._config.max_event + 1:
            piece = self._long_record(at_end)
        else:
            piece = None
        if piece is None and not self._dropped and self._buffer:
            first = self.entry.offset == 0
            piece = self._format.read(self._buffer, limit=limit, at_end=at_end, first=first)
        return None if piece is None or not piece.consumed else self._advance(piece)

    def _after_torn(self) -> bool:
        """Whether what follows may be read: directly after a record without line break only its line break may come."""
        if not self._tail or self._tail.endswith(b"\n") or not self._buffer or self._buffer == b"\r":
            return not self._tail or self._tail.endswith(b"\n")
        size = 1 if self._buffer.startswith(b"\n") else 2
        if self._buffer[:size] not in (b"\n", b"\r\n"):
            raise GapError(
                f"{self.entry.path}: the last line had no line break, was taken as whole at byte {self.entry.offset}, and has grown "
                "since; that event was cut short: mend it, then name the source anew"
            )
        self._consume(size, 1, 0)
        return True

    def _long_record(self, at_end: bool) -> Piece | None:
        """The first record, if it is longer than an event may be and has no line break within that; all but its first bytes is
        dropped while reading on. None where it isn't such a record, or not at its end yet."""
        longest = self._config.max_event
        if not self._dropped and (self._buffer.find(b"\n", 0, longest + 2) >= 0):
            return None
        end = self._buffer.find(b"\n", longest)
        if end < 0 and not at_end:
            self._dropped += len(self._buffer) - longest
            self._dropped_tail = (
                self._dropped_tail + self._buffer[max(longest, len(self._buffer) - SAMPLE) :]
            )[-SAMPLE:]
            self._buffer = self._buffer[:longest]
            return None
        breaks = int(end >= 0)
        end = end if breaks else len(self._buffer)
        message = too_large(end + self._dropped, longest)
        rows = Rows(
            pa.array([self._buffer[:longest]], pa.binary()),
            np.zeros(1, np.int64),
            np.zeros(1, np.int64),
            [Fault(0, *message)],
        )
        return Piece(rows, end + breaks, breaks, 0)

    def _advance(self, piece: Piece) -> Part:
        """Move the place past the piece."""
        entry = self.entry
        offsets, lines = piece.rows.starts + entry.offset, piece.rows.lines + entry.lines + 1
        self._consume(piece.consumed, piece.breaks, piece.blank)
        return Part(entry.path, entry.mark, piece.rows, offsets, lines)

    def _consume(self, size: int, breaks: int, blank: int) -> None:
        """Move the place past the first `size` bytes of the buffer, and past those dropped."""
        kept = self._config.max_event if self._dropped else size
        room = SAMPLE + self._header_size - len(self._head)
        # The head stays as it is once bytes after it were dropped: it must be the file's first bytes without a hole.
        if room > 0 and len(self._head) == self.entry.offset:
            self._head += self._buffer[: min(kept, room)]
        last = (
            self._buffer[max(0, kept - SAMPLE) : kept]
            + self._dropped_tail
            + self._buffer[kept:size][-SAMPLE:]
        )
        self._tail = (self._tail + last)[-SAMPLE:]
        self._buffer = self._buffer[size:]
        self.entry.offset += size + self._dropped
        self.entry.lines += breaks
        self.entry.blank += blank
        self._dropped, self._dropped_tail = 0, b""

    # -- the file's format

    def _begin(self, at_end: bool) -> bool:
        """Find out what the columns are; False while the header isn't there."""
        config, path = self._config, self.entry.path
        kind = format_of(config, path)
        if kind == "ndjson":
            self._format = LineFormat(config.max_event)
            return True
        delimiter = ord(config.delimiter) if config.delimiter else (9 if kind == "tsv" else 44)
        columns = config.columns
        if config.header:
            header = self._header(delimiter, at_end)
            if header is None:
                return False
            columns = columns or parse_header(header, delimiter, config.quoting, path)
        elif not columns:
            raise Refused(f"{path}: nothing names the columns; set header: true, or give columns")
        unknown = [name for name in config.types if name not in columns]
        if unknown:
            raise Refused(
                f"{path}: there is no column {unknown[0]!r}, of which `types` speaks; known are: {', '.join(columns)}"
            )
        self._format = DelimitedFormat(config, delimiter, columns)
        return True

    def _header(self, delimiter: int, at_end: bool) -> bytes | None:
        """The first record that isn't blank; taken from what is still to be read if that begins with it."""
        config, stream = self._config, open_stream(self.descriptor, self.entry.path, self._config.compression)
        quoting = Quoting(delimiter, config.max_event) if config.quoting else None
        data, header = b"", b""
        consumed = breaks = records = 0
        while not header:
            spans = split(data[consumed:], quoting, limit=1, at_end=False)
            if not len(spans) and not (more := stream.read(CHUNK)):
                spans = split(data[consumed:], quoting, limit=1, at_end=at_end and stream.whole)
                if not len(spans):
                    return None
            if not len(spans):
                data += more
                if len(data) - consumed > config.max_event + CHUNK:
                    raise Refused(f"{self.entry.path}: no header within {config.max_event} bytes (max_event)")
                continue
            if spans.broken[0]:
                raise Refused(f"{self.entry.path}: the quotes of the header are broken; mend it")
            header = data[consumed + int(spans.starts[0]) : consumed + int(spans.ends[0])]
            header = header.removeprefix(BOM) if consumed == 0 else header
            consumed, breaks, records = consumed + spans.consumed, breaks + spans.breaks, records + 1
        self._header_size = consumed
        if self.entry.offset == 0:
            while len(self._buffer) < consumed and self._fill():
                pass
            self._consume(consumed, breaks, records - 1)
        return header
