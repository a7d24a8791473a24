"""Milkrun brings events into a durable log and delivers them exactly once to a warehouse and a lake.

The packages below import one way only, from `cli` down to `model`; import-linter holds that in CI.
`milkrun.open` is the Python API's door: everything the commands do is a method of what it returns.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from milkrun.control.coordinator import Project

__version__ = version("milkrun")


def open(folder: str | Path = ".") -> Project:
    """The project in `folder`, read and checked.

    Raises `milkrun.model.errors.ConfigErrors` with every mistake in its files, each with file, line and column; NotFound where
    `folder` is no project. Use it in a `with` block, or call `close` in the end.
    """
    from milkrun.control.coordinator import Project

    return Project(folder)
