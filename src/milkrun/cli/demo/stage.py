"""How the demo talks: a story in lines, with a live line of figures below it on a terminal, and a line now and then in a pipe."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.live import Live
from rich.text import Text

from milkrun.cli.output import Output, printable

PLAIN_SECONDS = 2.0
LIVE_SECONDS = 0.25


@dataclass(frozen=True)
class Figures:
    """How far the events have come: confirmed to their senders, in the log, in each sink, dead."""

    sent: int
    log: int
    warehouse: int
    lake: int
    dead: int

    def text(self) -> str:
        """In a line."""
        return (
            f"sent {self.sent:>6,}  in the log {self.log:>6,}  in DuckDB {self.warehouse:>6,}  "
            f"in Parquet {self.lake:>6,}  dead letters {self.dead}"
        )


class Stage:
    """Where the story is told. With JSON output it is silent: the result comes in the end."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._silent = out.format == "json"
        self._began = time.monotonic()
        self._next = 0.0
        self._live: Live | None = None

    def heading(self, text: str) -> None:
        """A new part of the story."""
        self._line()
        self._line(text, style="bold cyan")

    def say(self, text: str, *, style: str | None = None) -> None:
        """A line, with the seconds since the beginning."""
        self._line(f"{time.monotonic() - self._began:5.1f} s  {printable(text)}", style=style)

    def plain(self, text: str = "", *, style: str | None = None) -> None:
        """A line as it is."""
        self._line(text, style=style)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Rows under headings, aligned also in a pipe: they are for people."""
        cells = [[printable(str(cell)) for cell in row] for row in (columns, *rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for number, row in enumerate(cells):
            padded = (
                cell.rjust(width) if _is_number(rows, column) else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            self._line("  ".join(padded).rstrip(), style="bold" if number == 0 else None)

    @property
    def due(self) -> bool:
        """Whether figures would be shown now: reading them costs something."""
        return not self._silent and time.monotonic() >= self._next

    def figures(self, figures: Figures) -> None:
        """Show how things are."""
        if self._silent:
            return
        if not self._out.terminal:
            self._next = time.monotonic() + PLAIN_SECONDS
            self.say(figures.text())
            return
        self._next = time.monotonic() + LIVE_SECONDS
        if self._live is None:
            self._live = Live(console=self._out.console, auto_refresh=False, transient=True)
            self._live.start()
        seconds = time.monotonic() - self._began
        self._live.update(Text(f"{seconds:5.1f} s  {figures.text()}", style="green"), refresh=True)

    def settle(self, figures: Figures | None = None) -> None:
        """End the live line; leave the last figures as a line of the story."""
        self.close()
        if figures is not None:
            self.say(figures.text())

    def close(self) -> None:
        """End the live line."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        self._next = 0.0

    def _line(self, text: str = "", *, style: str | None = None) -> None:
        if not self._silent:
            self._out.line(text, style=style)
            self._out.console.file.flush()


def _is_number(rows: Sequence[Sequence[Any]], column: int) -> bool:
    return all(isinstance(row[column], int | float) for row in rows)
