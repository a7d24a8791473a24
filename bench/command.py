"""The command: chooses benches, runs them one after the other, prints a table and writes results.json."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bench import results
from bench.catalog import BENCHES, Bench
from bench.results import Entry
from bench.running import Failed, Runner, Size, Skipped
from bench.servers import running_servers

TABLE_WIDTH = 120
OUTPUT = Path(__file__).parent / "results.json"
FOLDER = Path(__file__).parent.parent / ".cache" / "bench"
"""On the checkout's disk: folders for temporary files often are memory, where an fsync costs nothing."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; 0, or 1 if a bench failed, 2 for wrong arguments."""
    options = _parser().parse_args(arguments)
    chosen = [bench for bench in BENCHES if not options.only or bench.name in options.only]
    size: Size = "quick" if options.quick else "long" if options.long else "ordinary"
    notes = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    started = time.monotonic()
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        entries, failed = _run_all(chosen, Path(folder), size, notes)
    results.show(_console(), entries)
    results.write(options.output, entries)
    notes.print(f"{time.monotonic() - started:.0f} s; results in {options.output}")
    return 1 if failed else 0


def _console() -> Console:
    """The terminal, or lines wide enough for the table in a pipe."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=TABLE_WIDTH)


def _run_all(chosen: Sequence[Bench], folder: Path, size: Size, notes: Console) -> tuple[list[Entry], int]:
    entries, failed = [], 0
    wanted = {server for bench in chosen for server in bench.servers}
    with running_servers(wanted, folder, notes.print) as servers:
        runner = Runner(folder, size, servers)
        for bench in chosen:
            try:
                notes.print(f"{bench.name} …")
                entries.append(runner.run(bench))
            except Skipped as reason:
                notes.print(f"{bench.name} skipped: {reason}")
            except Failed as reason:
                notes.print(f"{bench.name} failed: {reason}")
                failed += 1
    return entries, failed


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--quick", action="store_true", help="few events, one round: whether it runs, not how fast"
    )
    size.add_argument("--long", action="store_true", help="ten million events in the benches of memory")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        choices=[bench.name for bench in BENCHES],
        help="these benches alone",
    )
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="FILE", help="where results.json goes")
    parser.add_argument(
        "--folder",
        type=Path,
        default=FOLDER,
        metavar="DIR",
        help="the disk to measure on, else the checkout's",
    )
    return parser
