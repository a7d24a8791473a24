"""What `/metrics` says: parsed by Prometheus' own client, checked by its own tool, complete, and free of payloads."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse

from milkrun import __version__
from milkrun.control.coordinator import Project
from milkrun.model.errors import Transient
from milkrun.model.spec import TopicSpec
from milkrun.runtime.stores import PROGRESS
from milkrun.server.metrics import METRICS
from milkrun.testing.clock import ManualClock
from tests.control.flow import Flow
from tests.server.scene import SECRET, append, ask, opened, report, run_shop

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flow]:
    """The project run once, for each test to have a copy of."""
    with pytest.MonkeyPatch.context() as patch:
        yield run_shop(tmp_path_factory.mktemp("ran") / "shop", patch)


@pytest.fixture
def project(ran: Flow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    folder = tmp_path / "shop"
    shutil.copytree(ran.folder, folder)
    ran.install(monkeypatch)
    with opened(folder, ManualClock()) as made:
        with made.log.transaction() as transaction:
            transaction.put(PROGRESS, "w1", None)
        yield made


def scrape(project: Project) -> str:
    """The page as Prometheus gets it without asking for a format."""
    answer = ask(project, "/metrics")
    assert (answer.status_code, answer.headers["content-type"].split(";")[0]) == (200, "text/plain")
    return answer.text


def samples(text: str) -> Samples:
    """Every sample by name and labels; a name and labels may come but once."""
    found: Samples = {}
    for family in parse(text):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found
            found[key] = sample.value
    return found


def value(found: Samples, name: str, **labels: str) -> float:
    return found[name, tuple(sorted(labels.items()))]


def test_what_the_project_did(project: Project) -> None:
    found = samples(scrape(project))
    order, click = "shop.order", "shop.click"
    assert value(found, "milkrun_build_info", version=__version__) == 1
    assert value(found, "milkrun_events_accepted_total", pipeline="shop", topic=order) == 4
    assert value(found, "milkrun_events_accepted_total", pipeline="shop", topic=click) == 2
    assert value(found, "milkrun_events_refused_total", pipeline="shop") == 2
    assert value(found, "milkrun_events_duplicate_total", pipeline="shop") == 1
    of_orders = {"pipeline": "shop", "sink": "out", "topic": order}
    of_clicks = {"pipeline": "shop", "sink": "out", "topic": click}
    for stage, orders, clicks in (("delivered", 3, 0), ("filtered", 0, 2), ("dead", 1, 0)):
        assert value(found, f"milkrun_events_{stage}_total", **of_orders) == orders
        assert value(found, f"milkrun_events_{stage}_total", **of_clicks) == clicks
    assert value(found, "milkrun_sink_lag_events", **of_orders, partition="0") == 0
    assert value(found, "milkrun_sink_lag_seconds", **of_orders, partition="0") == 0
    assert value(found, "milkrun_topic_events", topic=order) == 4
    assert value(found, "milkrun_topic_events", topic="_dead.shop") == 3
    assert value(found, "milkrun_topic_size_bytes", topic=order) > 0


def test_lag_is_of_what_waits(project: Project) -> None:
    now = project.clock.now()
    append(project, "shop.order", [now - 9_000, now - 4_000])
    found = samples(scrape(project))
    labels = {"pipeline": "shop", "sink": "out", "topic": "shop.order", "partition": "0"}
    assert value(found, "milkrun_sink_lag_events", **labels) == 2
    assert value(found, "milkrun_sink_lag_seconds", **labels) == 9.0


@pytest.mark.parametrize(
    ("state", "up"),
    [
        ("running", 1),
        ("idle", 1),
        ("standby", 1),
        ("starting", 0),
        ("retrying", 0),
        ("failed", 0),
        ("stopped", 0),
    ],
)
def test_a_task_is_up_while_it_works(project: Project, state: str, up: int) -> None:
    report(project, {"in": "running", "out": state}, error="why")
    found = samples(scrape(project))
    labels = {"pipeline": "shop", "kind": "sink", "task": "out"}
    assert value(found, "milkrun_task_up", **labels) == up
    assert value(found, "milkrun_task_up", pipeline="shop", kind="source", task="in") == 1
    assert value(found, "milkrun_worker_up", worker="w1") == 1
    progress = value(found, "milkrun_task_last_progress_timestamp_seconds", **labels)
    assert progress == project.clock.now() / 1000


def test_a_worker_that_is_gone(project: Project) -> None:
    report(project, {"in": "running", "out": "idle"}, at=project.clock.now() - 11_000)
    found = samples(scrape(project))
    assert value(found, "milkrun_worker_up", worker="w1") == 0
    assert value(found, "milkrun_task_up", pipeline="shop", kind="source", task="in") == 0


def test_a_task_that_nobody_runs(project: Project) -> None:
    found = samples(scrape(project))
    assert value(found, "milkrun_task_up", pipeline="shop", kind="source", task="in") == 0
    assert not any(name == "milkrun_task_last_progress_timestamp_seconds" for name, _ in found)


def test_every_documented_metric_is_there_and_no_other(project: Project) -> None:
    report(project, {"in": "running", "out": "idle"})
    families = {family.name: family for family in parse(scrape(project))}
    assert set(families) == {info.name for info in METRICS}
    for info in METRICS:
        family = families[info.name]
        assert (family.type, family.documentation) == (info.kind, info.help)
        # Without an archive there is nothing to tell of it: tests/server/test_archive_metrics.py has one.
        assert bool(family.samples) is not info.name.startswith("milkrun_archive_")
        for sample in family.samples:
            assert sample.name == info.name + ("_total" if info.kind == "counter" else "")
            assert set(sample.labels) == set(info.labels)


def test_openmetrics_for_who_asks_for_it(project: Project) -> None:
    answer = ask(project, "/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    families = parse_open(answer.text)  # type: ignore[no-untyped-call]
    assert {family.name for family in families} == {info.name for info in METRICS}


def test_no_payload_and_no_secret_is_served(project: Project) -> None:
    report(project, {"in": "retrying", "out": "failed"}, error="an error that names nothing")
    for path in ("/metrics", "/healthz", "/readyz"):
        assert SECRET not in ask(project, path).text
    assert any(SECRET.encode() in (each.letter.value or b"") for each in project.dead_letters())


def test_counters_do_not_go_back_when_retention_removes_events(project: Project) -> None:
    append(project, "shop.click", [project.clock.now()])
    before = samples(scrape(project))
    project.log.create_topic(TopicSpec("shop.order", retention_seconds=1.0))
    assert isinstance(project.clock, ManualClock)
    project.clock.set_now(4_000_000_000_000)
    append(project, "shop.order", [project.clock.now()])
    project.log.housekeep()
    after = samples(scrape(project))
    assert value(after, "milkrun_topic_events", topic="shop.order") == 1
    counters = [
        {key: count for key, count in found.items() if key[0].endswith("_total")} for found in (before, after)
    ]
    assert counters[0] == counters[1]


def test_a_log_that_cannot_be_read_now_is_told_as_503(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise Transient("the log is busy")

    monkeypatch.setattr(project.log, "ledger", fail)
    answer = ask(project, "/metrics")
    assert (answer.status_code, answer.json()) == (503, {"error": "the log is busy"})


def test_prometheus_own_tool_finds_nothing_wrong(project: Project, promtool: Path) -> None:
    report(project, {"in": "running", "out": "idle"})
    append(project, "shop.order", [project.clock.now() - 1500])
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=scrape(project), capture_output=True, text=True, timeout=60
    )
    assert (checked.stdout, checked.stderr, checked.returncode) == ("", "", 0)


def test_prometheus_own_tool_would_find_something(promtool: Path) -> None:
    """The check above has teeth."""
    wrong = "# TYPE a counter\na 1\na 1\n"
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=wrong, capture_output=True, text=True, timeout=60
    )
    assert checked.returncode != 0
