"""Real Apache Kafka brokers for tests: KRaft nodes with both roles, on loopback and free ports, with their own folders.

They run as whoever starts them, die with the starting process, and can be killed, stopped, frozen and started again with
what they have stored. The jars are fetched by tools/kafka-jars.sh; nothing here uses the network beyond loopback.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGTERM, Signals
from types import TracebackType
from typing import Self

from milkrun.model.errors import Refused, Unreachable
from milkrun.testing import kafka_settings
from milkrun.testing.kafka_settings import Node, Protocol
from milkrun.testing.scratch import Scratch

VERSION = "4.4.0"
"""The release of Apache Kafka, as in tools/kafka-jars.sh."""

START_SECONDS = 60.0
STOP_SECONDS = 30.0

_OLDEST_JAVA = 17
_CLUSTER_ID = "bWlsa3J1bi10ZXN0cy0wMQ"  # any 16 bytes in URL-safe base64
_READY = b"Kafka Server started"  # logged when the broker has joined and takes requests
_JVM = (
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:-UsePerfData",
    "-Djava.net.preferIPv4Stack=true",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info",
)
# Becomes the program named in its arguments, after asking to be killed when the thread that started it ends (prctl's
# PR_SET_PDEATHSIG). A function run between fork and exec would do the same, but not safely beside other threads.
_MORTAL = """\
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)
    if os.getppid() != int(sys.argv[1]):
        os._exit(1)
os.execvp(sys.argv[2], sys.argv[2:])
"""


def jar_folder() -> Path:
    """Where the jars are looked for: MILKRUN_KAFKA_JARS, or `.cache/kafka/<version>` of the checkout."""
    named = os.environ.get("MILKRUN_KAFKA_JARS")
    return Path(named) if named else Path(__file__).parents[3] / ".cache" / "kafka" / VERSION


def missing() -> str | None:
    """What keeps a broker from being started here and what would help, or None."""
    program = _java()
    if program is None:
        return f"java is not installed: Apache Kafka needs version {_OLDEST_JAVA} or later"
    version = _java_version(program)
    if version < _OLDEST_JAVA:
        found = f"Java {version}" if version else "no Java"
        return f"{program} is {found}: Apache Kafka needs version {_OLDEST_JAVA} or later"
    folder = jar_folder()
    if not list(folder.glob(f"kafka_*-{VERSION}.jar")):
        return f"the jars of Apache Kafka {VERSION} are not in {folder}: tools/kafka-jars.sh fetches them"
    return None


def _java() -> str | None:
    home = os.environ.get("JAVA_HOME")
    return shutil.which("java", path=str(Path(home) / "bin") if home else None)


@lru_cache
def _java_version(program: str) -> int:
    """The feature release of that JVM, 0 if it doesn't run."""
    settings = subprocess.run(
        [program, "-XshowSettings:properties", "-version"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    ).stderr
    for line in settings.splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "java.specification.version":
            release = value.strip().removeprefix("1.")  # 1.8 and before
            return int(release) if release.isdigit() else 0
    return 0


class KafkaCluster:
    """`brokers` nodes with ids from 1; a context manager that starts them all and ends them.

    `root` keeps data and logs, and a later cluster of the same size takes them up; without it they are temporary.
    `overrides` are broker settings that go before the cluster's own. `sasl` maps users to passwords and adds a listener
    SASL_PLAINTEXT for every mechanism of `kafka_settings.MECHANISMS`; `tls` is a folder with `ca.pem`, `cert.pem` and
    `key.pem` (PKCS 8, for 127.0.0.1 or what the client is told to expect) and adds SSL, where a client may show a
    certificate by the same authority; both together add SASL_SSL. `advertised` are ports of loopback at which brokers (by id)
    tell clients, and each other, to reach their PLAINTEXT listener: a proxy's, which must listen before they start.

    Raises `Refused` if a broker can't be started here (`missing` says why) and `Unreachable`, with the end of its log,
    if one doesn't come up.
    """

    def __init__(
        self,
        brokers: int = 1,
        root: Path | None = None,
        *,
        overrides: Mapping[str, object] | None = None,
        sasl: Mapping[str, str] | None = None,
        tls: Path | None = None,
        advertised: Mapping[int, int] | None = None,
        heap: str = "256m",
    ) -> None:
        reason = missing()
        if reason is not None:
            raise Refused(reason)
        logins = dict(sasl or {})
        kafka_settings.check_logins(logins)
        self._heap = heap
        self._scratch: Scratch | None = None
        if root is None:
            self._scratch = Scratch("milkrun-kafka-")
            root = self._scratch.path
        self.root = root.absolute()
        self.nodes = _nodes(
            brokers, self.root, kafka_settings.protocols(sasl=bool(logins), tls=tls is not None)
        )
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        # The thread whose end the brokers would not survive: a test's own may end while they are to run on.
        self._spawner = ThreadPoolExecutor(1, "kafka-cluster")
        try:
            for node in self.nodes:
                port = (advertised or {}).get(node.id)
                elsewhere = {} if port is None else kafka_settings.advertising(node, port)
                self._configure(node, logins, tls, {**elsewhere, **(overrides or {})})
            self._format(kafka_settings.scram_records(logins))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- where it is

    @property
    def bootstrap(self) -> str:
        """The brokers' addresses without login or encryption, for `bootstrap.servers`."""
        return self.servers("PLAINTEXT")

    def servers(self, protocol: Protocol) -> str:
        """The addresses of the listeners with that security protocol; `Refused` if the cluster has none."""
        if protocol not in self.nodes[0].ports:
            raise Refused(
                f"this cluster has no listener {protocol}: make it with logins (sasl) or certificates (tls)"
            )
        return ",".join(f"127.0.0.1:{node.ports[protocol]}" for node in self.nodes)

    @property
    def running(self) -> frozenset[int]:
        """The ids of the brokers whose process lives."""
        return frozenset(id for id, process in list(self._running.items()) if process.poll() is None)

    def log(self, id: int) -> Path:
        """Where broker `id` logs warnings and worse, one run after the other; the file appears at its first start."""
        return self._node(id).folder / "server.log"

    def controller(self) -> int | None:
        """The broker that leads the quorum by the newest vote any has written down, None while one is going on.

        A dead leader is named until the others vote. Clients can't tell: to them the brokers name any of themselves.
        """
        votes = [json.loads(file.read_text()) for node in self.nodes if (file := _vote(node)).exists()]
        newest = max(
            votes, key=lambda vote: (vote["leaderEpoch"], vote["leaderId"]), default={"leaderId": -1}
        )
        return int(newest["leaderId"]) if newest["leaderId"] > 0 else None

    # -- running

    def start(self, *ids: int, timeout: float = START_SECONDS) -> Self:
        """Start these brokers, or all that don't run, and wait until each takes requests, at most `timeout` seconds.

        A broker takes requests once a majority of controllers runs: of three, start two at a time.
        """
        deadline = time.monotonic() + timeout
        wanted = ids or [node.id for node in self.nodes if node.id not in self.running]
        for id, mark in {id: self._spawn(self._node(id)) for id in wanted}.items():
            self._await_start(id, mark, deadline)
        return self

    def kill(self, *ids: int) -> None:
        """Kill these brokers, or all, at once (SIGKILL)."""
        self._end(SIGKILL, ids)

    def stop(self, *ids: int) -> None:
        """Stop these brokers, or all, in good order, as SIGTERM does; kills one that takes too long."""
        self._end(SIGTERM, ids)

    def signal(self, id: int, number: Signals) -> None:
        """Send a running broker a signal, such as SIGSTOP and SIGCONT."""
        self._process(id).send_signal(number)

    def pid(self, id: int) -> int:
        """The process id of a running broker."""
        return self._process(id).pid

    def close(self) -> None:
        """End all brokers; those without a root of their own are killed and their folders removed."""
        try:
            self._end(SIGTERM if self._scratch is None else SIGKILL, ())
        finally:
            self._spawner.shutdown()
            if self._scratch is not None:
                self._scratch.remove()

    def _node(self, id: int) -> Node:
        if not 1 <= id <= len(self.nodes):
            raise Refused(f"there is no broker {id}: this cluster has 1 to {len(self.nodes)}")
        return self.nodes[id - 1]

    def _process(self, id: int) -> subprocess.Popen[bytes]:
        if self._node(id).id not in self.running:
            raise Refused(f"broker {id} does not run: start it first")
        return self._running[id]

    def _spawn(self, node: Node) -> int:
        """Start the process; returns where in its log this run begins."""
        if node.id in self.running:
            raise Refused(f"broker {node.id} runs already: kill or stop it first")
        program = [*self._jvm(f"-Xmx{self._heap}"), "kafka.Kafka", str(node.folder / "server.properties")]
        with self.log(node.id).open("ab") as output:
            mark = output.tell()
            start = self._spawner.submit(
                subprocess.Popen,
                [sys.executable, "-ISc", _MORTAL, str(os.getpid()), *program],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            self._running[node.id] = start.result()
        return mark

    def _await_start(self, id: int, mark: int, deadline: float) -> None:
        process = self._running[id]
        while _READY not in self._logged(id, mark):
            with suppress(subprocess.TimeoutExpired):
                status = process.wait(timeout=0.02)
                raise Unreachable(f"broker {id} ended with status {status}:\n{self._tail(id, mark)}")
            if time.monotonic() > deadline:
                raise Unreachable(f"broker {id} did not come up in time:\n{self._tail(id, mark)}")

    def _logged(self, id: int, mark: int) -> bytes:
        with self.log(id).open("rb") as log:
            log.seek(mark)
            return log.read()

    def _tail(self, id: int, mark: int) -> str:
        return self._logged(id, mark)[-4000:].decode(errors="replace")

    def _end(self, how: Signals, ids: Sequence[int]) -> None:
        ending = {id: self._running.pop(id) for id in ids or list(self._running) if id in self._running}
        for process in ending.values():
            process.send_signal(how)
            process.send_signal(SIGCONT)  # a frozen one would hear SIGTERM only then
        deadline = time.monotonic() + STOP_SECONDS
        for process in ending.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    # -- configuration

    def _jvm(self, *options: str) -> list[str]:
        return [_java() or "java", "-Xms32m", *options, *_JVM, "-cp", f"{jar_folder()}/*"]

    def _configure(
        self, node: Node, sasl: Mapping[str, str], tls: Path | None, overrides: Mapping[str, object]
    ) -> None:
        node.folder.mkdir(parents=True, exist_ok=True)
        text = kafka_settings.properties(node, self.nodes, sasl=sasl, tls=tls, overrides=overrides)
        (node.folder / "server.properties").write_text(text)
        if tls is not None:
            parts = [(tls / name).read_text() for name in ("key.pem", "cert.pem")]
            kafka_settings.keystore(node).write_text("".join(parts))

    def _format(self, scram: Sequence[str]) -> None:
        """Give each folder its identity and the cluster its first records, by one JVM for all nodes."""
        first, *others = self.nodes
        if first.data.exists():
            return
        command = [*self._jvm("-Xmx64m"), "kafka.tools.StorageTool", "format", "--cluster-id", _CLUSTER_ID]
        command += ["--config", str(first.folder / "server.properties")]
        for record in scram:
            command += ["--add-scram", record]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        if done.returncode:
            raise Refused(
                f"Kafka could not format {first.data}:\n{done.stdout[-4000:].decode(errors='replace')}"
            )
        for node in others:
            shutil.copytree(first.data, node.data)
            identity = f"version=1\ncluster.id={_CLUSTER_ID}\nnode.id={node.id}\n"
            (node.data / "meta.properties").write_text(identity)


def _vote(node: Node) -> Path:
    return node.data / "__cluster_metadata-0" / "quorum-state"


def _nodes(brokers: int, root: Path, protocols: Sequence[Protocol]) -> Sequence[Node]:
    ports = iter(free_ports(brokers * (1 + len(protocols))))
    return [
        Node(id, root / str(id), next(ports), {protocol: next(ports) for protocol in protocols})
        for id in range(1, brokers + 1)
    ]


def free_ports(count: int) -> Sequence[int]:
    """Different ports of loopback on which nobody listens, below those that the system gives to clients.

    So no client's socket takes the port of a broker that is down for a while. Raises `Unreachable` if there are too few.
    """
    end = _first_ephemeral_port()
    found: list[int] = []
    for port in random.sample(range(end - 12_000, end), 1000):
        if len(found) == count:
            break
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            found.append(port)
    if len(found) < count:
        raise Unreachable(f"only {len(found)} of {count} ports wanted are free on 127.0.0.1 below {end}")
    return found


def _first_ephemeral_port() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        return 49_152  # RFC 6335's dynamic ports
