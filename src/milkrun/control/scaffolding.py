"""A small project that runs at once: the HTTP collector, a DuckDB warehouse and a Parquet lake, with comments to go on from."""

from __future__ import annotations

from pathlib import Path

from milkrun.control.loading import PIPELINES, PROJECT_FILE
from milkrun.model.errors import Refused

_PROJECT = """\
# A Milkrun project. Try `milkrun validate`, then `milkrun up`.
name: {name}

# All events are kept here first: the log, a file on this machine.
log:
  embedded:
    path: .milkrun/log.db

# Metrics, health and status of `milkrun up`.
server:
  port: 9464

# What holds for all pipelines unless they say otherwise.
defaults:
  topics:
    partitions: 1
    retention: forever
"""

_PIPELINE = """\
# One pipeline: where events come from, how they are understood, where they go.
# Send it some:
#   curl -H 'content-type: application/json' http://127.0.0.1:8080/v1/events \\
#     -d '{"id": "1", "type": "order", "customer": "c-7", "total": 12.5}'
pipeline: shop
description: Events of the shop, into a warehouse and a lake

sources:
  app:
    # Listens on this machine only. `milkrun keys new` makes a write key; other machines need keys and TLS.
    http:
      listen: 127.0.0.1:8080
    # A topic for each type of event: shop.order, shop.click ...
    topic: "shop.{body.type}"
    # Events of one customer keep their order.
    key: body.customer
    # An event sent twice is taken once.
    id: body.id
    dedupe: 1h

schema:
  type: body.type
  # Put JSON Schema files into schemas/<type>.json to have events checked. `milkrun topics infer shop.order` writes one
  # for you to review.
  unknown: accept
  columns: grow

topics:
  "*": {partitions: 1, retention: forever}

sinks:
  warehouse:
    # A table for each topic. Look into it while Milkrun runs: duckdb -readonly warehouse.duckdb
    duckdb:
      path: warehouse.duckdb
  lake:
    # Parquet files by type and hour.
    parquet:
      url: lake
    cut: {every: 10s}
"""

_IGNORE = """\
.milkrun/
lake/
*.duckdb
*.duckdb.wal
"""


def init(folder: Path) -> list[Path]:
    """Make a project in `folder`; the files written. Refused where there is a project, or a file that would be overwritten."""
    files = {
        PROJECT_FILE: _PROJECT.format(name=_name(folder)),
        f"{PIPELINES}/shop.yaml": _PIPELINE,
        ".gitignore": _IGNORE,
    }
    for name in files:
        if (folder / name).exists() and name != ".gitignore":
            raise Refused(f"{folder / name} is there already; choose an empty folder")
    written = []
    for name, text in files.items():
        path = folder / name
        if path.exists():
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise Refused(f"{path} can't be written: {error.strerror}") from error
        written.append(path)
    return written


def _name(folder: Path) -> str:
    """The folder's name, as far as it can stand in YAML without quotes."""
    name = "".join(sign if sign.isalnum() and sign.isascii() else "-" for sign in folder.absolute().name)
    return name.strip("-") or "project"
