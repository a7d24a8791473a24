"""The Snowflake sink passes the suite of all sinks, against a stand-in for Snowflake."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from milkrun.connectors.snowflake.names import LONGEST, stored
from milkrun.plugin.sink import Sink
from milkrun.tables.names import column_names
from milkrun.testing.erasure_contract import UpsertErasureContract
from milkrun.testing.generations_contract import GenerationsContract
from milkrun.testing.repair_contract import RepairContract
from milkrun.testing.sink_contract import Event, StoredPositionContract
from tests.connectors.snowflake.account import make, read
from tests.servers.fakesnow import SnowflakeServer, snowflake_server

__all__ = ["snowflake_server"]

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.xdist_group("fakesnow"),
    pytest.mark.timeout(900),
]

MAPS = {"labels", "m"}
NESTED = {"extra", "customer", "lines", "matrix", "s", "l", "in", "more", *MAPS}
"""Fields of the suite whose columns are VARIANTs."""


class TestSnowflakeSink(RepairContract, StoredPositionContract, UpsertErasureContract, GenerationsContract):
    server: SnowflakeServer

    @pytest.fixture(autouse=True)
    def _server(self, snowflake_server: SnowflakeServer) -> None:
        type(self).server = snowflake_server

    def make(self, folder: Path) -> Sink:
        return make(self.server, folder)

    def make_upsert(self, folder: Path) -> Sink:
        return make(self.server, folder, mode="upsert")

    def rows(self, folder: Path, topic: str) -> list[dict[str, Any]]:
        return [self.as_row(row) for row in read(self.server, folder, stored(topic.replace(".", "_")))]

    def as_row(self, row: dict[str, Any]) -> dict[str, Any]:
        """Names as they were before Snowflake's upper case, nested values parsed, without the column that tells incarnations apart."""
        result = {}
        for name, value in row.items():
            plain = name.lower() if stored(name.lower()) == name else name
            found = json.loads(value) if plain in NESTED and isinstance(value, str) else value
            result[plain] = list(found.items()) if plain in MAPS and isinstance(found, dict) else found
        result.pop("_incarnation", None)
        return result

    def field_name(self, name: str) -> str:
        return column_names([name], longest=LONGEST)[0]

    def expected(
        self, events: Sequence[Event], topic: str = "shop.order", partition: int = 0
    ) -> list[dict[str, Any]]:
        """JSON text is parsed in a VARIANT, and its spelling not kept."""
        rows = super().expected(events, topic, partition)
        for row in rows:
            for part, name in ((row, "extra"), (row.get("customer", {}), "tags")):
                if name in part:
                    part[name] = json.loads(part[name])
        return rows
