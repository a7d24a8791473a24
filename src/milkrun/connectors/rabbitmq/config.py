"""What can be set of the RabbitMQ source, the checks that go beyond single options, and what pika is given of it.

The URL is a secret: nothing that is raised here repeats any part of it but host, port, virtual host and user.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import SplitResult, unquote, urlsplit

import pika

from milkrun.model.errors import ConfigError, ConfigErrors
from milkrun.plugin import Bytes, Seconds, Secret, option

MAX_QUEUES = 1_000
"""Each queue has a channel, and brokers allow 2,047 a connection unless told otherwise."""

_SHAPE = "write amqp://user:password@host:5672/vhost, with reserved characters percent-encoded (`/` is %2F)"


@dataclass(frozen=True, slots=True)
class Binding:
    """How messages get into a declared queue."""

    exchange: str = option("the exchange, which must exist")
    routing_key: str = option("the routing key or pattern", default="", example='"order.#"')
    arguments: dict[str, Any] = option("arguments of the binding, for a headers exchange", default={})


@dataclass(frozen=True, slots=True)
class Declaration:
    """How a queue is created if it isn't there."""

    type: Literal["classic", "quorum"] = option("the queue's type", default="quorum")
    durable: bool = option("whether the queue outlives a restart of the broker", default=True)
    arguments: dict[str, Any] = option(
        "further arguments of the queue", default={}, example="{x-dead-letter-exchange: parked}"
    )
    bindings: list[Binding] = option("what to bind the queue to", default=[])


@dataclass(frozen=True, slots=True)
class TLSFiles:
    """PEM files, below the project folder or absolute."""

    ca: Path | None = option("certificates to trust instead of the system's", default=None)
    cert: Path | None = option("our certificate, where the broker asks for one", default=None)
    key: Path | None = option("its private key, unencrypted", default=None)


@dataclass(frozen=True, slots=True)
class RabbitMQConfig:
    """Options of the RabbitMQ source."""

    url: Secret = option(
        "where the broker is: amqp:// or amqps:// with user, password and virtual host",
        example="${RABBITMQ_URL}",
    )
    queues: list[str] = option("the queues to consume", example="[orders, deliveries]")
    prefetch: int = option(
        "unacknowledged messages that the broker may send ahead, a queue",
        default=1000,
        minimum=1,
        maximum=65_535,
    )
    max_unacked: Bytes = option(
        "unacknowledged bytes at which the source stops consuming, and goes on with a lower prefetch",
        default=256 << 20,
        minimum=1 << 16,
    )
    declare: dict[str, Declaration] = option(
        "queues to create where they are missing; others are waited for",
        default={},
        example="{orders: {type: quorum, bindings: [{exchange: shop, routing_key: 'order.#'}]}}",
    )
    tls: TLSFiles | None = option("certificates for amqps://", default=None, example="{ca: certs/ca.pem}")
    connection_name: str | None = option(
        "how the broker's tools call the connection; `milkrun <pipeline>/<source>` unless told", default=None
    )
    heartbeat: Seconds = option(
        "after twice so long without a sign the broker drops the connection; whole seconds",
        default=60.0,
        minimum=1,
        maximum=3600,
    )
    connect_timeout: Seconds = option(
        "how long connecting and logging in may take", default=10.0, minimum=0.1, maximum=300
    )


@dataclass(frozen=True, slots=True)
class Address:
    """Where the broker is and who logs in. `str()` shows neither user nor password."""

    host: str
    port: int
    vhost: str
    user: str
    password: Secret
    tls: bool

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'amqps' if self.tls else 'amqp'}://{host}:{self.port}, virtual host {self.vhost!r}"


def parse_url(url: Secret) -> Address:
    """The parts of an AMQP URL (https://www.rabbitmq.com/docs/uri-spec). ConfigError, without the URL, where it is none."""
    try:
        parts = urlsplit(url.reveal())
        port = parts.port
    except ValueError:
        # The library's message repeats parts of the URL, and may take the password for a port.
        raise _wrong("is no URL") from None
    if parts.scheme not in ("amqp", "amqps"):
        raise _wrong("doesn't begin with amqp:// or amqps://")
    if not parts.hostname:
        raise _wrong("names no host")
    if parts.query or parts.fragment:
        raise _wrong(
            "has something after ? or #", "set options beside the url, and write %3F and %23 in names"
        )
    user, password = _login(parts)
    tls = parts.scheme == "amqps"
    return Address(parts.hostname, port or (5671 if tls else 5672), _vhost(parts.path), user, password, tls)


def _login(parts: SplitResult) -> tuple[str, Secret]:
    """User and password; without either the broker's own `guest`, which it lets in from its own machine only."""
    if parts.username is None:
        return "guest", Secret("guest")
    if not parts.username or parts.password is None:
        raise _wrong("has a user without password, or a password without user")
    return _plain(parts.username), Secret(_plain(parts.password))


def _vhost(path: str) -> str:
    if path in ("", "/"):
        return "/"
    if "/" in path[1:]:
        raise _wrong("has a / within the virtual host")
    return _plain(path[1:])


def _plain(text: str) -> str:
    """The text behind percent-encoding."""
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise _wrong("has a % that encodes nothing")
    return unquote(text)


def _wrong(what: str, remedy: str = _SHAPE) -> ConfigError:
    return ConfigError(f"the url {what}", remedy, path=("url",))


def check(config: RabbitMQConfig) -> Address:
    """Where to connect to. Raises ConfigErrors for options that are wrong by themselves or contradict one another."""
    errors = list(_queue_errors(config))
    address = None
    try:
        address = parse_url(config.url)
    except ConfigError as error:
        errors.append(error)
    if address is not None and config.tls is not None and not address.tls:
        errors.append(
            ConfigError("certificates are set, but the url is amqp://", "write amqps://", path=("tls",))
        )
    if config.tls is not None and (config.tls.cert is None) != (config.tls.key is None):
        errors.append(ConfigError("only one of cert and key is set", "set both, or none", path=("tls",)))
    if errors or address is None:
        raise ConfigErrors(errors)
    return address


def _queue_errors(config: RabbitMQConfig) -> Iterator[ConfigError]:
    queues = config.queues
    if not 1 <= len(queues) <= MAX_QUEUES:
        yield ConfigError(f"{len(queues)} queues are named", f"name 1 to {MAX_QUEUES}", path=("queues",))
    for index, queue in enumerate(queues):
        if not 1 <= len(queue.encode()) <= 255:
            yield ConfigError("a queue's name has 1 to 255 bytes", "mend it", path=("queues", index))
        if queue in queues[:index]:
            yield ConfigError(f"queue {queue!r} is named twice", "name it once", path=("queues", index))
    for queue, declaration in config.declare.items():
        if queue not in queues:
            yield ConfigError(
                f"{queue!r} is none of the queues",
                "declare only what `queues` names",
                path=("declare", queue),
            )
        if declaration.type == "quorum" and not declaration.durable:
            yield ConfigError(
                "a quorum queue is always durable",
                "leave durable out, or set type: classic",
                path=("declare", queue, "durable"),
            )


def parameters(
    config: RabbitMQConfig, address: Address, folder: Path, name: str
) -> pika.ConnectionParameters:
    """What pika needs to connect. ConfigError where a certificate's file can't be used."""
    context = _context(config.tls or TLSFiles(), folder) if address.tls else None
    return pika.ConnectionParameters(
        host=address.host,
        port=address.port,
        virtual_host=address.vhost,
        credentials=pika.PlainCredentials(address.user, address.password.reveal()),
        heartbeat=max(1, round(config.heartbeat)),
        socket_timeout=config.connect_timeout,
        stack_timeout=config.connect_timeout,
        connection_attempts=1,
        ssl_options=None if context is None else pika.SSLOptions(context, address.host),
        client_properties={"connection_name": config.connection_name or name, "product": "Milkrun"},
    )


def _context(files: TLSFiles, folder: Path) -> ssl.SSLContext:
    """A context that verifies the broker's certificate and host name; there is no way to switch that off."""
    with _named_file("ca", files.ca):
        context = ssl.create_default_context(cafile=None if files.ca is None else folder / files.ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if files.cert is not None and files.key is not None:
        with _named_file("cert", files.cert):
            # A callable, lest OpenSSL asks for the passphrase of an encrypted key on the terminal.
            context.load_cert_chain(folder / files.cert, folder / files.key, password=_no_passphrase)
    return context


def _no_passphrase() -> str:
    return ""


@contextmanager
def _named_file(name: str, path: Path | None) -> Iterator[None]:
    """Turns what reading certificates raises into a ConfigError about the option `tls.<name>`."""
    try:
        yield
    except FileNotFoundError:
        raise ConfigError(f"there is no file {path}", "mend the path", path=("tls", name)) from None
    except ssl.SSLError:
        raise ConfigError(
            f"{path} holds no certificate or key that can be used, or they don't belong together",
            "give PEM files, the key unencrypted",
            path=("tls", name),
        ) from None
    except OSError as error:
        raise ConfigError(
            f"{path} can't be read: {error.strerror}", "mend the path or its permissions", path=("tls", name)
        ) from None
