"""What a user can set of the Snowflake sink, and what is refused before anything is opened.

Secrets are never part of what is raised here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from milkrun.connectors.snowflake.names import given, given_stage
from milkrun.model.errors import ConfigError, ConfigErrors
from milkrun.plugin import Seconds, Secret, option
from milkrun.tables.names import check_template

_ACCOUNT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class SnowflakeConfig:
    """The sink's options."""

    account: str = option("the account's identifier: organization and account name", example="acme-prod")
    user: str = option("the user that logs in", example="MILKRUN")
    database: str = option("the database, which must exist", example="RAW")
    warehouse: str = option("the warehouse that loads", example="LOADING")
    schema: str = option("the schema that the tables are in", default="PUBLIC", example="SHOP")
    role: str | None = option("the role; else the user's default role", default=None, example="LOADER")
    private_key_file: Path | None = option(
        "a PEM file with the private key of the user's key pair, relative to the project's folder",
        default=None,
        example="keys/milkrun.p8",
    )
    private_key: Secret | None = option(
        "the private key itself, as PEM text", default=None, example="${SNOWFLAKE_KEY}"
    )
    private_key_passphrase: Secret | None = option(
        "the passphrase of an encrypted private key", default=None, example="${SNOWFLAKE_PASSPHRASE}"
    )
    token: Secret | None = option(
        "a programmatic access token, in place of a key pair", default=None, example="${SNOWFLAKE_TOKEN}"
    )
    password: Secret | None = option("the user's password, in place of a key pair", default=None)
    table: str = option(
        "the table's name; {topic} is the topic's, with _ for . and -; a name without {topic} takes all topics",
        default="{topic}",
        example="raw_{topic}",
    )
    mode: Literal["append", "upsert"] = option(
        "append keeps every event; upsert the last event of each key, and a tombstone deletes",
        default="append",
    )
    stage: str | None = option(
        "an internal stage that is there already; else the sink creates one", default=None, example="LOADS"
    )
    compression_level: int = option("zstd's level in staged files", default=3, minimum=1, maximum=22)
    timeout: Seconds = option(
        "how long a statement may take, with all its tries while the network or Snowflake fails",
        default=900.0,
        minimum=1,
        maximum=86_400,
    )
    endpoint: str | None = option(
        "the address in place of the account's own, for a proxy or a private link",
        default=None,
        example="https://acme.privatelink.snowflakecomputing.com",
    )
    allow_http: bool = option("let an endpoint be reached without TLS", default=False)

    def __post_init__(self) -> None:
        errors = list(_errors(self))
        if errors:
            raise ConfigErrors(errors)


def _errors(config: SnowflakeConfig) -> Iterator[ConfigError]:
    yield from _login_errors(config)
    names = {"database": config.database, "warehouse": config.warehouse, "schema": config.schema}
    if config.role is not None:
        names["role"] = config.role
    checks: list[Callable[[], object]] = [partial(check_template, config.table)]
    checks += [partial(given, text, name) for name, text in names.items()]
    if config.stage is not None:
        checks.append(partial(given_stage, config.stage))
    for check in checks:
        try:
            check()
        except ConfigError as error:
            yield error


def _login_errors(config: SnowflakeConfig) -> Iterator[ConfigError]:
    if not _ACCOUNT.fullmatch(config.account):
        yield ConfigError(
            f"{config.account[:80]!r} is no account identifier",
            "give it without https:// and .snowflakecomputing.com, such as acme-prod or xy12345.eu-central-1",
            path=("account",),
        )
    ways = [config.private_key_file, config.private_key, config.token, config.password]
    if sum(way is not None for way in ways) != 1:
        yield ConfigError(
            "it must be clear how to log in",
            "set one of private_key_file, private_key, token and password",
        )
    if config.private_key_passphrase is not None and ways[0] is None and ways[1] is None:
        yield ConfigError(
            "there is a passphrase but no private key",
            "set private_key_file too, or leave it out",
            path=("private_key_passphrase",),
        )
    if config.endpoint is not None:
        yield from _endpoint_errors(config.endpoint, allow_http=config.allow_http)


def _endpoint_errors(endpoint: str, *, allow_http: bool) -> Iterator[ConfigError]:
    try:
        parts = urlsplit(endpoint)
        port = parts.port
        known = parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc and port != 0
    except ValueError:
        known = False
    if not known:
        yield ConfigError("the endpoint is no address", "give https://host[:port]", path=("endpoint",))
    elif endpoint.startswith("http:") and not allow_http:
        yield ConfigError(
            "the endpoint has no TLS: the login and events would go over the network in the open",
            "give an https:// endpoint, or set allow_http: true where the network is trusted",
            path=("endpoint",),
        )
