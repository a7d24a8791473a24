"""Places where a test may kill the process: between every two steps of a commit.

Does nothing unless the environment variable `MILKRUN_KILL_AT` names a place and a count: `log.before_commit:3` kills this process
with SIGKILL at the third arrival there. Places: `log.begin`, `log.staged`, `log.before_commit`, `log.after_commit`;
`ingest.before_commit`, `ingest.after_commit`; `delivery.cut_logged`, `.planned`, `.written`, `.before_settle`, `.settled`,
`.recovering`; `duckdb.begin`, `.moved`, `.before_commit`, `.after_commit`; `parquet.before_put`, `.after_put`.
"""

from __future__ import annotations

import os
import signal
import threading

_lock = threading.Lock()
_arrivals = 0


def reach(name: str) -> None:
    """Say that the process has come to the place `name`."""
    wanted = os.environ.get("MILKRUN_KILL_AT")
    if wanted is None:
        return
    place, _, count = wanted.partition(":")
    if place != name:
        return
    global _arrivals
    with _lock:
        _arrivals += 1
        if _arrivals == int(count or 1):
            os.kill(os.getpid(), signal.SIGKILL)
