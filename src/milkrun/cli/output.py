"""How results are shown: as JSON, as tables on a terminal, or as plain lines with tabs in a pipe.

JSON is made of the very records that `milkrun.control` returns: `FIGURES` adds the properties that belong to them.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, Literal

import pyarrow as pa
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from milkrun.control.archive_rebuilding import Rebuilt, RebuiltPartition
from milkrun.control.archiving import ArchiveReport, ArchiveRun, ArchiveVerification, TopicArchive
from milkrun.control.comparing import Difference
from milkrun.control.coordinator import TopicStatus
from milkrun.control.dead_work import Report as DeadReport
from milkrun.control.erasing import ErasurePlan
from milkrun.control.erasure_status import Certificate
from milkrun.control.examples import ExampleResult, ExamplesReport
from milkrun.control.ledgers import LedgerReport
from milkrun.control.moving import MoveResult
from milkrun.control.plan import ProjectPlan
from milkrun.control.previewing import Preview
from milkrun.control.replay_diff import ReplayDiff
from milkrun.control.running import Outcome
from milkrun.control.sla import SinkSla, SlaReport
from milkrun.control.status import ProjectStatus
from milkrun.control.tracing import Trace
from milkrun.control.values import plain_rows
from milkrun.control.verifying import PartitionCheck, Verification

Format = Literal["text", "json"]

FIGURES: Mapping[type[Any], tuple[str, ...]] = {
    DeadReport: ("ok",),
    Difference: ("equal",),
    ExampleResult: ("ok",),
    ExamplesReport: ("ok",),
    ArchiveReport: ("bytes", "monthly_cost"),
    ArchiveRun: ("ok",),
    ArchiveVerification: ("ok",),
    Certificate: ("events", "complete"),
    ErasurePlan: ("events", "nothing"),
    LedgerReport: ("even",),
    MoveResult: ("events", "bytes"),
    Outcome: ("ok",),
    PartitionCheck: ("ok",),
    Preview: ("events", "ok"),
    ProjectPlan: ("empty",),
    ProjectStatus: ("healthy",),
    Rebuilt: ("files", "events"),
    RebuiltPartition: ("lost",),
    ReplayDiff: ("equal",),
    SinkSla: ("kept",),
    SlaReport: ("kept",),
    TopicArchive: ("files", "events", "bytes", "hot_bytes"),
    TopicStatus: ("rows", "bytes"),
    Trace: ("found",),
    Verification: ("ok",),
}
"""Properties that stand in a record's JSON besides its fields."""


def plain(value: Any) -> Any:
    """A record as JSON-able values; bytes are text where they are UTF-8, else `{"base64": ...}`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [each.name for each in dataclasses.fields(value)]
        return {name: plain(getattr(value, name)) for name in (*names, *FIGURES.get(type(value), ()))}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return _bytes(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, pa.Table):
        return plain_rows(value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _bytes(value: bytes) -> Any:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def printable(text: str) -> str:
    """Text of unknown origin for a terminal: control characters are shown, not obeyed."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def shown_bytes(value: bytes | None) -> str:
    """Bytes of unknown origin for a terminal."""
    return "-" if value is None else printable(value.decode(errors="backslashreplace"))


class Output:
    """Where a command's results go."""

    def __init__(self, format: Format = "text") -> None:
        self.format = format
        self.console = Console(highlight=False, soft_wrap=True)

    @property
    def terminal(self) -> bool:
        """Whether a person looks at it: text, on a terminal."""
        return self.format == "text" and self.console.is_terminal

    def json(self, value: Any) -> None:
        """One line of JSON."""
        sys.stdout.write(json.dumps(plain(value), ensure_ascii=False) + "\n")
        sys.stdout.flush()

    def line(self, text: str = "", *, style: str | None = None) -> None:
        """A line of text; `style` only shows on a terminal."""
        if self.terminal:
            self.console.print(escape(text), style=style)
        else:
            sys.stdout.write(text + "\n")

    def note(self, text: str) -> None:
        """A line for whoever watches the command run, on standard error: it is no part of the result."""
        sys.stderr.write(f"milkrun: {printable(text)}\n")
        sys.stderr.flush()

    def raw(self, data: bytes) -> None:
        """Bytes as they are."""
        sys.stdout.flush()
        sys.stdout.buffer.write(data)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str = "") -> None:
        """Rows under headings; `empty` where there are none."""
        texts = [[_cell(cell) for cell in row] for row in rows]
        if not texts:
            if empty:
                self.line(empty)
            return
        if not self.terminal:
            for row in [list(columns), *texts]:
                sys.stdout.write("\t".join(row) + "\n")
            return
        self.console.print(rich_table(columns, texts))


def rich_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """The rows as a table for a terminal."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*(escape(_cell(cell)) for cell in row))
    return table


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.1f}"
    return printable(str(value))
