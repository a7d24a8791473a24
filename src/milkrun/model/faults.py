"""Places where a test may kill or halt the process: between every two steps of a commit.

Does nothing unless the environment variable `MILKRUN_KILL_AT` names a place and a count: `log.before_commit:3` kills this process
with SIGKILL at the third arrival there; `MILKRUN_STOP_AT` halts it with SIGSTOP instead. Places: `log.begin`, `log.staged`,
`log.before_commit`, `log.after_commit`; `log.erase_block`, `.erase_marked`, `.erase_scrubbed`; `seen.run_written`, `.merge_begun`,
`.merge_step`, `.merge_done`, `.swept`; `ingest.before_commit`, `ingest.after_commit`; `delivery.cut_logged`, `.planned`,
`.written`, `.before_settle`, `.settled`, `.recovering`; `repair.cut_logged`, `.before_settle`, `.settled`, `.recovering`;
`readmit.before_commit`, `.after_commit`; `duckdb.begin`, `.moved`, `.before_commit`, `.after_commit`; `postgres.` the same;
`snowflake.grown`, `.staged`, `.loaded`, `.before_commit`, `.after_commit`, `.before_switch`, `.switch_logged`, `.switching`,
`.after_switch`, `.dropping`;
`parquet.before_put`, `.after_put`; `archive.staged`, `.stored`, `.verified`, `.committed`, `.trimmed`, `.cleaning`, `.erase_staged`, `.erase_stored`, `.erase_verified`,
`.erase_committed`, `.erase_deleted`, `.erase_done`; `rebuild.entered`, `.taken`, `.closed`; `move.marked`, `.settled`, `.prepared`, `.copied`, `.archived`, `.compared`, `.mapped`, `.state`, `.seen`,
`.counted`, `.finished`, `.done`; `replay.still`, `.changed`, `.recorded`; `duckdb.before_switch`, `.after_switch`; `postgres.` the same; `parquet.before_switch`,
`.after_switch`; `refresh.cut_logged`, `.before_settle`, `.settled`, `.recovering`; `erase.found`, `.ordered`, `.letters`, `.marked`, `.sink_erased`,
`.before_sink_done`, `.sink_done`, `.swept`, `.finished`; `duckdb.before_erasure`, `.after_erasure`, `.filled`; `postgres.before_erasure`,
`.after_erasure`; `snowflake.` and `parquet.` the same.
"""

from __future__ import annotations

import os
import signal
import threading

_SIGNALS = {"MILKRUN_KILL_AT": signal.SIGKILL, "MILKRUN_STOP_AT": signal.SIGSTOP}
_lock = threading.Lock()
_arrivals = dict.fromkeys(_SIGNALS, 0)


def reach(name: str) -> None:
    """Say that the process has come to the place `name`."""
    for variable, number in _SIGNALS.items():
        wanted = os.environ.get(variable)
        if wanted is not None:
            _arrive(variable, wanted, name, number)


def _arrive(variable: str, wanted: str, name: str, number: signal.Signals) -> None:
    place, _, count = wanted.partition(":")
    if place != name:
        return
    with _lock:
        _arrivals[variable] += 1
        if _arrivals[variable] == int(count or 1):
            os.kill(os.getpid(), number)
