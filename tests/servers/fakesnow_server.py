"""Serves fakesnow, a stand-in for Snowflake on DuckDB, and adds what the sink's tests need of it: run as a program by fakesnow's
own Python with a port.

Added are REMOVE, ALTER TABLE ... SWAP WITH, comments on columns, text in hexadecimal as the meaning of a cast to BINARY, and
`POST /sessions/end`, which does to every session what Snowflake does to one whose client is gone: its transaction is rolled back.
"""

from __future__ import annotations

import gc
import re
import sys
from pathlib import Path
from typing import Any

import uvicorn
from fakesnow.cursor import FakeSnowflakeCursor  # type: ignore[import-not-found]
from fakesnow.server import app, sessions  # type: ignore[import-not-found]
from fakesnow.transforms import stage  # type: ignore[import-not-found]
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

_REMOVE = re.compile(r"REMOVE @(\w+)/(\S+)")
_SWAP = re.compile(r"ALTER TABLE (\S+) SWAP WITH (\S+)")
_COMMENT = re.compile(r"ALTER TABLE (\S+) ALTER COLUMN (\S+) COMMENT ('.*')")
_HEXADECIMAL = re.compile(r"(\$1:C\d+::VARCHAR)::BINARY\b")
_execute = FakeSnowflakeCursor.execute


def execute(cursor: Any, command: str, *args: Any, **kwargs: Any) -> Any:
    """Run a statement, after what fakesnow does not know has been put in its words."""
    remove = _REMOVE.fullmatch(command)
    if remove:
        database, schema = cursor._conn.database, cursor._conn.schema
        folder = Path(stage.internal_dir(f"{database}.{schema}.{remove[1]}"))
        for path in folder.rglob("*"):
            if path.is_file() and str(path.relative_to(folder)).startswith(remove[2]):
                path.unlink()
        command = "SELECT 'removed' AS result"
    for pattern, change in ((_SWAP, _swapped), (_COMMENT, _commented)):
        match = pattern.fullmatch(command)
        if match:
            _change(cursor._duck_conn, change(*match.groups()))
            command = "SELECT 'Statement executed successfully.' AS status"
    return _execute(cursor, _HEXADECIMAL.sub(r"TO_BINARY(\1, 'HEX')", command), *args, **kwargs)


def _change(connection: Any, statements: str) -> None:
    try:
        connection.execute(statements)
    except Exception:
        connection.execute("ROLLBACK")
        raise


def _swapped(first: str, second: str) -> str:
    """Both names exchanged in one transaction; the names have no dots or spaces in them but between their parts."""
    plain = [name.rpartition(".")[2] for name in (first, second)]
    between = first.rpartition(".")[0] + ".__between"
    return (
        f"BEGIN; ALTER TABLE {first} RENAME TO __between; ALTER TABLE {second} RENAME TO {plain[0]}; "
        f"ALTER TABLE {between} RENAME TO {plain[1]}; COMMIT"
    )


def _commented(table: str, column: str, text: str) -> str:
    return f"BEGIN; COMMENT ON COLUMN {table}.{column} IS {text}; COMMIT"


async def end_sessions(request: Request) -> JSONResponse:
    """Let go of every session: what it has not committed ends with it, once a statement that runs is through."""
    del request
    sessions.clear()
    gc.collect()
    return JSONResponse({})


if __name__ == "__main__":
    FakeSnowflakeCursor.execute = execute
    app.router.routes.append(Route("/sessions/end", end_sessions, methods=["POST"]))
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="info")
