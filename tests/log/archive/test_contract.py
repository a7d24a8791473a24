"""A log with an archive keeps the contract of all logs: with nothing archived, and with everything archived as soon as it is there."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from milkrun.log.archive import TieredLog
from milkrun.log.embedded import EmbeddedLog
from milkrun.log.protocol import Log, PartitionInfo, Waiting
from milkrun.model.batch import Batch
from milkrun.model.errors import OffsetOutOfRange
from milkrun.model.spec import ArchiveRule, TopicSpec
from milkrun.testing.clock import ManualClock
from milkrun.testing.log_contract import NOW, LogContract, append, records, values
from tests.log.archive import depot

AT_ONCE = ArchiveRule(after_seconds=-1e12, keep_hot_seconds=-1e12, file_bytes=10_000)
"""An event is old before it happens."""


class EagerLog(TieredLog):
    """Archives and trims everything new before each look at events. `archived` counts them."""

    opened: ClassVar[list[EmbeddedLog]] = []

    def __init__(self, folder: Path, clock: ManualClock) -> None:
        embedded = EmbeddedLog(folder / "log.db", clock)
        super().__init__(embedded, depot.spec(folder, {"*": AT_ONCE}))
        self.opened.append(embedded)
        self._clock = clock
        self._seen = -1
        self.archived = 0

    def eager(self) -> None:
        # In the middle of a test's own transaction there is nothing to archive, and no place for a second one.
        busy = any(not each._database.writer.get_autocommit() for each in self.opened)
        if self.version() != self._seen and not busy:
            self.archived += depot.archive(self, self._clock).events
            self._seen = self.version()

    def close(self) -> None:
        super().close()
        self.opened[:] = [each for each in self.opened if each is not self.hot]

    def read(
        self, topic: str, partition: int, offset: int, *, max_rows: int = 65_536, max_bytes: int = 1 << 24
    ) -> Batch:
        self.eager()
        return super().read(topic, partition, offset, max_rows=max_rows, max_bytes=max_bytes)

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        self.eager()
        return super().bounds(topic, partition)

    def partition(self, topic: str, partition: int) -> PartitionInfo:
        self.eager()
        return super().partition(topic, partition)

    def waiting(self, topic: str, partition: int, offset: int) -> Waiting:
        self.eager()
        return super().waiting(topic, partition, offset)

    def offset_at(self, topic: str, partition: int, timestamp: int) -> int:
        self.eager()
        return super().offset_at(topic, partition, timestamp)


class TestNothingArchived(LogContract):
    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def open_log(self, clock: ManualClock) -> Log:
        return depot.open_tiered(self.folder, clock, {})


class TestEverythingArchived(LogContract):
    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def open_log(self, clock: ManualClock) -> Log:
        return EagerLog(self.folder, clock)

    def test_it_is_read_from_the_archive(self, log: Log) -> None:
        append(log, "shop", [b"a", b"b"])
        assert isinstance(log, EagerLog)
        assert values(log, "shop") == [b"a", b"b"]
        assert log.archived == 2
        assert log.hot.bounds("shop", 0) == (2, 2)
        assert values(log.hot, "shop") == []

    # Where there is an archive, retention and trimming free the log, and take nothing from readers.

    def test_retention_by_time_drops_only_what_is_too_old(self, log: Log, clock: ManualClock) -> None:
        log.create_topic(TopicSpec("short", retention_seconds=100))
        with log.transaction() as transaction:
            transaction.append("short", 0, records([b"old"], timestamps=[NOW - 200_000]))
        log.housekeep()
        assert values(log, "short") == [b"old"]

    def test_what_is_trimmed_is_gone_and_the_rest_stays(self, log: Log) -> None:
        append(log, "shop", [b"a", b"b"])
        assert values(log, "shop") == [b"a", b"b"]
        assert log.trim("shop", 0, 1) == 2
        assert values(log, "shop") == [b"a", b"b"]
        for offset in (-1, 3):
            with pytest.raises(OffsetOutOfRange) as caught:
                log.read("shop", 0, offset)
            assert (caught.value.start, caught.value.end) == (0, 2)

    def test_a_trim_never_takes_what_was_not_to_go(self, log: Log) -> None:
        written = [str(number).encode() for number in range(3_000)]
        append(log, "shop", written)
        start = log.trim("shop", 0, 2_500)
        assert 0 < start <= 2_500
        assert values(log, "shop") == written[start:]

    def test_all_can_be_trimmed_and_offsets_go_on(self, log: Log) -> None:
        append(log, "shop", [b"a", b"b"])
        assert values(log, "shop") == [b"a", b"b"]
        append(log, "shop", [b"c"])
        assert values(log, "shop") == [b"a", b"b", b"c"]
        assert log.bounds("shop", 0) == (0, 3)
