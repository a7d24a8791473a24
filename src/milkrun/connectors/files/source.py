"""The files source: reads NDJSON, CSV and TSV files, plain or gzip, once to their end or for ever as they grow and rotate.

Its position travels with the events, so events and position become durable together, and a restart neither loses nor repeats.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from milkrun.connectors.files.catalog import Catalog, Tracked
from milkrun.connectors.files.config import FilesConfig
from milkrun.connectors.files.position import Position, restore
from milkrun.connectors.files.reader import Part
from milkrun.model.batch import HEADER, HEADERS
from milkrun.model.errors import ConfigError, MilkrunError, Transient
from milkrun.plugin import Delivery, Fault, Outcome, Received, Source, SourceCapabilities, SourceContext

BATCH_BYTES = 8 << 20
"""A poll stops gathering at so many bytes of values."""


class FilesSource(Source):
    """Events from files; see the module.

    While a file is followed, a last line without line break is not an event yet. It becomes one when the file is at its end: it was
    renamed or deleted, or is a complete gzip file, and has not grown for `quiet` seconds. Without `follow` the end is where the
    file ends when it is read.
    """

    name = "files"
    summary = "Reads NDJSON, CSV and TSV files, also gzip; resumes, follows growing and rotated files."
    Config = FilesConfig
    capabilities: ClassVar[SourceCapabilities] = SourceCapabilities(
        delivery=Delivery.EXACTLY_ONCE,
        resume="position",
        placement="one worker",
        attributes=("file", "line", "file.position"),
        note="files are known by contents, so renames, rotation and copies are followed",
    )

    def __init__(self, config: FilesConfig, context: SourceContext) -> None:
        super().__init__(config, context)
        self._config = config
        self._stopped = threading.Event()
        self._catalog = Catalog(config, context, Position())
        self._next_scan = 0.0
        # Whether a file was not where it was last seen, so that only another look can tell.
        self._astray = False
        self._last: Tracked | None = None

    def open(self, position: Any) -> None:
        self._catalog = Catalog(self._config, self.context, restore(position))
        missing = None if self._config.follow or position is not None else self._catalog.missing()
        if missing is not None:
            raise ConfigError(
                f"no file matches {missing!r}",
                "mend the path, which counts from the project's folder, or set follow: true to wait for files",
                path=("paths", self._config.paths.index(missing)),
            )
        self._catalog.scan()
        self._next_scan = self.context.clock.monotonic() + self._config.interval

    def tap(self, bindings: Sequence[str]) -> str:
        self.open(None)
        return f"reading {', '.join(self._config.paths)} from the beginning"

    def poll(self, max_events: int, timeout: float) -> Received | None:
        clock = self.context.clock
        deadline = clock.monotonic() + timeout
        while not self._stopped.is_set():
            now = clock.monotonic()
            if (self._config.follow or self._astray) and now >= self._next_scan:
                self._catalog.scan()
                self._astray = False
                self._next_scan = now + self._config.interval
            parts = self._gather(max_events)
            if parts or self._catalog.moved:
                return received_of(parts, self._catalog.position().plain())
            if now >= deadline:
                break
            until = min(deadline, self._next_scan) if self._config.follow or self._astray else deadline
            clock.wait(self._stopped, max(until - now, 0.001))
        return None

    def settle(self, received: Received, outcome: Outcome) -> None:
        """Nothing to acknowledge: the position is in the log."""

    def drain(self) -> None:
        self._stopped.set()

    def close(self) -> None:
        self._stopped.set()
        self._catalog.close()

    # -- gathering

    def _gather(self, max_events: int) -> list[Part]:
        """What the files have, up to a batch."""
        parts: list[Part] = []
        events, size = 0, 0
        try:
            for file in self._in_turn():
                while events < max_events and size < BATCH_BYTES:
                    part = self._next(file, max_events - events)
                    if part is None:
                        break
                    parts.append(part)
                    events, size = events + len(part.rows), size + part.nbytes
                    self._last = file
                if events >= max_events or size >= BATCH_BYTES:
                    break
        except MilkrunError:
            # What was gathered goes first; the error comes again with the next poll.
            if not parts:
                raise
        return parts

    def _in_turn(self) -> list[Tracked]:
        """The files to read now. Rotated ones come first, since theirs are the older events; a file that gave something
        goes behind the others, so that no busy one holds them up."""
        files = [file for file in self._catalog.files if file.pending or self._is_at_end(file)]
        if not self._config.follow:
            return files
        files.sort(key=lambda file: (not file.entry.rotated, file.entry.path))
        fresh = [file for file in files if not file.entry.rotated]
        if self._last in fresh:
            after = fresh.index(self._last) + 1
            fresh = fresh[after:] + fresh[:after]
        return [file for file in files if file.entry.rotated] + fresh

    def _next(self, file: Tracked, limit: int) -> Part | None:
        """The file's next rows; if there are none, note how it stands."""
        reader = self._catalog.open(file)
        if reader is None:
            self._astray = True
            return None
        at_end = self._is_at_end(file)
        part = reader.next(limit, at_end=at_end)
        if part is not None:
            return part
        file.pending = False
        if at_end and not reader.whole and (file.gone or not self._config.follow):
            file.pending = True
            raise Transient(
                f"{file.entry.path}: the gzip file ends in the middle; what it holds so far was taken: "
                "copy the rest, or take the file out of `paths`"
            )
        if at_end and reader.whole:
            self._catalog.finish(file)
        else:
            reader.rewind()
        return None

    def _is_at_end(self, file: Tracked) -> bool:
        """Whether the end of what is there is the end of the file."""
        if file.entry.done:
            return False
        if not self._config.follow:
            return True
        closed = file.entry.rotated or (
            file.reader is not None and file.reader.compressed and file.reader.whole
        )
        return closed and self.context.clock.monotonic() - file.grown_at >= self._config.quiet


def received_of(parts: list[Part], position: Any) -> Received:
    """The rows of all parts as one `Received`; without parts it has no rows and only moves the position."""
    rows = sum(len(part.rows) for part in parts)
    paths = _text([pa.repeat(pa.scalar(part.path, pa.string()), len(part.rows)) for part in parts])
    lines = _text([pa.array(part.lines).cast(pa.string()) for part in parts])
    places = _text(
        [
            pc.binary_join_element_wise(part.mark, pa.array(part.offsets).cast(pa.string()), ":")
            for part in parts
        ]
    )
    faults: list[Fault] = []
    before = 0
    for part in parts:
        faults += [Fault(fault.row + before, fault.code, fault.message) for fault in part.rows.faults]
        before += len(part.rows)
    values = [part.rows.values for part in parts]
    return Received(
        values=pa.concat_arrays(values) if values else pa.array([], pa.binary()),
        headers=_headers(paths, lines, rows),
        attributes={"file": paths, "line": lines, "file.position": places},
        position=position,
        faults=faults,
    )


def _text(arrays: list[pa.Array]) -> pa.StringArray:
    return pa.concat_arrays(arrays) if arrays else pa.array([], pa.string())


def _headers(paths: pa.StringArray, lines: pa.StringArray, rows: int) -> pa.ListArray:
    """Two headers an event, `file.path` and `file.line`."""
    turns = np.arange(2 * rows).reshape(2, rows).T.ravel()
    values = pa.concat_arrays([paths, lines]).take(pa.array(turns)).cast(pa.binary())
    names = pa.array(["file.path", "file.line"]).take(pa.array(np.tile([0, 1], rows)))
    pairs = pa.StructArray.from_arrays([names, values], fields=list(HEADER))
    offsets = pa.array(np.arange(0, 2 * rows + 1, 2, dtype=np.int32))
    return pa.ListArray.from_arrays(offsets, pairs, type=HEADERS)
