"""What can be set of the PostgreSQL sink, and what the client library is given of it.

The URL is a secret: nothing that is raised here repeats any part of it but host, port, database and user.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psycopg
from psycopg.conninfo import conninfo_to_dict

from milkrun.model.errors import ConfigError, ConfigErrors
from milkrun.plugin import Seconds, Secret, option
from milkrun.tables.names import check_template

SslMode = Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_SHAPE = "write postgresql://user:password@host:5432/database, with reserved characters percent-encoded (`/` is %2F)"
_PARAMETERS = (
    "host",
    "port",
    "user",
    "password",
    "dbname",
    "sslmode",
    "channel_binding",
    "target_session_attrs",
)
"""What a URL may say; hosting services hand out URLs with the last three."""

KEEPALIVE = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,
}
"""A server that the network has cut off is given up after about half a minute."""


@dataclass(frozen=True, slots=True)
class TLSFiles:
    """PEM files, below the project folder or absolute."""

    ca: Path | None = option("certificates to trust instead of the system's", default=None)
    cert: Path | None = option("our certificate, where the server asks for one", default=None)
    key: Path | None = option("its private key, unencrypted", default=None)


@dataclass(frozen=True)
class PostgresConfig:
    """The sink's options."""

    url: Secret = option("where the server is: host, database, user and password", example="${POSTGRES_URL}")
    password: Secret | None = option(
        "the password, where the url has none", default=None, example="${POSTGRES_PASSWORD}"
    )
    password_file: Path | None = option(
        "a file that holds the password, relative to the project's folder; read at each connection",
        default=None,
    )
    sslmode: SslMode | None = option(
        "as libpq has it; verify-full unless told, or prefer where the server is on this machine",
        default=None,
    )
    tls: TLSFiles = option("certificates", default=TLSFiles(), example="{ca: certs/ca.pem}")
    schema: str = option("the schema within the database that the tables are in", default="public")
    table: str = option(
        "the table's name; {topic} is the topic's, with _ for . and -; a name without {topic} takes all topics",
        default="{topic}",
        example="raw_{topic}",
    )
    mode: Literal["append", "upsert"] = option(
        "append keeps every event; upsert the last event of each key, and a tombstone deletes",
        default="append",
    )
    connect_timeout: Seconds = option(
        "how long connecting and logging in may take; whole seconds", default=10.0, minimum=2, maximum=300
    )
    statement_timeout: Seconds = option(
        "how long one statement of a cut may take before it is given up and tried again",
        default=600.0,
        minimum=1,
        maximum=86_400,
    )

    def __post_init__(self) -> None:
        errors = list(_errors(self))
        if errors:
            raise ConfigErrors(errors)


def _errors(config: PostgresConfig) -> Iterator[ConfigError]:
    try:
        check_template(config.table)
        address = parse_url(config.url)
    except ConfigError as error:
        yield error
        return
    passwords = [address.password, config.password, config.password_file]
    if sum(password is not None for password in passwords) > 1:
        yield ConfigError(
            "the password is given twice", "give one of a password in the url, password and password_file"
        )
    if config.sslmode is not None and address.parameters.get("sslmode", config.sslmode) != config.sslmode:
        yield ConfigError("the url has another sslmode", "set one of the two", path=("sslmode",))
    if (config.tls.cert is None) != (config.tls.key is None):
        yield ConfigError("only one of cert and key is set", "set both, or none", path=("tls",))
    if not config.schema or "\0" in config.schema or len(config.schema.encode()) > 63:
        yield ConfigError(
            f"{config.schema[:80]!r} can't name a schema", "give a name of 1 to 63 bytes", path=("schema",)
        )


@dataclass(frozen=True, slots=True)
class Address:
    """Where the server is and who logs in: hosts and ports of one server, or of several of which one takes writes.

    `str()` shows neither user nor password; `parameters` are the url's others.
    """

    hosts: tuple[str, ...]
    ports: tuple[int, ...]
    database: str
    user: str
    password: Secret | None
    parameters: dict[str, str]

    def __str__(self) -> str:
        pairs = zip(self.hosts, self.ports, strict=True)
        places = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in pairs)
        return f"postgresql://{places}/{self.database}"

    @property
    def is_local(self) -> bool:
        """Whether the way to the server never leaves this machine."""
        return all(_is_local(host) for host in self.hosts)


def _is_local(host: str) -> bool:
    if host.startswith(("/", "@")) or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def parse_url(url: Secret) -> Address:
    """The parts of a URL (https://www.postgresql.org/docs/current/libpq-connect.html). ConfigError, without the URL, where it is none."""
    text = url.reveal()
    if not text.startswith(("postgresql://", "postgres://")):
        raise _wrong("doesn't begin with postgresql://")
    try:
        parts = {name: str(value) for name, value in conninfo_to_dict(text).items() if value is not None}
    except psycopg.Error:
        # The library's message repeats parts of the URL.
        raise _wrong("can't be read") from None
    for name in parts:
        if name not in _PARAMETERS:
            raise _wrong(
                f"sets {name[:40]!r}", f"leave it out; of parameters it may have {', '.join(_PARAMETERS[5:])}"
            )
    for name, what in {"host": "host", "user": "user", "dbname": "database"}.items():
        if not parts.get(name):
            raise _wrong(f"names no {what}")
    if parts.get("sslmode", "require") not in _SSL_MODES:
        raise _wrong("has an unknown sslmode", f"known are: {', '.join(_SSL_MODES)}")
    hosts = tuple(parts["host"].split(","))
    password = Secret(parts["password"]) if "password" in parts else None
    others = {name: value for name, value in parts.items() if name in _PARAMETERS[5:]}
    return Address(
        hosts, _ports(parts.get("port", ""), len(hosts)), parts["dbname"], parts["user"], password, others
    )


def _ports(text: str, count: int) -> tuple[int, ...]:
    """A port for each host; one alone is for all."""
    given = text.split(",")
    ports = tuple(int(port or "5432") for port in given if re.fullmatch(r"\d{0,5}", port))
    if len(ports) != len(given) or not all(1 <= port <= 65_535 for port in ports):
        raise _wrong("has a port that is none", "write a number from 1 to 65535")
    return ports if len(ports) == count else ports * count


def _wrong(what: str, remedy: str = _SHAPE) -> ConfigError:
    return ConfigError(f"the url {what}", remedy, path=("url",))


def parameters(config: PostgresConfig, address: Address, folder: Path, name: str) -> dict[str, str | int]:
    """What libpq needs to connect. ConfigError where a file can't be used."""
    given: dict[str, str | int] = {
        "host": ",".join(address.hosts),
        "port": ",".join(str(port) for port in address.ports),
        "dbname": address.database,
        "user": address.user,
        "connect_timeout": max(2, round(config.connect_timeout)),
        "application_name": name,
        "client_encoding": "UTF8",
        # Where several servers are named, the one that takes writes.
        "target_session_attrs": "read-write" if len(address.hosts) > 1 else "any",
        "sslmode": config.sslmode or ("prefer" if address.is_local else "verify-full"),
        **KEEPALIVE,
        **address.parameters,
    }
    # With certificates to trust, libpq verifies by them even where it need not.
    if config.tls.ca is not None:
        given["sslrootcert"] = str(_file(folder, "ca", config.tls.ca))
    elif given["sslmode"] in ("verify-ca", "verify-full"):
        given["sslrootcert"] = _system_certificates()
    if config.tls.cert is not None and config.tls.key is not None:
        given["sslcert"] = str(_file(folder, "cert", config.tls.cert))
        given["sslkey"] = str(_file(folder, "key", config.tls.key))
    password = _password(config, address, folder)
    return given if password is None else given | {"password": password.reveal()}


def _password(config: PostgresConfig, address: Address, folder: Path) -> Secret | None:
    if config.password_file is None:
        return config.password or address.password
    try:
        return Secret((folder / config.password_file).read_text(encoding="utf-8").rstrip("\r\n"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(
            f"{config.password_file} can't be read: {reason}",
            "mend the path or its permissions",
            path=("password_file",),
        ) from None


def _file(folder: Path, name: str, path: Path) -> Path:
    """The file of the option `tls.<name>`. ConfigError where it can't be read: libpq would only say that a login failed."""
    try:
        (folder / path).open("rb").close()
    except OSError as error:
        raise ConfigError(
            f"{path} can't be read: {error.strerror}", "mend the path or its permissions", path=("tls", name)
        ) from None
    return folder / path


def _system_certificates() -> str:
    """The certificates that Python trusts on this system: the library's own default may be another system's."""
    return ssl.get_default_verify_paths().cafile or "system"
