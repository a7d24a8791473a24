"""How the sink logs in: from its options to what the client library takes.

Keys are read and opened here, so that a wrong file or passphrase is told as such and not as a failed login.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from milkrun.connectors.snowflake.config import SnowflakeConfig
from milkrun.model.errors import ConfigError
from milkrun.plugin import Secret

LOGIN_SECONDS = 60
LOCK_SECONDS = 600
"""How long a statement waits for a lock, if `timeout` lets it: Snowflake ends a transaction whose client is gone after five minutes of others waiting for it
(https://docs.snowflake.com/en/sql-reference/transactions)."""

_SESSION: dict[str, str | int | bool] = {
    "TIMEZONE": "UTC",
    "BINARY_INPUT_FORMAT": "HEX",
    "DATE_INPUT_FORMAT": "YYYY-MM-DD",
    "TIME_INPUT_FORMAT": "HH24:MI:SS.FF6",
    "TIMESTAMP_INPUT_FORMAT": "AUTO",
    "QUOTED_IDENTIFIERS_IGNORE_CASE": False,
    "AUTOCOMMIT": True,
    "TRANSACTION_ABORT_ON_ERROR": False,
    "ABORT_DETACHED_QUERY": True,
    "LOCK_TIMEOUT": LOCK_SECONDS,
    "CLIENT_TELEMETRY_ENABLED": False,
}
"""Parameters that an account may have set otherwise, and on which the meaning of a statement here depends."""


def arguments(config: SnowflakeConfig, folder: Path, tag: str) -> dict[str, Any]:
    """Arguments of `snowflake.connector.connect`; `tag` marks the statements in Snowflake's query history. ConfigError where a key
    can't be used."""
    result: dict[str, Any] = {
        "account": config.account,
        "user": config.user,
        "application": "Milkrun",
        "paramstyle": "qmark",
        "login_timeout": LOGIN_SECONDS,
        # The client cancels statements that take longer, too.
        "network_timeout": max(1, round(config.timeout)),
        "client_session_keep_alive": False,
        "session_parameters": {**_SESSION, "QUERY_TAG": tag},
    }
    for name in ("database", "schema", "warehouse", "role"):
        if getattr(config, name) is not None:
            result[name] = getattr(config, name)
    return result | _credentials(config, folder) | _address(config.endpoint)


def _credentials(config: SnowflakeConfig, folder: Path) -> dict[str, Any]:
    if config.password is not None:
        return {"password": config.password.reveal()}
    if config.token is not None:
        return {"authenticator": "PROGRAMMATIC_ACCESS_TOKEN", "token": config.token.reveal()}
    return {"authenticator": "SNOWFLAKE_JWT", "private_key": private_key(config, folder)}


def private_key(config: SnowflakeConfig, folder: Path) -> bytes:
    """The private key as DER (PKCS #8). ConfigError where there is none, or the passphrase isn't its."""
    from cryptography.hazmat.primitives import serialization

    pem, option = _pem(config, folder)
    passphrase = config.private_key_passphrase
    try:
        key = serialization.load_pem_private_key(
            pem, None if passphrase is None else passphrase.reveal().encode()
        )
    except TypeError:
        raise _passphrase_error(passphrase) from None
    except ValueError:
        if passphrase is not None and b"ENCRYPTED" in pem:
            raise ConfigError(
                "the passphrase does not open the private key",
                "give the one that the key was encrypted with",
                path=("private_key_passphrase",),
            ) from None
        raise ConfigError(
            "there is no private key that can be used",
            "give PEM text that begins with -----BEGIN PRIVATE KEY----- or -----BEGIN ENCRYPTED PRIVATE KEY-----",
            path=(option,),
        ) from None
    return key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _passphrase_error(passphrase: Secret | None) -> ConfigError:
    if passphrase is None:
        what, remedy = (
            "the private key is encrypted, and there is no passphrase",
            "set private_key_passphrase",
        )
    else:
        what, remedy = "the private key is not encrypted, but there is a passphrase", "leave it out"
    return ConfigError(what, remedy, path=("private_key_passphrase",))


def _pem(config: SnowflakeConfig, folder: Path) -> tuple[bytes, str]:
    """The key's text, and the option that it comes from."""
    if config.private_key is not None:
        return config.private_key.reveal().encode(), "private_key"
    path = folder / (config.private_key_file or "")
    try:
        return path.read_bytes(), "private_key_file"
    except OSError as error:
        raise ConfigError(
            f"{config.private_key_file} can't be read: {error.strerror}",
            "give the path of the private key's PEM file, which the user that runs Milkrun may read",
            path=("private_key_file",),
        ) from None


def _address(endpoint: str | None) -> dict[str, Any]:
    if endpoint is None:
        return {}
    parts = urlsplit(endpoint)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return {"protocol": parts.scheme, "host": parts.hostname, "port": port}
