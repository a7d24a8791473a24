"""Peers read the events that Milkrun delivers, all of them, typed: else what they take would tell nothing."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.cases import peers
from bench.catalog import BENCHES, Bench
from bench.child import function_named
from bench.measuring import Work
from bench.peers.files import LINES, check
from bench.running import Runner, Skipped

EVENTS = 2_000
"""The log is filled by thousands."""
PEERS = [bench for bench in BENCHES if bench.name.startswith("peer-")]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    peers.prepare(Work(folder=folder, inputs=folder, events=EVENTS))
    return folder


@pytest.mark.parametrize("bench", PEERS, ids=lambda bench: bench.name)
def test_a_peer_has_every_event(bench: Bench, inputs: Path, tmp_path: Path) -> None:
    for package in bench.packages:
        pytest.importorskip(package, reason=f"{package} is not installed")
    assert bench.reference is not None
    measured = function_named(bench.reference.function)(Work(folder=tmp_path, inputs=inputs, events=EVENTS))
    assert measured is not None and measured.events == EVENTS
    rows = _customers(tmp_path)
    orders = [json.loads(line) for line in (inputs / LINES).read_bytes().splitlines()]
    assert sorted(rows) == sorted((order["id"], order["customer"]["address"]["number"]) for order in orders)


def _customers(folder: Path) -> list[tuple[str, int]]:
    """Of each event its id, and the number of its customer's house."""
    (file,) = folder.iterdir()
    if file.suffix == ".parquet":
        found = pq.read_table(file).to_pylist()
        return [(row["id"], row["customer"]["address"]["number"]) for row in found]
    with duckdb.connect(str(file), read_only=True) as connection:
        return connection.execute("SELECT id, customer.address.number FROM events").fetchall()


def test_a_file_that_lacks_events_or_columns_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "events.parquet"
    pq.write_table(pa.table({"customer": ["a"]}), file)
    check(file, 1)
    with pytest.raises(RuntimeError, match="holds 1 events of customer; 2 are due"):
        check(file, 2)
    pq.write_table(pa.table({"value": ["{}"]}), file)
    with pytest.raises(RuntimeError, match="of value"):
        check(file, 1)


def test_a_peer_that_is_not_installed_is_skipped_with_the_way_to_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bench,) = (bench for bench in PEERS if bench.name == "peer-polars-parquet")
    monkeypatch.setattr("bench.running.find_spec", lambda name: None if name == "polars" else object())
    with pytest.raises(Skipped, match=r"polars isn't installed: .*requirements/peers.txt"):
        Runner(tmp_path, "quick").run(bench)
