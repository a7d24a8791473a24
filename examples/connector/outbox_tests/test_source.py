"""The outbox source keeps the contract of sources, and refuses a table that isn't the one it read."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from milkrun_outbox.source import OutboxConfig, OutboxSource

from milkrun.model.errors import ConfigError, GapError
from milkrun.plugin import Source, SourceContext
from milkrun.testing.source_contract import SourceContract


def database(folder: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(folder / "shop.db")
    connection.execute("CREATE TABLE IF NOT EXISTS outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, body BLOB)")
    return connection


class TestOutboxSource(SourceContract):
    def make(self, folder: Path, context: SourceContext) -> Source:
        database(folder).close()
        return OutboxSource(OutboxConfig(path="shop.db"), context)

    def publish(self, folder: Path, values: Sequence[bytes]) -> None:
        with closing(database(folder)) as connection, connection:
            connection.executemany("INSERT INTO outbox (body) VALUES (?)", [(value,) for value in values])

    def test_a_recreated_table_is_refused(self, tmp_path: Path) -> None:
        self.publish(tmp_path, [b"{}", b"{}"])
        with self.opened(tmp_path) as run:
            position = self.settle(run, self.take(run, 2))
        (tmp_path / "shop.db").unlink()
        self.publish(tmp_path, [b"{}"])
        with pytest.raises(GapError, match="has only come to 1"), self.opened(tmp_path, position):
            pass

    def test_a_table_name_is_nothing_but_a_name(self, tmp_path: Path) -> None:
        context = SourceContext("shop", "input", tmp_path, self.clock())
        source = OutboxSource(OutboxConfig(path="shop.db", table="a; DROP TABLE b"), context)
        with pytest.raises(ConfigError, match="no table's name"):
            source.open(None)
