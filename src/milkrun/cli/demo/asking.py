"""Questions to the warehouse and the lake, asked as a newcomer does: by the project's own `ask.py`, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from milkrun.model.errors import Refused

Target = Literal["warehouse", "lake"]
ASK_SECONDS = 60.0


@dataclass(frozen=True)
class Answer:
    """Rows under columns."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


def ask(folder: Path, target: Target, sql: str) -> Answer:
    """What the SQL gives. Refused, with the last line of the error, where it fails."""
    command = [sys.executable, str(folder / "ask.py"), target, sql, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=ASK_SECONDS, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise Refused(f"the {target} doesn't answer: {lines[-1]}")
    found = json.loads(done.stdout)
    return Answer(tuple(found["columns"]), tuple(tuple(row) for row in found["rows"]))


def stored_ids(folder: Path, target: Target, types: tuple[str, ...]) -> list[str]:
    """The ids of all events in a target, one for each row."""
    tables = "lake"
    if target == "warehouse":
        there = ask(folder, target, "SELECT table_name FROM duckdb_tables() WHERE schema_name = 'main'").rows
        names = [f"shop_{type}" for type in types if (f"shop_{type}",) in there]
        tables = " UNION ALL ".join(f"SELECT _id FROM {name}" for name in names)
        if not names:
            return []
    sql = f"SELECT _id FROM ({tables})" if target == "warehouse" else f"SELECT _id FROM {tables}"
    return [str(row[0]) for row in ask(folder, target, sql).rows]


BEST_SELLERS = """\
SELECT line.name AS grocery, sum(line.quantity)::BIGINT AS sold, round(sum(line.quantity * line.price), 2) AS revenue
FROM (SELECT unnest("order".lines) AS line FROM shop_ordered)
GROUP BY ALL ORDER BY sold DESC, grocery LIMIT 5"""

MINUTES_BY_CITY = """\
SELECT city, count(*) AS deliveries, round(avg(minutes), 1) AS average_minutes, max(minutes) AS slowest
FROM lake WHERE topic = 'shop.delivered'
GROUP BY ALL ORDER BY average_minutes, city"""
