"""The tutorial, done as it is written."""

from pathlib import Path

import pytest

from milkrun.cli.demo.folder import free_ports
from tests.docs.blocks import DOCS, blocks
from tests.docs.session import Session
from tests.needs import need_server

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("tutorial")]


def test_tutorial(tmp_path: Path) -> None:
    need_server("bash")
    need_server("curl")
    page = DOCS / "tutorial.md"
    http, server = free_ports(2)
    with Session(tmp_path, {8080: http, 9464: server}) as session:
        found = list(blocks(page))
        assert any("background" in block.words for block in found)
        for block in found:
            session.run(block)
