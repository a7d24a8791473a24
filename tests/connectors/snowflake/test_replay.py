"""A preview compared with the tables, and a replay with its cut-over and the way back, by a real worker and commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.connectors.snowflake.account import change, database, query
from tests.e2e.station import Station, station, until
from tests.servers.fakesnow import SnowflakeServer, snowflake_server

__all__ = ["snowflake_server"]

pytestmark = [
    pytest.mark.soak,
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.xdist_group("fakesnow"),
]

PIPELINE = """
pipeline: shop
sources:
  exports:
    files: {paths: ["input.ndjson"], follow: true, interval: 20ms}
    topic: "shop.{body.kind}"
    key: body.key
sinks:
  warehouse:
    snowflake:
      account: acme-test
      user: milkrun
      password: ${SNOWFLAKE_SECRET}
      warehouse: loading
      database: ${SNOWFLAKE_DATABASE}
      schema: SHOP
      endpoint: ${SNOWFLAKE_ENDPOINT}
      allow_http: true
      timeout: 2s
    cut: {rows: 50, every: 30ms}
"""
TABLES = {"order": "SHOP_ORDER", "click": "SHOP_CLICK"}


class Shop:
    """A project with two topics, whose events are numbered."""

    def __init__(self, station: Station, server: SnowflakeServer, folder: Path) -> None:
        self.station = station
        self.written = 0
        self._server = server
        self._folder = folder

    def write(self, count: int) -> None:
        with (self.station.folder / "input.ndjson").open("a") as file:
            for number in range(self.written, self.written + count):
                kind = ("order", "click")[number % 2]
                event = {"kind": kind, "key": f"k{number % 3}", "n": number, "lines": [{"sku": "a"}]}
                file.write(json.dumps(event) + "\n")
        self.written += count

    def delivered(self) -> None:
        assert self.station.up("--until-idle").ended() == 0, self.station.said()

    def switched(self, *command: str) -> None:
        """Run a command that switches, beside a worker which goes on until it has delivered everything."""
        self.station.up()
        done = self.station.command("replay", *command)
        assert done.code == 0, done.out + done.err + self.station.said()
        self.station.delivered()
        assert self.station.stop() == 0

    def found(self, suffix: str = "") -> list[int]:
        """The numbers in both tables."""
        rows: list[tuple[Any, ...]] = []
        for table in TABLES.values():
            rows += query(self._server, self._folder, f'SELECT N FROM SHOP."{table}{suffix}"')
        return sorted(int(row[0]) for row in rows)


def test_a_preview_and_a_replay_are_compared_and_switched_to_and_back(
    snowflake_server: SnowflakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SNOWFLAKE_SECRET", "not-a-secret")
    monkeypatch.setenv("SNOWFLAKE_DATABASE", database(tmp_path))
    monkeypatch.setenv("SNOWFLAKE_ENDPOINT", snowflake_server.endpoint)
    with station(tmp_path / "shop", PIPELINE) as made:
        shop = Shop(made, snowflake_server, tmp_path)
        shop.write(40)
        shop.delivered()
        change(snowflake_server, tmp_path, "UPDATE SHOP.SHOP_CLICK SET N = 99 WHERE N = 7")
        previewed = made.asked("preview", "shop", "--diff")["differences"]
        assert {(each["topic"], each["same"], each["changed"]) for each in previewed} == {
            ("shop.order", 20, 0),
            ("shop.click", 19, 1),
        }
        assert made.command("replay", "shop").code == 0
        shop.delivered()
        (compared,) = made.asked("replay", "diff", "shop")
        assert {(each["topic"], each["replay"], each["changed"]) for each in compared["partitions"]} == {
            ("shop.order", 20, 0),
            ("shop.click", 20, 1),
        }
        assert compared["columns"] == [{"column": "N", "rows": 1}]
        shop.write(10)
        shop.switched("cut-over", "shop")
        assert shop.found() == list(range(50))
        made.prove()
        shop.write(10)
        shop.switched("rollback", "shop")
        # What was changed by hand in the first generation is there again.
        assert shop.found() == sorted(99 if number == 7 else number for number in range(60))
        made.up()
        assert made.command("replay", "drop", "shop", "--now").code == 0
        until(
            lambda: all(each["generation"] == 1 for each in made.asked("replay", "status")),
            "the second generation is dropped",
        )
        assert made.stop() == 0
        tables = query(snowflake_server, tmp_path, "SHOW TERSE TABLES IN SCHEMA SHOP")
        assert {str(row[1]) for row in tables if not str(row[1]).startswith("_")} == set(TABLES.values())
        made.prove()
