"""The judge of a replay of the shop's clicks: reads the raw file that they came from and what readers of the targets find, and nothing else.

It knows no module of Milkrun and is run as a process of its own: `python -m tests.e2e.click_checker CLICKS CASE WAREHOUSE TABLE LAKE` prints
in JSON what is wrong in each target; all empty is good. CASE says in JSON which rows are due, as `Case` has it.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import duckdb

Click = tuple[str, str, int, int | None]
"""Id, session, item, and its time in microseconds since 1970, where the target has been told of times."""


@dataclass(frozen=True)
class Case:
    """The first `sent` clicks of the file were accepted. Of these the first `old` were delivered by a definition that knew no times and took
    the mornings' only (UTC)."""

    sent: int
    old: int


def clicks(path: Path) -> Iterator[tuple[str, int, Decimal]]:
    """Session, item and time in seconds of each click, in the file's order."""
    with gzip.open(path, "rt") as file:
        next(file)
        for line in file:
            session, item, moment = line.rstrip("\n").split("\t")
            yield session, int(item), Decimal(moment)


def is_morning(moment: Decimal) -> bool:
    """Whether it is before noon, UTC."""
    return moment % 86_400 < 43_200


def due(path: Path, case: Case) -> list[Click]:
    """The rows that a target must hold, in the order of sending."""
    found: list[Click] = []
    for number, (session, item, moment) in enumerate(islice(clicks(path), case.sent)):
        old = number < case.old
        if not old or is_morning(moment):
            found.append((f"click-{number}", session, item, None if old else int(moment * 1_000_000)))
    return found


def judge(expected: Sequence[Click], held: Sequence[Click]) -> dict[str, list[Any]]:
    """Compare a target's rows, in the order of partition and offset, with those that are due."""
    wanted, there = Counter(expected), Counter(held)
    order: dict[str, list[int]] = defaultdict(list)
    for id, session, _, _ in held:
        order[session].append(int(id.removeprefix("click-")))
    return {
        "lost": list((wanted - there).elements()),
        "too many": list((there - wanted).elements()),
        "disordered": [
            session for session, numbers in order.items() if any(a > b for a, b in pairwise(numbers))
        ],
    }


def rows(connection: duckdb.DuckDBPyConnection, relation: str) -> list[Click]:
    """The clicks of a table or of files, in the order of partition and offset."""
    names = [row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()]
    moment = 'epoch_us("at")' if "at" in names else "NULL"
    query = f"SELECT id, session, item, {moment} FROM {relation} ORDER BY _partition, _offset"
    return connection.execute(query).fetchall()


def main(arguments: list[str]) -> int:
    source, case, warehouse, table, lake = arguments
    expected = due(Path(source), Case(**json.loads(case)))
    files = f"read_parquet('{lake}/**/*.parquet', union_by_name = true, hive_partitioning = false)"
    with duckdb.connect(warehouse, read_only=True) as connection:
        found = {
            "warehouse": judge(expected, rows(connection, table)),
            "lake": judge(expected, rows(connection, files)),
        }
    counts = {
        target: {fault: [len(cases), *cases[:5]] for fault, cases in faults.items() if cases}
        for target, faults in found.items()
    }
    print(json.dumps(counts))
    return 1 if any(counts.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
