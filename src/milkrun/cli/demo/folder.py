"""The demo's project folder: made, recognised, and cleared for another run.

A folder is the demo's own if it has the demo's mark in it; nothing is removed or written over anywhere else. The mark has the
digests of the files that the demo wrote, so that a newcomer's changes are never lost without `--fresh`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from milkrun.cli.demo import templates
from milkrun.control.coordinator import Project
from milkrun.control.keys import new_write_key
from milkrun.control.slots import WorkerSlot
from milkrun.model.errors import MilkrunError, Refused
from milkrun.model.spec import KafkaLogSpec

MARK = ".milkrun-demo.json"
DATA = (".milkrun", "data", "lake", "warehouse.duckdb", "warehouse.duckdb.wal")
"""What a run leaves besides the project's files."""

TOPICS = ("shop.", "_dead.shop")
"""How the names of the demo's topics begin."""


@dataclass(frozen=True)
class DemoFolder:
    """A project folder that is ready to run. `write_key` opens the collector at `http_port`."""

    path: Path
    http_port: int
    server_port: int
    write_key: str

    @property
    def services_file(self) -> Path:
        """The file that services append to where there is no broker."""
        return self.path / "data" / "services.ndjson"


def check(path: Path, *, fresh: bool) -> None:
    """Changes nothing. Refused where the folder isn't the demo's, its files were changed and `fresh` isn't given, or Milkrun runs in it."""
    if not path.exists():
        return
    if not path.is_dir():
        raise Refused(f"{path} is a file; name a folder for the demo")
    mark = _mark(path)
    if mark is None:
        if any(path.iterdir()):
            raise Refused(f"{path} isn't a folder of the demo and isn't empty; name another")
        return
    running = _running(path)
    if running is not None:
        raise Refused(f"Milkrun runs in {path}{running}; stop it first, or name another folder")
    changed = sorted(name for name, digest in mark.items() if _digest(path / name) not in (None, digest))
    if changed and not fresh:
        raise Refused(
            f"you have changed {', '.join(changed)} in {path}; run your project by `milkrun up`, "
            "or have the demo write its files anew by --fresh"
        )


def prepare(
    path: Path, *, broker_url: str | None, queue: str, fresh: bool, kafka: str | None = None
) -> DemoFolder:
    """Make the folder, or clear the one of an earlier run. Refused as by `check`, and where it can't be written.

    `kafka` is where a cluster is that keeps the log; None for an embedded one.
    """
    path = path.absolute()
    check(path, fresh=fresh)
    try:
        _clear(path)
        return _write(path, broker_url, queue, kafka)
    except OSError as error:
        raise Refused(f"{error.filename or path} can't be written: {error.strerror}") from error


def check_cluster(folder: DemoFolder, kafka: str) -> None:
    """Refused where the cluster has topics of that name already: their events would be delivered too, and nothing there is removed."""
    with Project(folder.path) as project:
        found = [topic.spec.name for topic in project.topics() if topic.spec.name.startswith(TOPICS)]
    if found:
        raise Refused(
            f"Kafka at {kafka} has the topic {found[0]} already; give the demo a broker without topics {TOPICS[0]}*"
        )


def _mark(path: Path) -> dict[str, str] | None:
    try:
        found = json.loads((path / MARK).read_text(encoding="utf-8"))["files"]
        return {str(name): str(digest) for name, digest in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _digest(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        return None


def _running(path: Path) -> str | None:
    """The process of a worker that runs, in brackets or empty where that isn't known; None where none does."""
    try:
        with Project(path) as project:
            if isinstance(project.spec.log, KafkaLogSpec):
                return "" if _slot_is_taken(project.spec.log) else None
            if not project.started:
                return None
            workers = project.status().workers
    except MilkrunError:
        # It may be broken in any way: it is about to be written anew.
        return None
    alive = [each.pid for each in workers if each.state == "running" and _alive(each.pid)]
    return f" (process {alive[0]})" if alive else None


def _slot_is_taken(log: KafkaLogSpec) -> bool:
    """Whether a worker of this machine runs. The cluster isn't asked: it was the demo's own, and has most likely ended."""
    if not log.folder.exists():
        return False
    with WorkerSlot(log) as slot:
        return not slot.name.endswith("-w1")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _clear(path: Path) -> None:
    for name in DATA:
        found = path / name
        if found.is_dir() and not found.is_symlink():
            shutil.rmtree(found)
        else:
            found.unlink(missing_ok=True)


def _write(path: Path, broker_url: str | None, queue: str, kafka: str | None) -> DemoFolder:
    http_port, server_port = free_ports(2)
    key = new_write_key()
    services = templates.BY_RABBITMQ.format(queue=queue) if broker_url else templates.BY_FILE
    log = templates.ON_KAFKA.format(bootstrap=kafka) if kafka else templates.ON_EMBEDDED
    files = {
        "milkrun.yaml": templates.PROJECT.format(log=log, server_port=server_port),
        "pipelines/shop.yaml": templates.PIPELINE.format(
            http_port=http_port, key_hash=key.hash, services=services
        ),
        "ask.py": templates.ASK,
        ".gitignore": templates.IGNORE,
    }
    for name, schema in templates.SCHEMAS.items():
        files[f"schemas/{name}.json"] = json.dumps(schema, indent=2) + "\n"
    path.mkdir(parents=True, exist_ok=True)
    # The mark first: should the rest fail, the folder is known for ours.
    digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()}
    (path / MARK).write_text(json.dumps({"files": digests}, indent=2) + "\n", encoding="utf-8")
    for name, text in files.items():
        target = path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    _write_secrets(path / "secrets", key.key, broker_url)
    (path / "data").mkdir()
    folder = DemoFolder(path, http_port, server_port, key.key)
    folder.services_file.touch()
    return folder


def _write_secrets(folder: Path, key: str, broker_url: str | None) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    secrets = {"write-key": key, "broker-url": broker_url}
    for name, text in secrets.items():
        path = folder / name
        path.unlink(missing_ok=True)
        if text is not None:
            path.touch(mode=0o600)
            path.write_text(text + "\n", encoding="utf-8")


def free_ports(count: int) -> list[int]:
    """TCP ports of loopback that nobody has now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        _close(sockets)


def _close(sockets: Iterable[socket.socket]) -> None:
    for each in sockets:
        each.close()
