"""The embedded log keeps the contract of all logs."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from milkrun.log.embedded import EmbeddedLog
from milkrun.log.protocol import Log
from milkrun.model.spec import TopicSpec
from milkrun.testing.clock import ManualClock
from milkrun.testing.log_contract import LogContract, append


class TestEmbeddedLog(LogContract):
    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.path = tmp_path / "log.db"

    def open_log(self, clock: ManualClock) -> Log:
        return EmbeddedLog(self.path, clock)

    def test_ids_of_one_transaction_in_two_calls(self, log: Log) -> None:
        with log.transaction() as transaction:
            assert transaction.unseen("s", pa.array(["a", "b"]), 60).to_pylist() == [True, True]
            assert transaction.unseen("s", pa.array(["c", "b", "d"]), 60).to_pylist() == [True, False, True]
        with log.transaction() as transaction:
            seen = transaction.unseen("s", pa.array(["a", "b", "c", "d", "e"]), 60).to_pylist()
        assert seen == [False, False, False, False, True]

    def test_a_read_gives_sixteen_megabytes_or_as_much_as_it_is_asked_for(self, log: Log) -> None:
        log.create_topic(TopicSpec("large"))
        append(log, "large", [b"x" * (1 << 20)] * 20)
        first = log.read("large", 0, 0)
        assert 1 <= len(first) <= 16
        rest = log.read("large", 0, first.next_offset)
        assert len(first) + len(rest) == 20
        # A cut is one read: a bound of the log's own would make every cut small.
        assert len(log.read("large", 0, 0, max_bytes=1 << 26)) == 20

    def test_a_read_gives_all_the_rows_it_is_asked_for(self, log: Log) -> None:
        log.create_topic(TopicSpec("small"))
        for first in (0, 10, 20):
            append(log, "small", [b"%d" % number for number in range(first, first + 10)])
        batch = log.read("small", 0, 5, max_rows=18)
        assert batch.events.column("value").to_pylist() == [b"%d" % number for number in range(5, 23)]
        assert batch.next_offset == 23
        assert len(log.read("small", 0, 23, max_rows=18)) == 7
