"""The judge of a run: reads what clients were told and what the targets hold, and nothing else.

It knows no module of Milkrun and is run as a process of its own:
`python -m tests.chaos.checker JOURNAL WAREHOUSE LAKE` prints a verdict in JSON. The journal has one line an event:
`{"id", "topic", "key", "seq", "told"}`; `told` is `accepted`, `refused`, `unknown` (no answer came) or `poison` (accepted into the
log, but no sink can type it). Of a key's events `seq` grows in the order they were sent.
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb


@dataclass(frozen=True)
class Told:
    """What the client was told of one event."""

    id: str
    topic: str
    key: str
    seq: int
    told: str


@dataclass(frozen=True)
class Row:
    """One event as a target holds it."""

    id: str
    topic: str
    partition: int
    offset: int
    key: str
    seq: int


@dataclass
class Verdict:
    """Ids of what went wrong in one target; all empty is good."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    uninvited: list[str] = field(default_factory=list)
    disordered: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not (self.lost or self.doubled or self.uninvited or self.disordered)


def judge(journal: Iterable[Told], rows: Iterable[Row]) -> Verdict:
    """Compare one target with what clients were told."""
    told = {event.id: event for event in journal}
    held = list(rows)
    counts = Counter(row.id for row in held)
    verdict = Verdict()
    verdict.lost = [event.id for event in told.values() if event.told == "accepted" and not counts[event.id]]
    verdict.doubled = [id for id, count in counts.items() if count > 1]
    verdict.uninvited = [id for id in counts if id not in told or told[id].told in ("refused", "poison")]
    by_key: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in held:
        by_key[row.topic, row.key].append(row)
    for (topic, key), of_key in by_key.items():
        of_key.sort(key=lambda row: (row.partition, row.offset))
        ascending = all(a.seq < b.seq for a, b in pairwise(of_key))
        if not ascending or len({row.partition for row in of_key}) > 1:
            verdict.disordered.append(f"{topic}/{key}")
    return verdict


_COLUMNS = "id, _topic, _partition, _offset, customer, seq"


def warehouse_rows(path: Path) -> list[Row]:
    """Every row of the tables `shop_order` and `shop_click`."""
    if not path.exists():
        return []
    with duckdb.connect(str(path), read_only=True) as connection:
        tables = [name for (name,) in connection.sql("SELECT table_name FROM duckdb_tables()").fetchall()]
        rows: list[Any] = []
        for table in ("shop_order", "shop_click"):
            if table in tables:
                rows += connection.sql(f"SELECT {_COLUMNS} FROM {table}").fetchall()
    return [Row(*row) for row in rows]


def lake_rows(folder: Path) -> list[Row]:
    """Every row of the Parquet files below a folder."""
    if not list(folder.rglob("*.parquet")):
        return []
    pattern = str(folder / "**/*.parquet").replace("'", "''")
    query = (
        f"SELECT {_COLUMNS} FROM read_parquet('{pattern}', union_by_name = true, hive_partitioning = false)"
    )
    return [Row(*row) for row in duckdb.execute(query).fetchall()]


def read_journal(path: Path) -> list[Told]:
    """The journal; of several lines for one event the last one counts."""
    lines = (json.loads(line) for line in path.read_text().splitlines())
    return list({line["id"]: Told(**line) for line in lines}.values())


def check(journal: Path, warehouse: Path, lake: Path) -> dict[str, Verdict]:
    """The verdict on each target."""
    told = read_journal(journal)
    return {"warehouse": judge(told, warehouse_rows(warehouse)), "lake": judge(told, lake_rows(lake))}


def main(arguments: list[str]) -> int:
    verdicts = check(*map(Path, arguments))
    print(json.dumps({name: asdict(verdict) for name, verdict in verdicts.items()}))
    return 0 if all(verdict.good for verdict in verdicts.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
