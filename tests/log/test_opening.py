"""Which log a project's declaration opens, and what is loaded for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from milkrun.log.embedded import EmbeddedLog
from milkrun.log.opening import log_place, open_log
from milkrun.model.clock import Clock
from milkrun.model.spec import EmbeddedLogSpec, KafkaLogSpec
from milkrun.testing.clock import ManualClock

KAFKA = KafkaLogSpec(
    "kafka-1:9092,kafka-2:9092", "shop", Path("/shop/.milkrun"), {"sasl.password": "hunter2"}
)

LOADED = """
import sys
from pathlib import Path
from milkrun.control import coordinator
from milkrun.log.opening import open_log
from milkrun.model.clock import SystemClock
from milkrun.model.spec import EmbeddedLogSpec
open_log(EmbeddedLogSpec(Path(sys.argv[1])), SystemClock()).close()
print([name for name in sys.modules if name.startswith(("confluent_kafka", "milkrun.log.kafka"))])
"""


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def test_a_file(tmp_path: Path, clock: ManualClock) -> None:
    log = open_log(EmbeddedLogSpec(tmp_path / "log.db"), clock, name="w1")
    assert isinstance(log, EmbeddedLog)
    log.close()


def test_kafka(monkeypatch: pytest.MonkeyPatch, clock: ManualClock) -> None:
    opened: list[tuple[KafkaLogSpec, Clock, str]] = []
    module = ModuleType("milkrun.log.kafka")
    monkeypatch.setattr(module, "KafkaLog", lambda *given: opened.append(given), raising=False)
    monkeypatch.setitem(sys.modules, "milkrun.log.kafka", module)
    open_log(KAFKA, clock)
    open_log(KAFKA, clock, name="host-w1")
    assert opened == [(KAFKA, clock, ""), (KAFKA, clock, "host-w1")]


def test_a_project_on_a_file_loads_no_client_of_kafka(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED, str(tmp_path / "log.db")], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_places(tmp_path: Path) -> None:
    assert log_place(EmbeddedLogSpec(tmp_path / "log.db")) == str(tmp_path / "log.db")
    assert log_place(KAFKA) == "kafka at kafka-1:9092,kafka-2:9092"


def test_a_declaration_hides_its_secrets() -> None:
    assert "hunter2" not in repr(KAFKA)
