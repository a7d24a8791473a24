"""Every test here sees two made-up connectors: the source `queue` and the sink `table`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.control.connectors import install, queue_source, table_sink

Write = Callable[[Mapping[str, str]], Path]


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The made-up connectors, in place of all others."""
    install(monkeypatch, {"queue": queue_source()}, {"table": table_sink()})


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes files by name into a project folder with a milkrun.yaml; returns the folder."""

    def write_files(files: Mapping[str, str]) -> Path:
        folder = tmp_path / "shop"
        for name, text in {"milkrun.yaml": "name: shop\n", **files}.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return folder

    return write_files
