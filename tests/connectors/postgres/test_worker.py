"""The sink in real workers: three processes that write to one server, killed again and again, the server once among them."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.station import station, until
from tests.e2e.test_workers import children
from tests.servers.postgres import PostgresServer

pytestmark = [pytest.mark.integration, pytest.mark.slow]

EVENTS = 6_000
KEYS = 40
KILLS = 4
PIPELINE = """
pipeline: shop
sources:
  exports:
    files: {paths: ["in/*.ndjson"], follow: true}
    topic: shop.order
    key: body.customer
    id: body.id
topics: {"*": {partitions: 4}}
sinks:
  rows: {postgres: {url: "${POSTGRES_URL}", schema: rows}, cut: {rows: 200, every: 50ms}}
  newest: {postgres: {url: "${POSTGRES_URL}", schema: newest, mode: upsert}, cut: {rows: 200, every: 50ms}}
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


def held(server: PostgresServer, schema: str) -> int:
    with server.connect() as connection:
        (table,) = connection.execute("SELECT to_regclass(%s)", [f"{schema}.shop_order"]).fetchone() or (
            None,
        )
        if table is None:
            return 0
        found = connection.execute(f"SELECT count(*) FROM {schema}.shop_order").fetchone()
    return int(found[0]) if found else 0


def test_workers_and_server_killed_again_and_again_deliver_all_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with PostgresServer() as server, station(tmp_path / "shop", PIPELINE) as shop:
        monkeypatch.setenv("POSTGRES_URL", server.url())
        (shop.folder / "in").mkdir()
        shop.up("--workers", "3")
        part = EVENTS // (KILLS + 1)
        for number in range(KILLS + 1):
            lines = [json.dumps(event(each)) + "\n" for each in range(number * part, (number + 1) * part)]
            (shop.folder / f"in/{number}.ndjson").write_text("".join(lines))
            if number == KILLS:
                break
            begun = number * part + part // 4
            until(lambda begun=begun: held(server, "rows") > begun, "rows arrive")  # type: ignore[misc]
            until(lambda: len(children(shop.pid)) == 3, "three workers run")
            os.kill(children(shop.pid)[number % 3], signal.SIGKILL)
            if number == KILLS // 2:
                server.kill()
                server.start()
        until(lambda: held(server, "rows") == EVENTS, "all rows have arrived")
        shop.finish()
        with server.connect() as connection:
            rows = connection.execute(
                "SELECT id, _partition, customer, seq, lines, note FROM rows.shop_order ORDER BY _partition, _offset"
            ).fetchall()
            newest = connection.execute("SELECT customer, seq, note FROM newest.shop_order").fetchall()
    by_id = {f"order-{number}": event(number) for number in range(EVENTS)}
    assert Counter(row[0] for row in rows) == Counter(list(by_id))
    assert all(row[3:] == (of["seq"], of["lines"], of.get("note")) for row in rows for of in [by_id[row[0]]])
    assert {row[1] for row in rows} == {0, 1, 2, 3}
    for key in range(KEYS):
        seen = [row[3] for row in rows if row[2] == f"c-{key}"]
        assert seen == sorted(seen)
    assert sorted(newest) == sorted(
        (f"c-{number % KEYS}", number, f"n-{number}") for number in range(EVENTS - KEYS, EVENTS)
    )
