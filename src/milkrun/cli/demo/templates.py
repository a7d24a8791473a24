"""The files of the demo's project: what a newcomer reads first after the demo has run, and changes next."""

from __future__ import annotations

PROJECT = """\
# The project of `milkrun demo`: yours to play with. `milkrun demo` starts it anew.
name: milkrun-demo

{log}

# Where `milkrun up` serves metrics, health and readiness.
server:
  port: {server_port}
"""

ON_EMBEDDED = """\
# Every event is kept here first: the log, a file on this machine.
log:
  embedded:
    path: .milkrun/log.db"""

ON_KAFKA = """\
# Every event is kept here first: the log, topics on a Kafka cluster. Nothing else differs from a project on one machine.
log:
  kafka:
    bootstrap: "{bootstrap}"
    replication: 1"""

PIPELINE = """\
# One pipeline: where events come from, how they are understood, where they go.
pipeline: shop
description: What the grocery shop's app and services report, into a warehouse and a lake

sources:
  # The shopping app posts what its customers do.
  app:
    http:
      listen: 127.0.0.1:{http_port}
      # Hashes of the keys that may append. The key itself is in secrets/write-key; `milkrun keys new` makes another.
      keys: ["{key_hash}"]
    # A topic for each type of event: shop.viewed, shop.ordered.
    topic: "shop.{{body.type}}"
    # The events of one customer keep their order.
    key: body.customer.id
    # An event that is sent twice is taken once, however often a client tries again within the hour.
    id: body.id
    dedupe: 1h
    # When it happened, not when it arrived.
    timestamp: body.at

  # The services tell what became of orders.
  services:
{services}
    topic: "shop.{{body.type}}"
    key: body.order.id
    id: body.id
    timestamp: body.at

schema:
  # schemas/<type>.json says what an event of that type must look like; what isn't so becomes a dead letter.
  type: body.type
  folder: schemas
  # Events of other types are taken as they come,
  unknown: accept
  # and fields that no schema names become columns.
  columns: grow

topics:
  "*": {{partitions: 1, retention: forever}}

sinks:
  # A table for each topic, typed; positions are in the same transaction.
  warehouse:
    duckdb:
      path: warehouse.duckdb
    cut: {{every: 1s}}
  # Parquet files by type and hour.
  lake:
    parquet:
      url: lake
    cut: {{every: 3s}}
"""

BY_FILE = """\
    # No RabbitMQ was at hand, so they append to a file, and the source follows it as `tail -F` does.
    files:
      paths: [data/services.ndjson]
      follow: true"""

BY_RABBITMQ = """\
    # Messages are acknowledged once they are durable, and told by their id when they come again.
    rabbitmq:
      url: ${{file:secrets/broker-url}}
      queues: [{queue}]
      declare: {{{queue}: {{type: classic}}}}"""

_ORDER_ID = {"type": "string", "pattern": "^o[0-9]+$"}
_MONEY = {"type": "number", "minimum": 0}
_TIME = {"type": "string", "format": "date-time"}
_CUSTOMER = {
    "type": "object",
    "properties": {"id": {"type": "string"}, "city": {"type": "string"}},
    "required": ["id", "city"],
}


def _event(type: str, **properties: object) -> dict[str, object]:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": type,
        "type": "object",
        "properties": {"id": {"type": "string"}, "type": {"const": type}, "at": _TIME, **properties},
        "required": ["id", "type", "at", *properties],
    }


_LINE = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "price": _MONEY,
        "quantity": {"type": "integer", "minimum": 1},
    },
    "required": ["name", "price", "quantity"],
}

SCHEMAS = {
    "viewed": _event(
        "viewed",
        customer=_CUSTOMER,
        item={
            "type": "object",
            "properties": {"name": {"type": "string"}, "price": _MONEY},
            "required": ["name", "price"],
        },
    ),
    "ordered": _event(
        "ordered",
        customer=_CUSTOMER,
        order={
            "type": "object",
            "properties": {"id": _ORDER_ID, "total": _MONEY, "lines": {"type": "array", "items": _LINE}},
            "required": ["id", "total", "lines"],
        },
    ),
    "delivered": _event(
        "delivered",
        order={
            "type": "object",
            "properties": {"id": _ORDER_ID, "total": _MONEY},
            "required": ["id", "total"],
        },
        city={"type": "string"},
        minutes={"type": "integer", "minimum": 0},
    ),
}

ASK = '''\
"""Asks the warehouse or the lake, also while Milkrun runs:

    python ask.py warehouse "SELECT count(*) FROM shop_ordered"
    python ask.py lake "SELECT topic, count(*) FROM lake GROUP BY ALL"
"""

import json
import sys
from pathlib import Path

import duckdb

from milkrun.connectors.duckdb import connect

FOLDER = Path(__file__).parent


def open_warehouse():
    # Read-only. While it is open Milkrun can't write, so ask and let go.
    return connect(FOLDER / "warehouse.duckdb")


def open_lake():
    # No server, no Milkrun: these are files.
    database = duckdb.connect()
    files = str(FOLDER / "lake" / "**" / "*.parquet").replace("'", "''")
    database.execute(
        f"CREATE VIEW lake AS FROM read_parquet('{files}', hive_partitioning = true, union_by_name = true)"
    )
    return database


if len(sys.argv) not in (3, 4) or sys.argv[1] not in ("warehouse", "lake"):
    sys.exit(__doc__)
with open_warehouse() if sys.argv[1] == "warehouse" else open_lake() as database:
    if "--json" in sys.argv:
        answer = database.execute(sys.argv[2])
        columns = [column[0] for column in answer.description]
        print(json.dumps({"columns": columns, "rows": answer.fetchall()}, default=str))
    else:
        database.sql(sys.argv[2]).show()
'''

IGNORE = """\
.milkrun/
data/
lake/
secrets/
*.duckdb
*.duckdb.wal
"""
