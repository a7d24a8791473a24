"""Replays of what was delivered long ago, from the hot log or from the archive, beside the live path's delivery of the same events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bench.cases.archive import archive_all, fill_hot
from bench.cases.sinks import check_lake, check_table
from bench.measuring import Measured, Stopwatch, Work
from bench.pipelines import TOPIC, await_delivered, delivered, project, running, sink
from milkrun.control.replaying import Replays
from milkrun.log.protocol import Log
from milkrun.model.clock import SystemClock
from milkrun.model.spec import ArchiveSpec, EmbeddedLogSpec, ProjectSpec
from milkrun.runtime.generations import party_of
from milkrun.runtime.registry import sink_class
from milkrun.runtime.worker import Worker

CUTS = 10
"""How many a run has."""

SINKS: Mapping[str, Mapping[str, Any]] = {
    "parquet": {"url": "target", "partition_by": ["topic"]},
    "duckdb": {"path": "target.duckdb"},
}


def prepare(work: Work) -> None:
    """Two logs of the same events: one that has all of them still, and one that has archived and trimmed them."""
    fill_hot(work.inputs / "hot", work.events).close()
    cold = fill_hot(work.inputs / "archive", work.events)
    archive_all(cold)
    if cold.hot.bounds(TOPIC, 0) != (work.events, work.events):
        raise RuntimeError(f"the log still holds {cold.hot.bounds(TOPIC, 0)}")
    cold.close()


def replay(work: Work) -> Measured:
    """Ours: production has delivered everything, and a second generation of the sink delivers it anew, from the log in the folder that the
    option `tier` names."""
    spec = _project(work, work.options["tier"], "replay")
    pipeline = spec.pipelines[0].name
    with running(spec) as (worker, log):
        await_delivered(worker, log, work.events, "target", pipeline=pipeline)
        Replays(spec, log, SystemClock()).start(pipeline)
        measured = _measured(work, worker, log, party_of("target", 2), pipeline)
    _check(work, "__g2")
    return measured


def live(work: Work) -> Measured:
    """The reference: the same sink as production, on the log that has all events."""
    spec = _project(work, "hot", "live")
    pipeline = spec.pipelines[0].name
    with running(spec) as (worker, log):
        measured = _measured(work, worker, log, "target", pipeline)
    _check(work, "")
    return measured


def _measured(work: Work, worker: Worker, log: Log, party: str, pipeline: str) -> Measured:
    """From the first cut that is there to the last: a replay begins when a worker next looks for one, which isn't what this is about."""
    await_delivered(worker, log, 1, party, pipeline=pipeline)
    first = delivered(log, party, pipeline)
    if first == work.events:
        raise RuntimeError("all was delivered before anybody looked")
    with Stopwatch() as watch:
        await_delivered(worker, log, work.events, party, pipeline=pipeline)
    return watch.measured(work.events - first)


def _project(work: Work, tier: str, name: str) -> ProjectSpec:
    """A pipeline of the round's own, which begins at offset 0 and learns the schema anew."""
    inputs = work.inputs / tier
    connector = work.options["sink"]
    cut = replace(sink_class(connector).default_cut, rows=max(1, work.events // CUTS))
    whole = project(
        work.folder,
        EmbeddedLogSpec(inputs / "log.db"),
        sinks=(sink("target", connector, SINKS[connector], cut),),
        pipeline=f"{name}{work.round}",
    )
    # Nothing more is archived meanwhile: no rule names a topic.
    return replace(whole, archive=ArchiveSpec(str(inputs / "archive"), inputs, {}))


def _check(work: Work, suffix: str) -> None:
    if work.options["sink"] == "parquet":
        check_lake(work.folder / f"target{suffix}", work.events)
    else:
        check_table(work.folder / "target.duckdb", f"{TOPIC}{suffix}", work.events)
