"""What a test needs from outside the package: a server's program, the folder shared beside the checkout.

A need that is not met skips the test on a developer's machine and fails it where `CI=true`, so that a
green CI has run everything.
"""

import os
import shutil
from pathlib import Path

import pytest

from milkrun.testing import kafka_cluster

# Debian keeps daemons where an ordinary user's PATH does not look.
_SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")


def require(reason: str, found: bool) -> None:
    """Skip the calling test, or under CI fail it, with `reason` unless the need is `found`."""
    if found:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def need_server(name: str, path: str | Path | None = None) -> Path:
    """The program of the server `name`: at `path` if given, else the one found on PATH or among the daemons."""
    if path is None:
        path = shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), *_SYSTEM_FOLDERS)))
    program = Path(path) if path is not None else Path(name)
    require(f"{name} is not installed", path is not None and program.is_file())
    return program


def need_postgres() -> Path:
    """The folder of PostgreSQL's programs: the newest that Debian keeps, else where `postgres` is on PATH."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    found = str(installed[-1]) if installed else shutil.which("initdb")
    require("PostgreSQL's server (initdb, postgres) is not installed", found is not None)
    return Path(found or "").resolve().parent


def need_kafka() -> None:
    """Java and the jars of Apache Kafka's broker, which `milkrun.testing.kafka_cluster` starts."""
    reason = kafka_cluster.missing()
    require(reason or "", reason is None)


def need_fakesnow() -> Path:
    """The Python of the environment that has fakesnow, the stand-in for Snowflake."""
    checkout = Path(__file__).resolve().parent.parent
    program = checkout / ".cache" / "fakesnow" / "bin" / "python"
    require("fakesnow is not installed (tools/setup.sh test)", program.is_file())
    return program


def need_shared() -> Path:
    """The folder `shared` beside the checkout, or where MILKRUN_SHARED says."""
    checkout = Path(__file__).resolve().parent.parent
    folder = Path(os.environ.get("MILKRUN_SHARED") or checkout.parent / "shared")
    require(f"there is no folder {folder} (MILKRUN_SHARED says another)", folder.is_dir())
    return folder
