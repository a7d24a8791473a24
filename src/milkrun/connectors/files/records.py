"""Where the records of a piece of text begin and end: lines, and rows with quoted line breaks, found by columns of positions.

Nothing here copies or decodes; all positions are bytes from the start of the piece. What a record is does not depend on how
much more of the text is there, so a file read anew in other pieces gives the same records.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Positions = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

LF, CR, QUOTE = 10, 13, 34
_WINDOW = 64
"""Quotes looked at in one go after a broken row; doubled while all is well, so that neither clean nor broken text is slow."""


@dataclass(frozen=True, slots=True)
class Spans:
    """Records `[starts, ends)` without their line breaks, blank ones too.

    `broken` marks rows whose quotes contradict RFC 4180: such a row ends at its first line break, and reading goes on there.
    `lines` is the number of line breaks before each record; `consumed` are the bytes and `breaks` the line breaks of them all.
    """

    starts: Positions
    ends: Positions
    broken: Flags
    lines: Positions
    consumed: int
    breaks: int

    def __len__(self) -> int:
        return len(self.starts)


@dataclass(frozen=True, slots=True)
class Quoting:
    """Rows of a delimited file: the byte between fields, and how long a row over several lines may be."""

    delimiter: int
    longest: int


def split(data: bytes, quoting: Quoting | None, *, limit: int, at_end: bool) -> Spans:
    """The first records of `data`, at most `limit`; an incomplete one is left, unless the text ends here (`at_end`)."""
    text = np.frombuffer(data, np.uint8)
    newlines = np.flatnonzero(text == LF)
    if quoting is not None and QUOTE in data:
        stops, broken = _Rows(text, newlines, quoting, at_end).find(limit)
    else:
        stops = newlines[:limit]
        if at_end and len(newlines) < limit and _end(stops) < len(text):
            stops = np.append(stops, len(text))
        broken = np.zeros(len(stops), np.bool_)
    starts = np.concatenate([np.zeros(min(1, len(stops)), np.int64), stops[:-1] + 1])
    ends = stops - _carriage_returns(text, starts, stops)
    consumed = min(_end(stops), len(text))
    lines = np.searchsorted(newlines, starts)
    return Spans(starts, ends, broken, lines, consumed, int(np.searchsorted(newlines, consumed)))


def _end(stops: Positions) -> int:
    """Where the text after the last record begins."""
    return int(stops[-1]) + 1 if len(stops) else 0


def _carriage_returns(text: npt.NDArray[np.uint8], starts: Positions, stops: Positions) -> Positions:
    """1 for each record whose line break is CR LF, else 0."""
    found = (stops > starts) & (stops < len(text))
    found[found] = text[stops[found] - 1] == CR
    return found.astype(np.int64)


class _Rows:
    """The search for row ends among quotes.

    Within a row quotes are opening and closing by turns. An opening one stands at the start of a field or directly after a
    closing one (a doubled quote); after a closing one comes a delimiter, a line break or a quote. So a line break ends a row
    where the quotes before it make pairs, and the first quote in a wrong place tells the broken row.
    """

    def __init__(
        self, text: npt.NDArray[np.uint8], newlines: Positions, quoting: Quoting, at_end: bool
    ) -> None:
        self._text, self._newlines, self._at_end = text, newlines, at_end
        self._quotes = np.flatnonzero(text == QUOTE)
        self._quoting = quoting
        # What may stand before an opening and after a closing quote.
        self._beside = np.zeros(256, np.bool_)
        self._beside[[quoting.delimiter, LF, QUOTE]] = True

    def find(self, limit: int) -> tuple[Positions, Flags]:
        """The end of each row, at most `limit`: its line break or the end of the text; and which rows are broken."""
        size, start, count, window = len(self._text), 0, 0, _WINDOW
        stops: list[Positions] = []
        broken: list[Flags] = []
        while start < size and count < limit:
            good, violated, last = self._pairs(start, window)
            stops.append(good)
            broken.append(np.zeros(len(good), np.bool_))
            start, count = (int(good[-1]) + 1 if len(good) else start), count + len(good)
            window = window * 2
            if violated or (last and self._is_open(start)):
                bad = self._line_end(start)
                if bad is None:
                    break
                stops.append(np.array([bad]))
                broken.append(np.ones(1, np.bool_))
                start, count, window = bad + 1, count + 1, _WINDOW
            elif last:
                if self._at_end and start < size:
                    stops.append(np.array([size]))
                    broken.append(np.zeros(1, np.bool_))
                break
        if not stops:
            return np.zeros(0, np.int64), np.zeros(0, np.bool_)
        return np.concatenate(stops)[:limit], np.concatenate(broken)[:limit]

    def _pairs(self, start: int, window: int) -> tuple[Positions, bool, bool]:
        """The ends of the rows from `start` on as far as `window` quotes tell, before the first wrong one; whether there
        is a wrong one; whether these are all the quotes."""
        first = int(np.searchsorted(self._quotes, start))
        quotes = self._quotes[first : first + window]
        last = first + window >= len(self._quotes)
        wrong = self._wrong(start, quotes)
        horizon = len(self._text) if last else int(self._quotes[first + window])
        horizon = horizon if wrong is None else wrong
        newlines = self._newlines[slice(*np.searchsorted(self._newlines, [start, horizon]))]
        stops = newlines[np.searchsorted(quotes, newlines) % 2 == 0]
        starts = np.concatenate([[start], stops[:-1] + 1]) if len(stops) else stops
        for row in np.flatnonzero(stops - starts > self._quoting.longest):
            if self._line_end(int(starts[row])) != stops[row]:
                return stops[:row], True, last
        return stops, wrong is not None, last

    def _wrong(self, start: int, quotes: Positions) -> int | None:
        """The first quote in a place where none may be."""
        opening, closing = quotes[0::2], quotes[1::2]
        opens = (opening == start) | self._beside[self._text[opening - 1]]
        # Of a closing quote at the very end nothing is known yet, and nothing need be: its row isn't complete.
        following = np.minimum(closing + 1, len(self._text) - 1)
        after = self._text[following]
        second = self._text[np.minimum(closing + 2, len(self._text) - 1)]
        closes = self._beside[after] | (closing + 1 >= len(self._text))
        closes |= (after == CR) & ((second == LF) | (closing + 2 >= len(self._text)))
        wrong = np.concatenate([opening[~opens], closing[~closes]])
        return int(wrong.min()) if len(wrong) else None

    def _is_open(self, start: int) -> bool:
        """Whether the row at `start`, the last there is, will never be whole: its quote isn't closed, or too far away."""
        after = int(np.searchsorted(self._newlines, start)) < len(self._newlines)
        if after and len(self._text) - start > self._quoting.longest:
            return True
        unclosed = (len(self._quotes) - int(np.searchsorted(self._quotes, start))) % 2 == 1
        return unclosed and self._at_end

    def _line_end(self, start: int) -> int | None:
        """The first line break from `start` on, or the end of the text if it is final."""
        index = int(np.searchsorted(self._newlines, start))
        if index < len(self._newlines):
            return int(self._newlines[index])
        return len(self._text) if self._at_end else None
