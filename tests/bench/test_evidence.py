"""Replays, previews and sizes of cuts are measured by cases that run, and that count what came out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.cases import previews, replays, sizes
from bench.measuring import Measured, Work
from bench.servers import running_servers
from tests.needs import need_fakesnow, need_postgres

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.xdist_group("bench_evidence")]

EVENTS = 3_000


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the cases of replays read."""
    folder = tmp_path_factory.mktemp("inputs")
    replays.prepare(Work(folder=folder, inputs=folder, events=EVENTS))
    return folder


@pytest.mark.parametrize(
    ("sink", "tier"),
    [
        ("parquet", "archive"),
        ("duckdb", "hot"),
        pytest.param("parquet", "hot", marks=pytest.mark.soak),
        pytest.param("duckdb", "archive", marks=pytest.mark.soak),
    ],
)
def test_replay_and_the_live_path_beside_it(inputs: Path, tmp_path: Path, sink: str, tier: str) -> None:
    for number, case in enumerate((replays.replay, replays.live)):
        folder = tmp_path / case.__name__
        folder.mkdir()
        options = {"sink": sink, "tier": tier}
        # The log is the module's: each case has pipelines of its own on it, told apart by rounds.
        number += 10 * (sink == "duckdb") + 20 * (tier == "archive")
        measured = case(Work(folder=folder, inputs=inputs, events=EVENTS, round=number, options=options))
        assert 0 < measured.events < EVENTS


@pytest.mark.parametrize(
    ("case", "events"),
    [(previews.path, 4_000), pytest.param(previews.latency, 1_500, marks=pytest.mark.soak)],
)
def test_previews_beside_a_running_pipeline(
    tmp_path: Path, case: Callable[[Work], Measured], events: int
) -> None:
    options: dict[str, Any] = {"batch": 100, "connections": 4, "rate": 500}
    measured = case(Work(folder=tmp_path, inputs=tmp_path, events=events, options=options))
    assert measured.extra["previews"] > 0


def test_a_previewer_that_sees_nothing_is_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="no preview has seen an event"),
        previews.previewing(Work(folder=tmp_path, inputs=tmp_path, events=1), previews.WAREHOUSE),
    ):
        pass


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    need_postgres()
    need_fakesnow()
    folder = tmp_path_factory.mktemp("servers")
    with running_servers({"postgres", "snowflake"}, folder, pytest.fail) as started:
        yield {name: value for options in started.values() for name, value in options.items()}


def test_each_size_of_cut_is_delivered(servers: dict[str, Any], tmp_path: Path) -> None:
    for case in (sizes.postgres_copies, sizes.snowflake_files):
        folder = tmp_path / case.__name__
        folder.mkdir()
        options = {**servers, "rows": [500, 100_000]}
        work = Work(folder=folder, inputs=folder, events=2_000, options=options)
        sizes.prepare(work)
        assert set(case(work).extra) == {"events_per_s_at_500_rows", "events_per_s_at_2000_rows"}
