"""The sink in real workers: two processes that write to one account and are killed, sessions ended among them."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.connectors.snowflake.account import change, database, query
from tests.e2e.station import station, until
from tests.e2e.test_workers import children
from tests.servers.fakesnow import SnowflakeServer, snowflake_server

__all__ = ["snowflake_server"]

pytestmark = [
    pytest.mark.soak,
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.xdist_group("fakesnow"),
    pytest.mark.timeout(600),
]

EVENTS = 1_200
KEYS = 30
KILLS = 2
TARGET = (
    "account: acme-test, user: milkrun, password: '${SNOWFLAKE_SECRET}', warehouse: loading, "
    "database: '${SNOWFLAKE_DATABASE}', endpoint: '${SNOWFLAKE_ENDPOINT}', allow_http: true, timeout: 5s"
)
PIPELINE = f"""
pipeline: shop
sources:
  exports:
    files: {{paths: ["in/*.ndjson"], follow: true}}
    topic: shop.order
    key: body.customer
    id: body.id
topics: {{"*": {{partitions: 2}}}}
sinks:
  rows: {{snowflake: {{{TARGET}, schema: rows}}, cut: {{rows: 100, every: 50ms}}}}
  newest: {{snowflake: {{{TARGET}, schema: newest, mode: upsert}}, cut: {{rows: 100, every: 50ms}}}}
"""


def event(number: int) -> dict[str, Any]:
    """Half-way the events get a member more."""
    order = {
        "id": f"order-{number}",
        "customer": f"c-{number % KEYS}",
        "seq": number,
        "lines": [{"sku": "a"}],
    }
    return order | ({"note": f"n-{number}"} if number >= EVENTS // 2 else {})


def held(server: SnowflakeServer, folder: Path) -> int:
    tables = query(server, folder, "SHOW TERSE OBJECTS LIKE 'SHOP_ORDER' IN SCHEMA ROWS")
    return int(query(server, folder, "SELECT COUNT(*) FROM ROWS.SHOP_ORDER")[0][0]) if tables else 0


def test_workers_killed_and_sessions_ended_deliver_all_once(
    snowflake_server: SnowflakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = snowflake_server
    change(server, tmp_path, "CREATE SCHEMA ROWS", "CREATE SCHEMA NEWEST")
    with station(tmp_path / "shop", PIPELINE) as shop:
        monkeypatch.setenv("SNOWFLAKE_SECRET", "not-a-secret")
        monkeypatch.setenv("SNOWFLAKE_DATABASE", database(tmp_path))
        monkeypatch.setenv("SNOWFLAKE_ENDPOINT", server.endpoint)
        (shop.folder / "in").mkdir()
        shop.up("--workers", "2")
        part = EVENTS // (KILLS + 1)
        for number in range(KILLS + 1):
            lines = [json.dumps(event(each)) + "\n" for each in range(number * part, (number + 1) * part)]
            (shop.folder / f"in/{number}.ndjson").write_text("".join(lines))
            if number == KILLS:
                break
            begun = number * part + part // 4
            until(lambda begun=begun: held(server, tmp_path) > begun, "rows arrive")  # type: ignore[misc]
            until(lambda: len(children(shop.pid)) == 2, "two workers run")
            os.kill(children(shop.pid)[number % 2], signal.SIGKILL)
            server.end_sessions()
        until(lambda: held(server, tmp_path) == EVENTS, "all rows have arrived", seconds=300)
        shop.finish()
    rows = query(
        server,
        tmp_path,
        "SELECT ID, _PARTITION, CUSTOMER, SEQ, LINES, NOTE FROM ROWS.SHOP_ORDER ORDER BY _PARTITION, _OFFSET",
    )
    newest = query(server, tmp_path, "SELECT CUSTOMER, SEQ, NOTE FROM NEWEST.SHOP_ORDER")
    by_id = {f"order-{number}": event(number) for number in range(EVENTS)}
    assert Counter(row[0] for row in rows) == Counter(by_id.keys())
    for row in rows:
        sent = by_id[row[0]]
        assert (row[3], json.loads(row[4]), row[5]) == (sent["seq"], sent["lines"], sent.get("note"))
    for key in range(KEYS):
        seen = [row[3] for row in rows if row[2] == f"c-{key}"]
        assert seen == sorted(seen)
    assert sorted(newest) == sorted(
        (f"c-{number % KEYS}", number, f"n-{number}") for number in range(EVENTS - KEYS, EVENTS)
    )
    for schema in ("ROWS", "NEWEST"):
        assert query(server, tmp_path, f"SELECT SUM(NEXT_OFFSET) FROM {schema}._MILKRUN_POSITIONS") == [
            (EVENTS,)
        ]
