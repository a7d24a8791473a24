"""The pages about previews and tests of pipelines, done as they are written."""

from __future__ import annotations

from pathlib import Path

import pytest

from milkrun.cli.demo.folder import free_ports
from tests.docs.blocks import DOCS, blocks
from tests.docs.session import Session
from tests.needs import need_server

pytestmark = [pytest.mark.slow]


@pytest.mark.parametrize("page", ["preview.md", "test-in-ci.md"])
def test_page(page: str, tmp_path: Path) -> None:
    need_server("bash")
    need_server("curl")
    http, server = free_ports(2)
    with Session(tmp_path, {8080: http, 9464: server}) as session:
        for block in blocks(DOCS / "how-to" / page):
            session.run(block)
