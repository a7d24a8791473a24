"""Ids seen of two handles on one file, as two processes have them, against a dictionary, through any sequence of commits, aborts, deaths of windows,
merges and openings. Everything is small, so that runs, levels and chunks come about within a few steps."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from milkrun.log.embedded import EmbeddedLog
from milkrun.log.embedded.exporting import seen_ids
from milkrun.log.embedded.seen import entries, fingerprints, merging, scope, store
from milkrun.testing.clock import ManualClock
from milkrun.testing.log_contract import NOW

SCOPES = ("shop/in", "depot/in")
WINDOWS = (60, 300, 3_600)
IDS = [b"", b"\0", *(bytes([65 + number % 26]) * (1 + number // 7) for number in range(60)), b"long" * 100]

ids = st.lists(st.sampled_from(IDS) | st.none(), max_size=14)


class SeenMachine(RuleBasedStateMachine):
    """`model` has until when each id of each scope is remembered; `handles` are two logs on one file."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        for module, name, value in self.settings():
            self.patch.setattr(module, name, value)
        self.folder = Path(tempfile.mkdtemp())
        self.clock = ManualClock(NOW)
        self.handles = [EmbeddedLog(self.folder / "log.db", self.clock) for _ in range(2)]
        self.model: dict[tuple[str, bytes], int] = {}

    def settings(self) -> list[tuple[object, str, object]]:
        return [
            (store, "MANY", 4),
            (store, "RECENT_IDS", 6),
            (store, "UPKEEP_IDS", 8),
            (merging, "FAN_IN", 2),
            (merging, "LEAST", 4),
            (merging, "LARGEST", 60),
            (scope, "FEW", 2),
            (scope, "AT_A_TIME", 3),
            (entries, "CHUNK_BYTES", 60),
        ]

    def expected(
        self, model: dict[tuple[str, bytes], int], where: str, asked: list[bytes | None], window: int
    ) -> list[bool]:
        now, answer = self.clock.now(), []
        once: set[bytes] = set()
        for value in asked:
            fresh = value is None or (value not in once and model.get((where, value), 0) <= now)
            if value is not None and value not in once:
                once.add(value)
                if fresh:
                    model[where, value] = now + window * 1000
            answer.append(fresh)
        return answer

    @rule(
        handle=st.integers(0, 1),
        calls=st.lists(
            st.tuples(st.sampled_from(SCOPES), ids, st.sampled_from(WINDOWS)), min_size=1, max_size=3
        ),
        commit=st.booleans() | st.just(True),
    )
    def transact(self, handle: int, calls: list[tuple[str, list[bytes | None], int]], commit: bool) -> None:
        model = dict(self.model)
        transaction = self.handles[handle].transaction()
        for where, asked, window in calls:
            expected = self.expected(model, where, asked, window)
            assert transaction.unseen(where, pa.array(asked, pa.binary()), window).to_pylist() == expected
        if commit:
            transaction.commit()
            self.model = model
        else:
            transaction.rollback()

    @rule(seconds=st.sampled_from([1, 40, 70, 400, 4_000]))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule(handle=st.integers(0, 1))
    def housekeep(self, handle: int) -> None:
        self.handles[handle].housekeep()

    @rule(handle=st.integers(0, 1), share=st.integers(1, 30))
    def merge_a_little(self, handle: int, share: int) -> None:
        log = self.handles[handle]
        with log._write():
            merging.work(log._database.writer, 1, share, self.clock.now())

    @rule(handle=st.integers(0, 1))
    def open_again(self, handle: int) -> None:
        self.handles[handle].close()
        self.handles[handle] = EmbeddedLog(self.folder / "log.db", self.clock)

    @rule(handle=st.integers(0, 1), where=st.sampled_from(SCOPES), value=st.sampled_from(IDS))
    def ask(self, handle: int, where: str, value: bytes) -> None:
        until = self.model.get((where, value), 0)
        expected = until if until > self.clock.now() else None
        assert self.handles[handle].seen_until(where, value) == expected

    @invariant()
    def what_is_carried_is_what_is_remembered(self) -> None:
        now = self.clock.now()
        expected = sorted(
            (where, until, value) for (where, value), until in self.model.items() if until > now
        )
        assert list(seen_ids(self.handles[0], now)) == expected

    def teardown(self) -> None:
        for log in self.handles:
            log.close()
        self.patch.undo()
        shutil.rmtree(self.folder)


class AlikeMachine(SeenMachine):
    """All ids have one of two fingerprints: only the ids themselves tell them apart."""

    def settings(self) -> list[tuple[object, str, object]]:
        def alike(value: bytes) -> int:
            return len(value) % 2 << 63 | 7

        def all_alike(column: pa.BinaryArray) -> fingerprints.Fingerprints:
            return np.array([alike(value) for value in column.to_pylist()], np.uint64)

        return [
            *super().settings(),
            (fingerprints, "fingerprint", alike),
            (fingerprints, "fingerprints", all_alike),
        ]


SeenMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
AlikeMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
TestSeenMachine = SeenMachine.TestCase
TestAlikeMachine = AlikeMachine.TestCase
