"""The page about erasing, done as it is written."""

from pathlib import Path

import pytest

from tests.docs.blocks import DOCS, blocks
from tests.docs.session import Session
from tests.needs import need_server

pytestmark = pytest.mark.slow


def test_the_page(tmp_path: Path) -> None:
    need_server("bash")
    with Session(tmp_path, {}) as session:
        for block in blocks(DOCS / "how-to" / "erase.md"):
            if block.language != "sh":
                session.run(block)
