"""The example on the page about PostgreSQL, done as it is written, on a server of the test's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.blocks import DOCS, blocks
from tests.docs.session import Session
from tests.needs import need_server
from tests.servers.postgres import PostgresServer

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def test_the_example(postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_server("psql")
    monkeypatch.setenv("POSTGRES_URL", postgres.url())
    with Session(tmp_path, {}) as session:
        shown = [
            block
            for block in blocks(DOCS / "how-to" / "postgres.md")
            if block.words or block.language == "console"
        ]
        assert [block.language for block in shown] == ["yaml", "yaml", "json", "console"]
        for block in shown:
            session.run(block)
