"""The command `milkrun`: its commands, its errors and its exit codes.

0 all went well; 1 refused, or something isn't as it must be; 2 wrong usage; 3 a server or file can't be reached for now.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import structlog
from cyclopts import App, CycloptsError

from milkrun import __version__
from milkrun.cli import (
    alerts,
    archive,
    dead,
    erase,
    move,
    preview,
    project,
    proof,
    replay,
    sla,
    test,
    topics,
    trace,
)
from milkrun.cli import run as running
from milkrun.model.errors import ConfigError, ConfigErrors, MilkrunError

USAGE = 2
INTERRUPTED = 130

app = App(
    name="milkrun",
    help="Events from HTTP, RabbitMQ and files into a durable log, and exactly once on to DuckDB and Parquet.",
    version=__version__,
)
project.register(app)
running.register(app)
topics.register(app)
archive.register(app)
dead.register(app)
erase.register(app)
replay.register(app)
proof.register(app)
preview.register(app)
test.register(app)
move.register(app)
sla.register(app)
alerts.register(app)
trace.register(app)
app.command("milkrun.cli.demo:demo", name="demo", help="See events arrive and be delivered, exactly once.")


def run(arguments: Sequence[str]) -> int:
    """Run one command; its exit code."""
    _configure_logging()
    try:
        result = app(list(arguments), exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except CycloptsError as error:
        return _failed(
            arguments, USAGE, "usage", _usage_message(error), hint="`milkrun --help` shows the commands"
        )
    except MilkrunError as error:
        return _failed(arguments, error.exit_code, type(error).__name__, str(error), error=error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our lines has seen enough. Python would complain on flushing at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if "--debug" in arguments:
            traceback.print_exc()
        message = f"unexpected {type(error).__name__}: {error}"
        return _failed(arguments, 1, "unexpected", message, hint="this is a bug; --debug shows where")
    return result if isinstance(result, int) else 0


def _failed(
    arguments: Sequence[str],
    code: int,
    kind: str,
    message: str,
    *,
    hint: str = "",
    error: MilkrunError | None = None,
) -> int:
    if _wants_json(arguments):
        body: dict[str, Any] = {"kind": kind, "message": message, "exit_code": code}
        if isinstance(error, ConfigErrors):
            body["errors"] = [_config_error(each) for each in error.errors]
        sys.stdout.write(json.dumps({"error": body}, ensure_ascii=False) + "\n")
        return code
    for line in message.splitlines():
        sys.stderr.write(f"milkrun: {line}\n")
    if hint:
        sys.stderr.write(f"milkrun: {hint}\n")
    return code


def _usage_message(error: CycloptsError) -> str:
    try:
        return str(error).strip()
    except (ImportError, AttributeError):
        # Naming the nearest command loads all of them, and one can't be: its extra package may be missing.
        tokens = getattr(error, "unused_tokens", None)
        return f"unknown command {tokens[0]!r}" if tokens else "wrong usage"


def _config_error(error: ConfigError) -> dict[str, Any]:
    place = error.location
    return {
        "file": place.file if place else None,
        "line": place.line if place else None,
        "column": place.column if place else None,
        "path": list(error.path),
        "what": error.what,
        "remedy": error.remedy,
    }


def _wants_json(arguments: Sequence[str]) -> bool:
    """Whether errors are to be JSON too: told from the arguments as such, for they may be what is wrong."""
    pairs = zip(arguments, [*arguments[1:], ""], strict=True)
    return any(
        one in ("--output=json", "-o=json", "-ojson") or (one in ("--output", "-o") and two == "json")
        for one, two in pairs
    )


def _configure_logging() -> None:
    """Logs go to standard error, as text for people or as JSON where that is no terminal; MILKRUN_LOG sets the level."""
    level = getattr(logging, os.environ.get("MILKRUN_LOG", "warning").upper(), logging.WARNING)
    renderer: Any = (
        structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
