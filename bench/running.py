"""Runs benches: prepares their inputs, alternates ours and the reference over several rounds, each in a fresh process, and lets the
plain-Python JSON engine have one run where the bench says so.

A process that fails or takes too long fails its bench alone; the others go on.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, Literal

import msgspec

from bench.catalog import Bench, Run
from bench.measuring import Measured, Work
from bench.results import Entry, Reference

Size = Literal["quick", "ordinary", "long"]
CHILD_SECONDS = {"quick": 60.0, "ordinary": 300.0, "long": 3600.0}
ENGINE_VARIABLE = "MILKRUN_JSON_ENGINE"
INSTALL_PEERS = ".venv/bin/python -m pip install --require-hashes -r requirements/peers.txt"


class Skipped(Exception):
    """A bench can't run here; the message says why."""


class Failed(Exception):
    """A bench went wrong; the message says how."""


@dataclass(frozen=True)
class Runner:
    """Runs benches below `folder`. `servers` holds the options that reach each server that is up."""

    folder: Path
    size: Size
    servers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def run(self, bench: Bench) -> Entry:
        """The bench's result. Raises Skipped or Failed."""
        _check_needs(bench, self.servers)
        folder = self.folder / bench.name
        folder.mkdir()
        try:
            inputs = folder / "inputs"
            inputs.mkdir()
            if bench.inputs is not None:
                self._child(bench, bench.inputs, inputs, inputs, 0)
            ours, theirs = self._rounds(bench, folder, inputs)
            plain = self._plain(bench, folder, inputs) if bench.plain else None
            return summary(bench, ours, theirs, plain)
        finally:
            shutil.rmtree(folder)

    def _rounds(
        self, bench: Bench, folder: Path, inputs: Path
    ) -> tuple[Sequence[Measured], Sequence[Measured]]:
        ours: list[Measured] = []
        theirs: list[Measured] = []
        for number in range(1 if self.size == "quick" else bench.rounds):
            sides = [(ours, bench.candidate)]
            if bench.reference is not None:
                sides.append((theirs, bench.reference))
            # Whoever always ran second would find warmer caches.
            for results, run in sides if number % 2 == 0 else reversed(sides):
                measured = self._measure(bench, run, folder, inputs, number)
                results.append(measured)
                if measured.beside is not None:
                    theirs.append(measured.beside)
        return ours, theirs

    def _plain(self, bench: Bench, folder: Path, inputs: Path) -> Measured:
        after_all_rounds = bench.rounds
        return self._measure(bench, bench.candidate, folder, inputs, after_all_rounds, "python")

    def _measure(
        self, bench: Bench, run: Run, folder: Path, inputs: Path, number: int, engine: str | None = None
    ) -> Measured:
        own = folder / "run"
        own.mkdir()
        measured = self._child(bench, run, own, inputs, number, engine)
        shutil.rmtree(own)
        if measured is None:
            raise Failed(f"{run.function} measured nothing")
        return measured

    def _child(
        self, bench: Bench, run: Run, folder: Path, inputs: Path, number: int, engine: str | None = None
    ) -> Measured | None:
        options = dict(run.options)
        for server in bench.servers:
            options.update(self.servers[server])
        work = Work(folder=folder, inputs=inputs, events=self._events(bench), round=number, options=options)
        work_file, result_file = self.folder / "work.json", self.folder / "result.json"
        work_file.write_bytes(work.to_json())
        result_file.unlink(missing_ok=True)
        command = [sys.executable, "-m", "bench.child", run.function, str(work_file), str(result_file)]
        environment = os.environ if engine is None else {**os.environ, ENGINE_VARIABLE: engine}
        try:
            done = subprocess.run(
                command,
                stderr=subprocess.PIPE,
                text=True,
                timeout=CHILD_SECONDS[self.size],
                env=environment,
            )
        except subprocess.TimeoutExpired:
            raise Failed(f"{run.function} took longer than {CHILD_SECONDS[self.size]:.0f} s") from None
        if done.returncode or not result_file.exists():
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise Failed(f"{run.function} ended with {done.returncode}: {last}")
        return msgspec.json.decode(result_file.read_bytes(), type=Measured | None)

    def _events(self, bench: Bench) -> int:
        if self.size == "quick":
            return bench.quick
        return bench.long or bench.events if self.size == "long" else bench.events


def _check_needs(bench: Bench, servers: Mapping[str, Mapping[str, Any]]) -> None:
    for connector in bench.connectors:
        if find_spec(f"milkrun.connectors.{connector}") is None:
            raise Skipped(f"this Milkrun has no connector {connector}")
    for server in bench.servers:
        if server not in servers:
            raise Skipped(f"no {server} server here")
    for package in bench.packages:
        if find_spec(package) is None:
            raise Skipped(f"{package} isn't installed: {INSTALL_PEERS}")


def summary(
    bench: Bench, ours: Sequence[Measured], theirs: Sequence[Measured], plain: Measured | None = None
) -> Entry:
    """The entry: medians over the rounds, and the highest peak of memory; `plain` is the run by the plain-Python engine."""
    rate = median(run.events_per_s for run in ours)
    reference = None
    if theirs:
        reference = Reference(
            bench.reference_name,
            round(median(run.events_per_s for run in theirs), 1),
            round(median(map(_cpu_us, theirs)), 3),
        )
    events = int(median(run.events for run in ours))
    return Entry(
        name=bench.name,
        events=events,
        seconds=round(events / rate, 4),
        events_per_s=round(rate, 1),
        cpu_us_per_event=round(median(map(_cpu_us, ours)), 3),
        peak_rss_mb=round(max(run.peak_rss_mb for run in ours), 1),
        reference=reference,
        ratio=round(rate / reference.events_per_s, 3) if reference else None,
        cpu_ratio=_cpu_ratio(ours, theirs),
        python_cpu_us_per_event=None if plain is None else round(_cpu_us(plain), 3),
        extra=ours[-1].extra,
    )


def _cpu_us(run: Measured) -> float:
    return run.cpu_seconds / run.events * 1e6


def _cpu_ratio(ours: Sequence[Measured], theirs: Sequence[Measured]) -> float | None:
    """Of the two runs of each round, which had the same machine; None where there are none, or the reference took no time to speak of."""
    if not theirs or not all(map(_cpu_us, theirs)):
        return None
    return round(median(_cpu_us(one) / _cpu_us(two) for one, two in zip(ours, theirs, strict=True)), 3)
