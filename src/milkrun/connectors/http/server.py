"""The server that one or several sources listen through: a thread with an event loop, shared by all sources of the process that
name the same address, and found by it.

Other workers of the same project share the port (SO_REUSEPORT); whoever listens there already is asked who it is first.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import structlog
import uvicorn

from milkrun.connectors.http.app import Collector
from milkrun.connectors.http.config import Address, TlsConfig
from milkrun.connectors.http.door import Door
from milkrun.connectors.http.listening import Tls, identity_of, listen
from milkrun.connectors.http.protocol import BoundedProtocol
from milkrun.model.errors import ConfigError, Reopen

START_SECONDS = 10.0
STOP_SECONDS = 10
KEEP_ALIVE_SECONDS = 75
SWEEP_SECONDS = 0.25

_logger = structlog.get_logger()


class _Uvicorn(uvicorn.Server):
    """Tells when it listens."""

    def __init__(self, config: uvicorn.Config, listening: threading.Event) -> None:
        super().__init__(config)
        self._listening = listening

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup(sockets)  # type: ignore[arg-type]
        self._listening.set()


class Server:
    """One address. Made and closed by `attach` and `detach`."""

    def __init__(self, address: Address, folder: Path, tls: TlsConfig | None) -> None:
        paths = self.tls = _below(folder, tls)
        identity = identity_of(folder)
        self._socket = listen(address, identity, paths)
        host, port = self._socket.getsockname()[:2]
        self.address = Address(address.family, host, port)
        self._executor = ThreadPoolExecutor(2, thread_name_prefix=f"http decode {port}")
        self._app = Collector(identity, self._executor)
        self._listening = threading.Event()
        self._uvicorn = _Uvicorn(_settings(self._app, paths), self._listening)
        self._thread = threading.Thread(target=self._run, name=f"http {self.address}", daemon=True)

    def start(self) -> None:
        """Returns once it listens. Reopen where it doesn't."""
        self._thread.start()
        if not self._listening.wait(START_SECONDS) or not self.alive:
            self.stop()
            raise Reopen(f"the HTTP server at {self.address} did not start")
        _logger.info("collector listens", address=str(self.address), tls=self.tls is not None)

    def stop(self) -> None:
        """Answer what is under way, close all connections and free the port."""
        self._uvicorn.should_exit = True
        self._thread.join(STOP_SECONDS)
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._socket.close()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def doors(self) -> tuple[Door, ...]:
        return self._app.doors

    def set_doors(self, doors: tuple[Door, ...]) -> None:
        self._app.doors = doors

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                runner.run(self._serve())
        except (Exception, SystemExit) as error:
            _logger.error(
                "collector stopped", address=str(self.address), error=f"{type(error).__name__}: {error}"
            )

    async def _serve(self) -> None:
        sweep = asyncio.create_task(self._sweep())
        await self._uvicorn.serve(sockets=[self._socket])
        sweep.cancel()
        with suppress(asyncio.CancelledError):
            await sweep

    async def _sweep(self) -> None:
        """Answer whoever has waited too long."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            for door in self._app.doors:
                door.line.expire()


def _below(folder: Path, tls: TlsConfig | None) -> Tls | None:
    return None if tls is None else Tls(folder / tls.cert, folder / tls.key)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where there is uvloop."""
    if sys.platform == "win32":
        return None
    import uvloop

    return uvloop.new_event_loop


def _settings(app: Collector, tls: Tls | None) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        loop="none",
        http=BoundedProtocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=STOP_SECONDS // 2,
        ssl_certfile=tls.cert if tls else None,
        ssl_keyfile=tls.key if tls else None,
    )


_servers: dict[tuple[str, int], Server] = {}
_lock = threading.Lock()


def attach(door: Door, address: Address, folder: Path) -> Server:
    """The server at `address`, with this door in it. ConfigError where the port is somebody else's, or doors can't be told apart."""
    with _lock:
        server = _servers.get((address.host, address.port))
        if server is None or not server.alive:
            server = Server(address, folder, door.config.tls)
            server.set_doors((door,))
            server.start()
            _servers[server.address.host, server.address.port] = server
            return server
        _check_fits(server, door, folder)
        others = tuple(other for other in server.doors if other.name != door.name)
        server.set_doors((*others, door))
        return server


def detach(server: Server, door: Door) -> None:
    """Take the door out, its requests being answered. The last one closes the server."""
    with _lock:
        door.away = True
        if not all(other.away for other in server.doors):
            return
        place = (server.address.host, server.address.port)
        if _servers.get(place) is server:
            del _servers[place]
        server.stop()


def _check_fits(server: Server, door: Door, folder: Path) -> None:
    if server.tls != _below(folder, door.config.tls):
        raise ConfigError(
            f"another source listens at {server.address} with other tls",
            "give all sources of an address the same tls, or another address",
            path=("tls",),
        )
    for other in server.doors:
        if other.name == door.name:
            continue
        if not door.keyring and not other.keyring:
            raise ConfigError(
                f"{other.name} listens at {server.address} too, also without keys",
                "give one of them keys, by which requests are told apart, or another address",
                path=("listen",),
            )
        if door.keyring.shares_with(other.keyring):
            raise ConfigError(
                f"{other.name} listens at {server.address} too, and has one of these keys",
                "give each source keys of its own: the key decides where events go",
                path=("keys",),
            )
