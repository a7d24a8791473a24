"""The page about replays, done as it is written."""

from pathlib import Path

import pytest

from milkrun.cli.demo.folder import free_ports
from tests.docs.blocks import DOCS, blocks
from tests.docs.session import Session
from tests.needs import need_server

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("tutorial")]

PAGE = DOCS / "how-to" / "replay.md"


def test_the_page(tmp_path: Path) -> None:
    for program in ("bash", "curl"):
        need_server(program)
    http, server = free_ports(2)
    with Session(tmp_path, {8080: http, 9464: server}) as session:
        for block in blocks(PAGE):
            session.run(block)
