"""Getting hold of the port: alone, or together with other workers of the same project, and never beside anybody else.

SO_REUSEPORT lets several processes of a user listen at one port, whoever they are, and the kernel spreads connections over them. So who
listens there already is asked first: another worker of the same project is fine, anything else is refused.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import socket
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path

from milkrun.connectors.http.app import IDENTITY_PATH
from milkrun.connectors.http.config import Address
from milkrun.model.errors import ConfigError, MilkrunError, Transient

PROBES = 3
PROBE_SECONDS = 2.0
PROBE_PAUSE_SECONDS = 0.2
_NEVER = threading.Event()


@dataclass(frozen=True, slots=True)
class Tls:
    """Where certificate and key are."""

    cert: Path
    key: Path


def identity_of(folder: Path) -> str:
    """How a collector says which project it belongs to, without saying where that is."""
    return hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:32]


def listen(address: Address, identity: str, tls: Tls | None) -> socket.socket:
    """A socket bound to the address. ConfigError where that can't be, Transient where whoever is there doesn't say who it is."""
    if tls is not None:
        _check_certificate(tls)
    sock = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "SO_REUSEPORT"):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((address.host, address.port))
        sock.setblocking(False)
        if address.port:
            # Bound and not yet listening, it gets no connections: the answer is somebody else's.
            probe(address, identity, tls)
    except OSError as error:
        sock.close()
        raise _cannot_bind(address, error) from None
    except MilkrunError:
        sock.close()
        raise
    return sock


def _check_certificate(tls: Tls) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # With an empty passphrase, an encrypted key fails here instead of asking on a terminal.
        context.load_cert_chain(tls.cert, tls.key, password="")
    except OSError as error:
        reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        raise ConfigError(
            f"the certificate can't be used: {reason}",
            "give PEM files of the certificate chain and its private key, without passphrase",
            path=("tls",),
        ) from None


def _cannot_bind(address: Address, error: OSError) -> ConfigError:
    if error.errno == errno.EADDRINUSE:
        return _occupied(address)
    remedies = {
        errno.EACCES: "choose a port from 1024, or allow this user lower ones",
        errno.EADDRNOTAVAIL: "give an address of this machine",
    }
    return ConfigError(
        f"can't listen at {address}: {error.strerror}",
        remedies.get(error.errno or 0, "choose another address"),
        path=("listen",),
    )


def _occupied(address: Address) -> ConfigError:
    return ConfigError(
        f"another program listens at {address}", "stop it, or choose another port", path=("listen",)
    )


def probe(address: Address, identity: str, tls: Tls | None) -> None:
    """Ask who listens at the address. ConfigError where it is neither nobody nor a worker of the same project; Transient where there is no
    answer. A worker that is just stopping may hang up, so it is asked again."""
    for attempt in range(PROBES):
        if attempt:
            _NEVER.wait(PROBE_PAUSE_SECONDS)
        try:
            found = _ask(address, tls)
        except ConnectionRefusedError:
            return
        except TimeoutError:
            raise _silent(address) from None
        if found == identity:
            return
    raise _occupied(address)


def _ask(address: Address, tls: Tls | None) -> str | None:
    """The identity of the collector at the address; None where it is none. Raises ConnectionRefusedError where nobody listens."""
    connection = http.client.HTTPConnection(address.host, address.port, timeout=PROBE_SECONDS)
    if tls is not None:
        # Against mistakes, not attacks: whoever can listen here could as well keep the port for itself.
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection(
            address.host, address.port, timeout=PROBE_SECONDS, context=context
        )
    try:
        connection.request("GET", IDENTITY_PATH)
        document = json.loads(connection.getresponse().read(1024))
        return str(document["collector"])
    except (ConnectionRefusedError, TimeoutError):
        raise
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return None
    finally:
        connection.close()


def _silent(address: Address) -> Transient:
    return Transient(f"somebody listens at {address} and does not answer; trying again")
