"""The catalogue names functions that exist, and what a bench reports is worked out from its rounds."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from bench.cases.latency import latencies
from bench.catalog import BENCHES, Run
from bench.child import function_named
from bench.measuring import Measured, take_turns
from bench.results import Entry, Reference
from bench.running import Runner, Skipped, summary
from bench.servers import running_servers


def _runs() -> Iterator[Run]:
    for bench in BENCHES:
        if all(map(find_spec, bench.packages)):
            yield from (run for run in (bench.candidate, bench.reference, bench.inputs) if run)


@pytest.mark.parametrize("name", sorted({run.function for run in _runs()}))
def test_functions_exist(name: str) -> None:
    assert callable(function_named(name))


def test_names_differ() -> None:
    assert len({bench.name for bench in BENCHES}) == len(BENCHES)


def _measured(seconds: float, cpu: float, peak: float) -> Measured:
    return Measured(events=1000, seconds=seconds, cpu_seconds=cpu, peak_rss_mb=peak)


def test_summary_takes_medians_and_the_highest_peak() -> None:
    ours = [_measured(1.0, 0.5, 100), _measured(2.0, 0.4, 110), _measured(4.0, 0.1, 90)]
    theirs = [_measured(1.0, 0.1, 50), _measured(0.5, 0.1, 50), _measured(0.25, 0.1, 50)]

    entry = summary(next(bench for bench in BENCHES if bench.name == "log-append"), ours, theirs)

    assert entry == Entry(
        name="log-append",
        events=1000,
        seconds=2.0,
        events_per_s=500.0,
        cpu_us_per_event=400.0,
        peak_rss_mb=110,
        reference=Reference("pyarrow IPC with fsync", 2000.0, 100.0),
        ratio=0.25,
        cpu_ratio=4.0,
    )


def test_turns_give_both_sides_every_batch_and_the_first_turn_alternates() -> None:
    seen: list[str] = []

    ours, theirs = take_turns(
        [1, 2, 3], lambda batch: seen.append(f"ours {batch}"), lambda batch: seen.append(f"theirs {batch}")
    )

    assert seen == ["ours 1", "theirs 1", "theirs 2", "ours 2", "ours 3", "theirs 3"]
    assert ours is not theirs and ours.seconds > 0 and theirs.seconds > 0


def test_latency_is_the_time_until_the_first_answer_with_the_event() -> None:
    # Ten a second from second 100 on; an answer at 100.5 has three events, one at 101 all five.
    found = latencies([(100.5, 3), (101.0, 5)], 100.0, 10)

    assert np.allclose(found, [0.5, 0.4, 0.3, 0.7, 0.6])


def test_missing_server_skips_its_benches_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(folder: Path) -> None:
        pytest.skip("rabbitmq-server is not installed")

    monkeypatch.setattr("tests.servers.rabbitmq.Broker", missing)
    said: list[str] = []
    bench = next(bench for bench in BENCHES if bench.servers == ("rabbitmq",))

    with running_servers({"rabbitmq"}, tmp_path, said.append) as servers:
        assert said == ["no rabbitmq server: rabbitmq-server is not installed"]
        with pytest.raises(Skipped, match="no rabbitmq server here"):
            Runner(tmp_path, "quick", servers).run(bench)


def test_missing_jars_skip_the_benches_on_kafka(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("milkrun.testing.kafka_cluster.missing", lambda: "java is not installed")
    said: list[str] = []
    bench = next(bench for bench in BENCHES if bench.name == "kafka-append")

    with running_servers({"kafka"}, tmp_path, said.append) as servers:
        assert said == ["no kafka server: java is not installed"]
        with pytest.raises(Skipped, match="no kafka server here"):
            Runner(tmp_path, "quick", servers).run(bench)


def test_bench_of_two_servers_needs_both(tmp_path: Path) -> None:
    bench = next(bench for bench in BENCHES if bench.name == "rabbitmq-kafka")

    with pytest.raises(Skipped, match="no rabbitmq server here"):
        Runner(tmp_path, "quick", {"kafka": {"bootstrap": "127.0.0.1:1"}}).run(bench)
