"""The catalog of applied versions, and workers that run what it has: on an embedded log, which stands for any."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from milkrun.control import applied
from milkrun.control.applied import (
    APPLIED,
    CATALOG,
    Version,
    author,
    current_number,
    current_version,
    digest_of,
    materialise,
    read_version,
    store_version,
)
from milkrun.control.converging import work_applied
from milkrun.control.coordinator import Project
from milkrun.control.literals import literal_secrets
from milkrun.control.loading import load, load_machine, load_version, sketch_version
from milkrun.control.plan import apply_plan
from milkrun.control.running import Outcome, Stopping
from milkrun.log.embedded import EmbeddedLog
from milkrun.log.protocol import Log
from milkrun.model.clock import SystemClock
from milkrun.model.errors import ConfigErrors, Fenced, Refused
from milkrun.model.spec import KafkaLogSpec
from milkrun.runtime.stores import PROGRESS, dump
from milkrun.runtime.stores import load as stored
from milkrun.testing.clock import ManualClock
from tests.control.conftest import Write
from tests.control.flow import PIPELINE, Flow, event, make_flow

SHOP = PIPELINE.replace("amqp://u:geheim@h", "${QUEUE_URL}")
SECRET = {"QUEUE_URL": "amqp://u:geheim@h"}
HEAD = "name: shop\n"


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    opened = EmbeddedLog(tmp_path / "other" / "log.db", ManualClock())
    yield opened
    opened.close()


def keep(log: Log, text: str, base: int | None) -> Version:
    """Apply a project that is this text."""
    return store_version(log, ManualClock(), {"milkrun.yaml": text}, base, {}, whole=True)


# -- what is stored


def test_a_version_is_the_files_as_they_are_written(write: Write) -> None:
    files = {
        "pipelines/shop.yaml": SHOP,
        "schemas/order.json": '{"type": "object"}',
        "notes.txt": "not the project's",
    }
    with Project(write(files), environment=SECRET, clock=ManualClock()) as shop:
        assert shop.plan().version is None
        assert shop.apply().version == 1
        version = current_version(shop.log)
        assert version is not None
        assert version.files == {
            "milkrun.yaml": HEAD,
            "pipelines/shop.yaml": SHOP,
            "schemas/order.json": '{"type": "object"}',
        }
        assert (version.number, version.at, version.by) == (1, 1_700_000_000_000, author())
        assert shop.plan().version == 1
        assert json.loads(shop.log.get(CATALOG, "version/000000000001") or b"")["number"] == 1
        assert shop.log.get(CATALOG, "current") == b"1"
        assert not any("geheim" in value.decode() for _, value in shop.log.scan(CATALOG))


def test_what_has_not_changed_is_not_stored(write: Write) -> None:
    folder = write({"pipelines/shop.yaml": SHOP})
    with Project(folder, environment=SECRET, clock=ManualClock()) as shop:
        shop.apply()
        before = shop.log.version()
        assert shop.apply().version == 1
        assert shop.log.version() == before
    write({"pipelines/shop.yaml": SHOP + "# a remark\n"})
    with Project(folder, environment=SECRET, clock=ManualClock()) as shop:
        assert shop.apply().version == 2


def test_old_versions_are_forgotten(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applied, "KEPT_VERSIONS", 2)
    for number in range(1, 5):
        assert keep(log, f"name: n{number}\n", number - 1 or None).number == number
    assert [key for key, _ in log.scan(CATALOG, "version/")] == [
        "version/000000000003",
        "version/000000000004",
    ]
    with pytest.raises(Refused, match="keeps no version 2; apply the project anew"):
        read_version(log, 2)


def test_an_embedded_log_gets_no_secrets_that_stand_in_files(write: Write) -> None:
    folder = write({"pipelines/shop.yaml": PIPELINE})
    with Project(folder, environment={}, clock=ManualClock()) as shop:
        shop.apply()
        version = current_version(shop.log)
        assert version is not None
        assert version.files is None
        assert version.digest == digest_of(shop.loaded.files)
        with pytest.raises(Refused, match="only be run in the folder"):
            materialise(version, folder)


def test_a_version_can_be_too_large(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applied, "MAX_VERSION_BYTES", 200)
    with pytest.raises(Refused, match="at most 200 can be applied; split the project"):
        keep(log, "#" * 200, None)
    assert current_number(log) is None


# -- what is refused for a cluster


def on_kafka(folder: Path, environment: Mapping[str, str]) -> Any:
    loaded = load(folder, environment)
    return replace(loaded, spec=replace(loaded.spec, log=KafkaLogSpec("k:1", "shop", folder)))


def test_a_cluster_gets_no_secrets_that_stand_in_files(write: Write, log: Log) -> None:
    folder = write({"pipelines/shop.yaml": PIPELINE})
    with pytest.raises(ConfigErrors) as caught:
        apply_plan(on_kafka(folder, {}), log, ManualClock())
    (error,) = caught.value.errors
    assert str(error).startswith("pipelines/shop.yaml:3:13: sources.in.queue.url: a secret stands here")
    assert "write ${QUEUE_URL}" in error.remedy
    assert "geheim" not in str(error)
    assert not list(log.topics())


def test_a_cluster_gets_no_files_from_elsewhere(write: Write, log: Log, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "order.json").write_text("{}")
    folder = write(
        {"pipelines/shop.yaml": SHOP.replace("{type: body.type}", "{type: body.type, folder: ../far}")}
    )
    with pytest.raises(ConfigErrors, match=r"\.\./far/order\.json lies outside"):
        apply_plan(on_kafka(folder, SECRET), log, ManualClock())


def test_a_machine_without_pipelines_does_not_end_everybodys(write: Write, log: Log, tmp_path: Path) -> None:
    folder = write({"pipelines/shop.yaml": SHOP})
    apply_plan(on_kafka(folder, SECRET), log, ManualClock())
    (folder / "pipelines/shop.yaml").unlink()
    with pytest.raises(Refused, match="no pipelines, and the 1 applied ones would stop"):
        apply_plan(on_kafka(folder, {}), log, ManualClock())
    apply_plan(on_kafka(folder, {}), log, ManualClock(), allow_incompatible=True)
    assert list(log.scan(APPLIED)) == []


@pytest.mark.parametrize(
    ("url", "literal"),
    [
        ("${URL}", False),
        ("amqp://u:${PASSWORD}@h", False),
        ("${URL:-amqp://localhost:5672/}", False),
        ("amqp://localhost", False),
        ("", False),
        ("${file:/run/secrets/url}", False),
        ("x", True),
        ("1234", True),
        ("amqp://u:geheim@${HOST}", True),
        ("${URL:-amqp://u:geheim@h}", True),
        ("https://h/token", True),
    ],
)
def test_what_counts_as_a_secret(url: str, literal: bool) -> None:
    files = {"pipelines/p.yaml": f"sources: {{in: {{queue: {{url: '{url}'}}}}}}\n"}
    assert [error.path for error in literal_secrets(files)] == (
        [("sources", "in", "queue", "url")] if literal else []
    )


def test_secrets_of_the_log_and_passwords_anywhere() -> None:
    login = "log: {kafka: {bootstrap: 'a:1', security: {username: u, password: hunter2}}}\n"
    files = {
        "milkrun.yaml": login,
        "pipelines/p.yaml": "sinks:\n  out:\n    table: {path: 'db://u:hunter2@h', password: '${X}'}\n    gone: 1\n",
        "schemas/x.json": "{",
    }
    errors = literal_secrets(files)
    assert [error.path for error in errors] == [
        ("log", "kafka", "security", "password"),
        ("sinks", "out", "table", "path"),
    ]
    assert not any("hunter2" in str(error) for error in errors)


# -- several at once


def test_the_slower_of_two_applies_is_told(log: Log) -> None:
    assert keep(log, "name: a\n", None).number == 1
    with pytest.raises(
        Fenced, match=f"{author()} has just applied something else as version 1, so nothing was"
    ):
        keep(log, "name: b\n", None)
    assert current_number(log) == 1
    assert keep(log, "name: b\n", 1).number == 2


def test_the_same_applied_at_once_is_one_version(log: Log) -> None:
    assert [keep(log, "name: a\n", None).number for _ in range(2)] == [1, 1]


def test_an_apply_that_was_fenced_is_tried_anew(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    seize, times = log.seize, iter(range(100))

    def seize_and_lose(group: str, item: str, member: str) -> Any:
        lease = seize(group, item, member)
        if next(times) < 2:
            seize(group, item, "another")
        return lease

    monkeypatch.setattr(log, "seize", seize_and_lose)
    assert keep(log, "name: a\n", None).number == 1
    monkeypatch.setattr(applied, "TRIES", 1)
    times = iter(range(100))
    with pytest.raises(Fenced, match="others have been applying"):
        keep(log, "name: b\n", 1)


# -- what is read


@pytest.mark.parametrize(
    "name", ["../x.json", "/etc/x.json", "a/../../x.json", "run.sh", "pipelines/a/b.yaml"]
)
def test_a_version_with_strange_files_is_refused(log: Log, name: str) -> None:
    with log.transaction() as transaction:
        transaction.put(CATALOG, "version/000000000001", dump(Version(1, "d", 0, "x", {name: ""})))
    with pytest.raises(Refused, match="which is no project's"):
        read_version(log, 1)


@pytest.mark.parametrize("value", [b"{", b'{"number": 1}', b"[]"])
def test_a_version_that_is_none_is_refused(log: Log, value: bytes) -> None:
    with log.transaction() as transaction:
        transaction.put(CATALOG, "version/000000000001", value)
        transaction.put(CATALOG, "current", b"x")
    with pytest.raises(Refused, match="can't be read"):
        read_version(log, 1)
    with pytest.raises(Refused, match="names no version"):
        current_number(log)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_files_are_written_once_and_old_ones_forgotten(tmp_path: Path) -> None:
    files = {"milkrun.yaml": HEAD, "pipelines/é.yaml": "a: é\r\n", "schemas/": ""}
    targets = [materialise(Version(number, "d", 0, "x", files), tmp_path) for number in range(1, 7)]
    target = targets[-1]
    assert target == tmp_path / ".milkrun/applied/6"
    assert (target / "pipelines/é.yaml").read_bytes() == "a: é\r\n".encode()
    assert (target / "schemas").is_dir()
    assert names(target.parent) == ["2", "3", "4", "5", "6"]
    before = target.stat().st_ino
    assert materialise(Version(6, "d", 0, "x", files), tmp_path).stat().st_ino == before
    # A log made anew counts from 1 again.
    changed = materialise(Version(6, "e", 0, "y", {"milkrun.yaml": "name: other\n"}), tmp_path)
    assert sorted(path.name for path in changed.rglob("*")) == ["milkrun.yaml"]
    assert names(target.parent) == ["2", "3", "4", "5", "6"]


def test_a_version_runs_with_what_this_machine_has(write: Write, tmp_path: Path) -> None:
    head = "name: shop\nlog: {kafka: {bootstrap: 'a:1', security: {password: '${ELSEWHERE}'}}}\nserver: {port: 1}\n"
    version = Version(1, "d", 0, "x", {"milkrun.yaml": head, "pipelines/shop.yaml": SHOP})
    folder = write(
        {"milkrun.yaml": "log: {embedded: {path: here.db}}\n", "pipelines/bad.yaml": "- no pipeline"}
    )
    machine = load_machine(folder, {}).spec
    assert machine.pipelines == ()
    files = materialise(version, folder)
    spec = load_version(files, machine, SECRET).spec
    assert (spec.name, spec.folder, spec.log, spec.server) == ("shop", folder, machine.log, machine.server)
    assert [pipeline.name for pipeline in spec.pipelines] == ["shop"]
    with pytest.raises(ConfigErrors) as caught:
        load_version(files, machine, {})
    assert str(caught.value).startswith(
        "pipelines/shop.yaml:3:13: sources.in.queue.url: the environment variable QUEUE_URL"
    )
    sketched = sketch_version(files, machine).pipelines
    assert [(each.name, each.sinks[0].topics) for each in sketched] == [("shop", ("shop.*",))]


# -- workers


class Running:
    """A worker of the applied version in a thread, and what it said."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.stopping = Stopping()
        self.said: list[str] = []
        self.outcome: Outcome | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self.outcome = work_applied(self.project, self.stopping, say=self.said.append)

    def end(self) -> None:
        self.stopping.request()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def report(self) -> dict[str, Any]:
        """What the worker has written of itself."""
        value = self.project.log.get(PROGRESS, "w1")
        return stored(value) if value else {"version": None, "problem": None, "tasks": []}

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for the condition, looking at each commit."""
        log, clock = self.project.log, SystemClock()
        version, deadline = log.version(), clock.monotonic() + 60
        while not condition():
            assert clock.monotonic() < deadline
            version = log.wait(version, 0.1)


@contextmanager
def running(folder: Path, environment: Mapping[str, str]) -> Iterator[Running]:
    """A bare machine's worker, ended in the end."""
    with Project(folder, environment=environment, bare=True) as project:
        made = Running(project)
        try:
            yield made
        finally:
            made.end()


def apply(flow: Flow, environment: Mapping[str, str] = SECRET, **files: str) -> int | None:
    """Apply from another folder than the worker's, on the same log."""
    laptop = flow.folder.parent / "laptop"
    for name, text in {"shop": SHOP, **files}.items():
        path = laptop / "pipelines" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (laptop / "milkrun.yaml").write_text("name: shop\nlog: {embedded: {path: ../shop/.milkrun/log.db}}\n")
    with Project(laptop, environment=environment) as project:
        return project.apply().version


def test_a_worker_waits_for_a_version_and_goes_over_to_newer_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = make_flow(tmp_path / "shop", monkeypatch)
    (flow.folder / "pipelines/shop.yaml").unlink()
    flow.give(event(1), event(2))
    with running(flow.folder, SECRET) as worker:
        worker.until(lambda: bool(worker.said))
        assert worker.said[0].startswith("waiting until a version is applied")
        assert apply(flow) == 1
        worker.until(lambda: worker.report()["version"] == 1)
        worker.until(lambda: len(flow.target.values("shop.order")) == 2)
        assert apply(flow, shop=SHOP.replace("10ms", "20ms")) == 2
        worker.until(lambda: worker.report()["version"] == 2)
        assert {task["name"] for task in worker.report()["tasks"]} == {"in", "out"}
        # A remark changes the number, and no task is stopped for it.
        assert apply(flow, shop=SHOP.replace("10ms", "20ms") + "# a remark\n") == 3
        worker.until(lambda: worker.report()["version"] == 3)
        status = worker.project.status()
        assert (status.version, status.workers[0].version, status.workers[0].problem) == (3, 3, None)
    assert worker.outcome == Outcome("stopped")
    assert worker.said[1:] == [f"running version {number}, applied by {author()}" for number in (1, 2, 3)]


def test_a_version_that_can_not_be_loaded_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = make_flow(tmp_path / "shop", monkeypatch)
    apply(flow)
    with running(flow.folder, SECRET) as worker:
        worker.until(lambda: worker.report()["version"] == 1)
        more = {**SECRET, "OTHER": "amqp://h"}
        apply(flow, more, second=SHOP.replace("QUEUE_URL", "OTHER"))
        worker.until(lambda: worker.report()["problem"] is not None)
        report = worker.report()
        assert report["version"] == 1
        assert report["problem"].startswith(
            "pipelines/second.yaml:3:13: sources.in.queue.url: the environment"
        )
        assert {task["pipeline"] for task in report["tasks"]} == {"shop"}
        flow.give(event(1))
        worker.until(lambda: len(flow.target.values("shop.order")) == 1)
        assert apply(flow, second=SHOP) == 3
        worker.until(lambda: worker.report()["version"] == 3)
        assert worker.report()["problem"] is None
        assert {task["pipeline"] for task in worker.report()["tasks"]} == {"second", "shop"}


def test_until_idle_ends_with_the_current_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = make_flow(tmp_path / "shop", monkeypatch)
    flow.give(event(1))
    apply(flow)
    with Project(flow.folder, environment=SECRET, bare=True) as project:
        assert work_applied(project, Stopping(), until_idle=True) == Outcome("idle")
    assert len(flow.target.values("shop.order")) == 1
    with Project(flow.folder, environment={}, bare=True) as project:
        outcome = work_applied(project, Stopping(), until_idle=True)
    assert outcome.reason == "failed"
    assert "QUEUE_URL isn't set" in str(outcome.failure)


def test_a_version_without_files_is_the_folders_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = make_flow(tmp_path / "shop", monkeypatch)
    flow.give(event(1))
    with Project(flow.folder, environment={}) as project:
        project.apply()
    with Project(flow.folder, environment={}, bare=True) as project:
        assert work_applied(project, Stopping(), until_idle=True) == Outcome("idle")
    assert len(flow.target.values("shop.order")) == 1
