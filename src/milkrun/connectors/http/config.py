"""What can be set of the HTTP collector, and the checks that go beyond single options.

The rule that decides what may be exposed lives here: other machines reach a collector only with write keys and TLS.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from pathlib import Path

from milkrun.model.errors import ConfigError, ConfigErrors
from milkrun.plugin import Bytes, Seconds, option

HASH = re.compile(r"sha256:[0-9a-f]{64}")
_LISTEN = re.compile(r"(?:\[(?P<v6>[^\[\]]+)\]|(?P<host>[^:\[\]]+)):(?P<port>\d{1,5})")
_ORIGIN = re.compile(r"https?://[^/\s]+")
_CREDENTIALS = frozenset({"authorization", "cookie", "proxy-authorization", "x-milkrun-key"})
_TOKEN = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """The server's own certificate."""

    cert: Path = option("certificate chain, PEM, below the project folder or absolute")
    key: Path = option("private key, PEM, without passphrase")


@dataclass(frozen=True, slots=True)
class HttpConfig:
    """Options of the HTTP collector."""

    listen: str = option(
        "address and port; other than loopback only with keys and tls. Sources with the same address share a server",
        default="127.0.0.1:8080",
        example="0.0.0.0:8443",
    )
    keys: list[str] = option(
        "hashes of the write keys that may append here; without any, everyone on this machine may",
        default=[],
        example='["sha256:9f86..."]',
    )
    query_key: bool = option(
        "also take the key from ?key= (navigator.sendBeacon can send no headers); proxies may log it",
        default=False,
    )
    tls: TlsConfig | None = option(
        "certificate and private key", default=None, example="{cert: tls/cert.pem, key: tls/key.pem}"
    )
    plain_http: bool = option(
        "allow other than loopback without tls, where a proxy in front ends it; keys are needed all the same",
        default=False,
    )
    cors_origins: list[str] = option(
        "web origins whose pages may send; `*` is any", default=[], example='["https://shop.example"]'
    )
    keep_headers: list[str] = option(
        "request headers that are kept with the events, and usable as headers.<name>",
        default=[],
        example="[user-agent, x-tenant]",
    )
    max_body: Bytes = option("a request's body as sent", default=10 << 20, minimum=1)
    max_decompressed: Bytes = option("a request's body after decompression", default=64 << 20, minimum=1)
    max_event: Bytes = option("one event; larger ones become dead letters", default=1 << 20, minimum=1)
    max_events: int = option("events of one request", default=10_000, minimum=1)
    max_depth: int = option(
        "levels of nesting; deeper events become dead letters", default=128, minimum=1, maximum=500
    )
    max_waiting: Bytes = option(
        "bytes of requests that are read or wait for their commit; beyond, requests get 503",
        default=128 << 20,
    )
    rate_limit: float | None = option(
        "events per second that a key may send to each worker; beyond, requests get 429",
        default=None,
        minimum=0.001,
    )
    answer_timeout: Seconds = option(
        "how long a request may wait for its commit", default=30.0, minimum=0.1, maximum=3600
    )


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens, resolved; port 0 lets the system choose."""

    family: socket.AddressFamily
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return ipaddress.ip_address(self.host.partition("%")[0]).is_loopback


def check(config: HttpConfig) -> Address:
    """The address to listen at. ConfigErrors names everything that can't be, or is not safe."""
    errors = [*_wrong_keys(config), *_wrong_origins(config), *_wrong_headers(config), *_wrong_sizes(config)]
    try:
        address = resolve(config.listen)
    except ConfigError as error:
        raise ConfigErrors([error, *errors]) from None
    if not address.loopback:
        errors += _exposed(config)
    if errors:
        raise ConfigErrors(errors)
    return address


def resolve(listen: str) -> Address:
    """The address that `host:port` or `[v6]:port` means on this machine. Raises ConfigError."""
    match = _LISTEN.fullmatch(listen)
    if match is None or int(match["port"]) > 65535:
        raise ConfigError(
            f"{listen!r} is no address to listen at",
            "write host:port, such as 127.0.0.1:8080 or [::1]:8080",
            path=("listen",),
        )
    host = match["v6"] or match["host"]
    try:
        found = socket.getaddrinfo(host, int(match["port"]), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigError(
            f"the host {host!r} can't be resolved: {error.strerror}",
            "give an address of this machine",
            path=("listen",),
        ) from None
    family, _, _, _, place = found[0]
    return Address(family, str(place[0]), int(place[1]))


def _exposed(config: HttpConfig) -> list[ConfigError]:
    errors = []
    if not config.keys:
        errors.append(
            ConfigError(
                f"{config.listen} can be reached from other machines, and there are no write keys",
                "give hashes of keys (`milkrun keys new` makes one), or listen at 127.0.0.1",
                path=("keys",),
            )
        )
    if config.tls is None and not config.plain_http:
        errors.append(
            ConfigError(
                f"{config.listen} can be reached from other machines, and there is no TLS",
                "give tls: {cert, key}, or plain_http: true where a proxy in front ends TLS, or listen at 127.0.0.1",
                path=("tls",),
            )
        )
    return errors


def _wrong_keys(config: HttpConfig) -> list[ConfigError]:
    # The value isn't shown: somebody may have put the key itself there.
    return [
        ConfigError(
            "is no hash of a write key",
            "give sha256: and 64 hexadecimal digits (`milkrun keys new` makes a key and its hash)",
            path=("keys", index),
        )
        for index, text in enumerate(config.keys)
        if not HASH.fullmatch(text)
    ]


def _wrong_origins(config: HttpConfig) -> list[ConfigError]:
    return [
        ConfigError(
            f"{text!r} is no web origin",
            "write https://host[:port] without a path, or *",
            path=("cors_origins", index),
        )
        for index, text in enumerate(config.cors_origins)
        if text != "*" and not _ORIGIN.fullmatch(text)
    ]


def _wrong_headers(config: HttpConfig) -> list[ConfigError]:
    errors = []
    for index, name in enumerate(config.keep_headers):
        path = ("keep_headers", index)
        if name.lower() in _CREDENTIALS:
            errors.append(
                ConfigError(f"{name!r} carries credentials and is never kept", "take it out", path=path)
            )
        elif not _TOKEN.fullmatch(name.lower()):
            errors.append(
                ConfigError(f"{name!r} is no name of a header", "write for example user-agent", path=path)
            )
    return errors


def _wrong_sizes(config: HttpConfig) -> list[ConfigError]:
    errors = []
    if config.max_event > config.max_decompressed:
        errors.append(
            ConfigError(
                "is more than max_decompressed",
                "make it smaller, or max_decompressed larger",
                path=("max_event",),
            )
        )
    if config.max_waiting < max(config.max_body, config.max_decompressed):
        errors.append(
            ConfigError(
                "is less than the largest request",
                "make it at least as large as max_body and max_decompressed",
                path=("max_waiting",),
            )
        )
    return errors
