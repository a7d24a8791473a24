"""The body of a measured process: `python -m bench.child MODULE:FUNCTION WORK RESULT`.

WORK is a file with the `Work` as JSON, RESULT where the `Measured` goes. Functions that only prepare inputs give None.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog

from bench.measuring import Measured, Work

Function = Callable[[Work], Measured | None]


def function_named(name: str) -> Function:
    """The function that `module:function` names."""
    module, _, attribute = name.partition(":")
    found: Function = getattr(importlib.import_module(module), attribute)
    return found


def main(arguments: list[str]) -> int:
    name, work_file, result_file = arguments
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    work = Work.from_json(Path(work_file).read_bytes())
    result = function_named(name)(work)
    Path(result_file).write_bytes(msgspec.json.encode(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
