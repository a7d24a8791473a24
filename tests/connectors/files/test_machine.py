"""Any order of appends, rotations, copies, compressions and crashes: every line comes exactly once.

The machine plays the writer, logrotate and the runtime (which stores a position with the events, or crashes before). What is on
disk is all there is to know; the expected lines are those written in whole.
"""

from __future__ import annotations

import gzip
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from milkrun.connectors.files import FilesSource
from milkrun.testing.clock import ManualClock
from tests.connectors.files.folder import append, make


class Rotations(RuleBasedStateMachine):
    """One logger and its rotated files, under a pattern that names only the newest or all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.log = self.folder / "a.ndjson"
        self.clock = ManualClock()
        self.written: list[bytes] = []
        self.torn = b""
        self.stored: list[bytes] = []
        self.position: Any = None
        self.source: FilesSource | None = None
        self.rotations = 0

    @initialize(pattern=st.sampled_from(["a.ndjson", "a.ndjson*"]))
    def choose(self, pattern: str) -> None:
        self.pattern = pattern
        self.start()

    def start(self) -> None:
        # Ends are not taken for granted within a run: a torn line waits for a rotated file's quiet hour.
        options: dict[str, Any] = {"paths": [self.pattern], "follow": True, "quiet": "1h"}
        self.source = make(self.folder, self.clock, **options)
        self.source.open(self.position)

    def line(self, width: int) -> bytes:
        return b"%d %s" % (len(self.written), b"x" * width)

    @rule(count=st.integers(1, 5), width=st.sampled_from([0, 3, 700]))
    def write(self, count: int, width: int) -> None:
        for _ in range(count):
            line = self.torn + self.line(width)
            append(self.log, line[len(self.torn) :] + b"\n")
            self.written.append(line)
            self.torn = b""

    @rule()
    def tear(self) -> None:
        append(self.log, b"torn ")
        self.torn += b"torn "

    def _next_name(self) -> Path:
        self.rotations += 1
        return self.folder / f"a.ndjson.{self.rotations}"

    @rule()
    def rename(self) -> None:
        if self.log.exists() and not self.torn:
            # A file that comes and goes between two looks can't be known of.
            self.take()
            self.log.rename(self._next_name())

    @rule(look=st.booleans())
    def copytruncate(self, look: bool) -> None:
        if self.log.exists() and not self.torn and self.log.stat().st_size:
            self.drain_log()
            shutil.copy(self.log, self._next_name())
            if look:
                self.take()
            os.truncate(self.log, 0)

    def drain_log(self) -> None:
        """Read all: of a file of which nothing was read, a copy is a file of its own."""
        while self.take():
            pass

    @rule(data=st.data())
    def compress(self, data: st.DataObject) -> None:
        rotated = sorted(path for path in self.folder.iterdir() if path.name.split(".")[-1].isdigit())
        if not rotated:
            return
        self.drain_log()
        path = data.draw(st.sampled_from(rotated))
        packed = path.with_name(path.name + ".gz")
        packed.write_bytes(gzip.compress(path.read_bytes()))
        if data.draw(st.booleans()):
            self.take()
        path.unlink()

    @rule(limit=st.integers(1, 10))
    def poll(self, limit: int) -> None:
        self.take(limit)

    def take(self, limit: int = 1000) -> int:
        assert self.source is not None
        self.clock.advance(1)
        received = self.source.poll(limit, 0.3)
        if received is None:
            return 0
        assert not received.faults
        self.stored += received.values.to_pylist()
        self.position = received.position
        return len(received)

    @rule(polls=st.integers(0, 2))
    def crash(self, polls: int) -> None:
        """What was polled and not stored is forgotten."""
        assert self.source is not None
        for _ in range(polls):
            self.source.poll(2, 0.0)
        self.source.close()
        self.start()

    @invariant()
    def nothing_twice(self) -> None:
        assert len(set(self.stored)) == len(self.stored)
        assert set(self.stored) <= set(self.written)

    def teardown(self) -> None:
        if self.source is not None:
            self.drain_log()
            self.source.close()
            assert sorted(self.stored) == sorted(self.written)
        shutil.rmtree(self.folder)


TestRotations = Rotations.TestCase
TestRotations.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
