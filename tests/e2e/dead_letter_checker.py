"""The judge of a run with dead letters: reads what was sent and what the warehouse holds, and nothing else.

It knows no module of Milkrun and is run as a process of its own: `python -m tests.e2e.dead_letter_checker JOURNAL WAREHOUSE TABLE`
prints in JSON what is wrong; all empty is good. The journal has a line an event, in the order of sending: `{"key", "seq"}`. A row's
place in the table tells when it was written, as DuckDB keeps the order of insertion.
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import duckdb

FIELDS = 12


def judge(journal: list[dict[str, Any]], rows: list[tuple[Any, ...]]) -> dict[str, list[Any]]:
    """Compare rows of `key, seq, f00 ...`, in the order in which they were written, with what was sent."""
    sent = [(event["key"], event["seq"]) for event in journal]
    held = Counter((key, seq) for key, seq, *_ in rows)
    order: dict[str, list[int]] = defaultdict(list)
    for key, seq, *_ in rows:
        order[key].append(seq)
    return {
        "lost": [each for each in sent if not held[each]],
        "doubled": [each for each, count in held.items() if count > 1],
        "uninvited": sorted(held.keys() - set(sent)),
        "disordered": [key for key, seqs in order.items() if seqs != sorted(seqs)],
        "wrong": [seq for _, seq, *fields in rows if fields != [seq] * FIELDS],
    }


def main(arguments: list[str]) -> int:
    journal, warehouse, table = arguments
    fields = ", ".join(f"f{number:02d}" for number in range(FIELDS))
    with duckdb.connect(warehouse, read_only=True) as connection:
        rows = connection.sql(f"SELECT key, seq, {fields} FROM {table} ORDER BY rowid").fetchall()
    found = judge([json.loads(line) for line in Path(journal).read_text().splitlines()], rows)
    print(json.dumps({name: samples[:10] for name, samples in found.items()}))
    return 1 if any(found.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
