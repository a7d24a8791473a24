"""The page about the archive, done as it is written."""

from pathlib import Path

import pytest

from tests.docs.blocks import DOCS, blocks
from tests.docs.session import Session
from tests.needs import need_server

pytestmark = pytest.mark.slow


def test_archive(tmp_path: Path) -> None:
    need_server("bash")
    with Session(tmp_path, {}) as session:
        found = list(blocks(DOCS / "how-to" / "archive.md"))
        assert any(block.language == "console" for block in found)
        for block in found:
            session.run(block)
