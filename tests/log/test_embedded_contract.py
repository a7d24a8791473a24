"""The embedded log keeps the contract of all logs."""

from __future__ import annotations

from pathlib import Path

import pytest

from milkrun.log.embedded import EmbeddedLog
from milkrun.log.protocol import Log
from milkrun.testing.clock import ManualClock
from milkrun.testing.log_contract import LogContract


class TestEmbeddedLog(LogContract):
    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.path = tmp_path / "log.db"

    def open_log(self, clock: ManualClock) -> Log:
        return EmbeddedLog(self.path, clock)
