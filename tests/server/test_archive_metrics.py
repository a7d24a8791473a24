"""What `/metrics` says of the archive."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.registry import CollectorRegistry

from milkrun.control.coordinator import Project
from milkrun.log.archive.tiered import TieredLog
from milkrun.model.spec import TopicSpec
from milkrun.server.metrics import ProjectCollector
from milkrun.testing.clock import ManualClock
from milkrun.testing.log_contract import NOW
from tests.log.archive.depot import HOUR, append, archive, files

OLD = NOW - int(2 * HOUR * 1000)


def test_size_offset_and_how_far_behind(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "milkrun.yaml").write_text("name: shop\narchive: {url: old, after: 1h}\n")
    clock = ManualClock(NOW)
    with Project(folder, clock=clock) as project:
        log = project.log
        assert isinstance(log, TieredLog)
        log.create_topic(TopicSpec("orders"))
        append(log, "orders", [b"a", b"b"], [OLD, OLD])
        registry = CollectorRegistry()
        registry.register(ProjectCollector(project))

        def value(name: str, **labels: str) -> float | None:
            return registry.get_sample_value(name, {"topic": "orders", **labels})

        assert value("milkrun_archive_offset", partition="0") == 0
        assert value("milkrun_archive_behind_seconds") == pytest.approx(HOUR)
        archive(log, clock)
        (file,) = files(log, "orders")
        assert value("milkrun_archive_offset", partition="0") == 2
        assert value("milkrun_archive_size_bytes") == file.size
        assert value("milkrun_archive_behind_seconds") == 0
        assert value("milkrun_topic_events") == 2
        tasks = {"pipeline": "project", "kind": "archive", "task": "topics"}
        assert registry.get_sample_value("milkrun_task_up", tasks) == 0


def test_nothing_is_said_without_an_archive(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "milkrun.yaml").write_text("name: shop\n")
    with Project(folder, clock=ManualClock(NOW)) as project:
        project.log.create_topic(TopicSpec("orders"))
        registry = CollectorRegistry()
        registry.register(ProjectCollector(project))
        assert registry.get_sample_value("milkrun_archive_size_bytes", {"topic": "orders"}) is None
        assert registry.get_sample_value("milkrun_topic_events", {"topic": "orders"}) == 0
