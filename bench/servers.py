"""Servers that benches need beside them: started once a run, of their own, on loopback; left out where the program is missing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def running_servers(
    wanted: Collection[str], folder: Path, say: Callable[[str], None]
) -> Iterator[Mapping[str, Mapping[str, Any]]]:
    """The servers of `wanted` that could be started, each with the options that cases reach it by."""
    yield {}
