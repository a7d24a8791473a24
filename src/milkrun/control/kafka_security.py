"""From the plain words of `security:` to the options of librdkafka, and every contradiction among them.

Only what is named here reaches the client library. Certificates and host names are always verified; that can't be switched
off. What is secret is in no error: those name options, never values.
"""

from __future__ import annotations

import dataclasses
import re
import ssl
import unicodedata
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from milkrun.control.documents import DocumentPath
from milkrun.control.sections import KafkaSecuritySection
from milkrun.model.errors import ConfigError, ConfigErrors
from milkrun.model.spec import KafkaLogSpec
from milkrun.plugin.config import Secret

_PROTOCOLS = {
    "plaintext": "plaintext",
    "tls": "ssl",
    "sasl_plaintext": "sasl_plaintext",
    "sasl_tls": "sasl_ssl",
}
_OPTIONS = {
    "username": "sasl.username",
    "password": "sasl.password",
    "ca": "ssl.ca.location",
    "cert": "ssl.certificate.location",
    "key": "ssl.key.location",
    "key_password": "ssl.key.password",
    "token_url": "sasl.oauthbearer.token.endpoint.url",
    "client_id": "sasl.oauthbearer.client.id",
    "client_secret": "sasl.oauthbearer.client.secret",
    "token_ca": "https.ca.location",
    "scope": "sasl.oauthbearer.scope",
}
_TLS = ("ca", "cert", "key", "key_password")
_USER = ("username", "password")
_TOKEN = ("token_url", "client_id", "client_secret", "token_ca", "scope", "extensions")
_NEEDED = {"OAUTHBEARER": ("token_url", "client_id", "client_secret")}

# RFC 7628, section 3.1: a key is letters, a value printable; "auth" is the token's own. librdkafka splits at commas.
_EXTENSION = re.compile(r"(?!auth$)[A-Za-z]+")
_EXTENSION_VALUE = re.compile(r"[!-+\--\[\]-~]([ -+\--\[\]-~]*[!-+\--\[\]-~])?")

_LOOPBACK = re.compile(r"(localhost|127\.[0-9.]+|\[?::1\]?)")


@dataclasses.dataclass(frozen=True)
class _Security:
    """A section with what it leaves open filled in; `given` are the options that the user wrote."""

    section: KafkaSecuritySection
    given: tuple[str, ...]
    protocol: str
    mechanism: str | None

    @property
    def sasl(self) -> bool:
        return self.protocol.startswith("sasl_")

    @property
    def tls(self) -> bool:
        return self.protocol.endswith("tls")


def security_options(section: KafkaSecuritySection, folder: Path, path: DocumentPath = ()) -> dict[str, str]:
    """librdkafka's options, by name; files are below `folder`. ConfigErrors with paths below `path`.

    Values are bare text, secrets too: keep the result out of messages and logs. Options: librdkafka's CONFIGURATION.md.
    """
    security = _completed(section)
    checks = (_misplaced, _missing, _texts, _extensions, _token_url)
    errors = [error for check in checks for error in check(security)]
    errors += _files(section, folder)
    if errors:
        raise ConfigErrors([ConfigError(e.what, e.remedy, path=(*path, *e.path)) for e in errors])
    return _translated(security, folder)


def security_warnings(log: KafkaLogSpec) -> list[str]:
    """What is allowed, and yet lets others read along on the way."""
    options, found = log.security, []
    remote = [each for each in log.bootstrap.split(",") if not _LOOPBACK.fullmatch(each.rpartition(":")[0])]
    if options.get("security.protocol") == "sasl_plaintext" and remote:
        found.append("log: the login and all events go to Kafka unencrypted: write protocol: sasl_tls")
    token_url = urlsplit(options.get("sasl.oauthbearer.token.endpoint.url", ""))
    if token_url.scheme == "http" and not _LOOPBACK.fullmatch(token_url.hostname or ""):
        found.append("log: the client_secret goes to the token_url unencrypted: give one with https")
    return found


def _completed(section: KafkaSecuritySection) -> _Security:
    given = tuple(
        each.name for each in dataclasses.fields(section) if getattr(section, each.name) is not None
    )
    token = any(name in given for name in _TOKEN)
    mechanism = section.mechanism or ("OAUTHBEARER" if token else None)
    login = mechanism is not None or any(name in given for name in _USER)
    # A login without a word about encryption is encrypted: what is left out must not send a password in the clear.
    protocol = "sasl_tls" if login else "tls" if any(name in given for name in _TLS) else "plaintext"
    return _Security(section, given, section.protocol or protocol, mechanism)


def _misplaced(security: _Security) -> Iterator[ConfigError]:
    """Options that belong to another protocol or mechanism than the one chosen."""
    for name in security.given:
        if name in _TLS and not security.tls:
            right = "sasl_tls" if security.sasl else "tls"
            what = f"with protocol: {security.protocol} nothing is encrypted, so it has no use"
            yield ConfigError(what, f"write protocol: {right}, or leave it out", path=(name,))
        if name in ("mechanism", *_USER, *_TOKEN) and not security.sasl:
            right = "sasl_tls" if security.tls else "sasl_plaintext or, better, sasl_tls"
            what = f"with protocol: {security.protocol} there is no login, so it has no use"
            yield ConfigError(what, f"write protocol: {right}, or leave it out", path=(name,))
        elif (name in _USER and security.mechanism == "OAUTHBEARER") or (
            name in _TOKEN and security.mechanism not in (None, "OAUTHBEARER")
        ):
            what = f"{security.mechanism} doesn't log in by it"
            yield ConfigError(what, "leave it out, or choose another mechanism", path=(name,))


def _missing(security: _Security) -> Iterator[ConfigError]:
    """Options without which the ones given are of no use."""
    if security.sasl and security.mechanism is None:
        place = next(name for name in ("protocol", *_USER) if name in security.given)
        remedy = "give the mechanism: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER"
        yield ConfigError("nothing says how to log in", remedy, path=(place,))
    elif security.sasl:
        place = next(name for name in ("mechanism", *_TOKEN) if name in security.given)
        for name in _NEEDED.get(security.mechanism or "", _USER):
            if name not in security.given:
                yield ConfigError(f"{security.mechanism} needs a {name}", f"give {name} too", path=(place,))
    for name, other in (("cert", "key"), ("key", "cert"), ("key_password", "key")):
        if name in security.given and other not in security.given:
            yield ConfigError(f"it is of no use without a {other}", f"give {other} too", path=(name,))


def _texts(security: _Security) -> Iterator[ConfigError]:
    """Texts that no server takes, such as a secret that was read from an empty file."""
    for name in security.given:
        value = _bare(getattr(security.section, name))
        if not isinstance(value, str):
            continue
        if not value:
            yield ConfigError("it is empty", "give a value, or leave it out", path=(name,))
        elif any(unicodedata.category(sign) == "Cc" for sign in value):
            yield ConfigError(
                "it has a line break or another control character in it", "remove that", path=(name,)
            )


def _extensions(security: _Security) -> Iterator[ConfigError]:
    for name, value in (security.section.extensions or {}).items():
        path = ("extensions", name)
        if not _EXTENSION.fullmatch(name):
            yield ConfigError("it can't name a SASL extension", "use letters, and not auth", path=path)
        if not _EXTENSION_VALUE.fullmatch(value):
            yield ConfigError(
                "its value can't be sent", "use printable ASCII without commas and backslashes", path=path
            )


def _token_url(security: _Security) -> Iterator[ConfigError]:
    text = security.section.token_url
    if not text:
        return
    remedy = "write for example https://login.example.com/oauth2/token"
    try:
        url = urlsplit(text)
        right = url.scheme in ("https", "http") and bool(url.hostname) and url.port != 0 and " " not in text
        login = "@" in url.netloc
    except ValueError:
        right = login = False
    if login:
        yield ConfigError("it has a login in it", "use client_id and client_secret", path=("token_url",))
    elif not right:
        yield ConfigError("it is no address of a token endpoint", remedy, path=("token_url",))


# -- files


def _files(section: KafkaSecuritySection, folder: Path) -> list[ConfigError]:
    """What is wrong with the certificates and the key, as OpenSSL sees it."""
    errors: list[ConfigError] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for name, file in (("ca", section.ca), ("token_ca", section.token_ca)):
        if file is not None:
            load = partial(context.load_verify_locations, folder / file)
            errors += _tried(name, file, load, "PEM certificates")
    unreadable = [
        error
        for name, file in (("cert", section.cert), ("key", section.key))
        if file is not None
        for error in _tried(name, file, (folder / file).read_bytes, "")
    ]
    errors += unreadable
    if section.cert is not None and section.key is not None and not unreadable:
        errors += _pair(context, section, folder / section.cert, folder / section.key)
    return errors


def _pair(
    context: ssl.SSLContext, section: KafkaSecuritySection, cert: Path, key: Path
) -> Iterator[ConfigError]:
    """What keeps certificate and key from being used together."""
    asked = False

    def password() -> str:
        # Always a callable, lest OpenSSL asks for the password on the terminal.
        nonlocal asked
        asked = True
        return section.key_password.reveal() if section.key_password is not None else ""

    try:
        context.load_cert_chain(cert, key, password=password)
    except (ssl.SSLError, ValueError) as error:
        opened = not asked or getattr(error, "reason", None) == "KEY_VALUES_MISMATCH"
        if not opened and section.key_password is None:
            yield ConfigError("the key is encrypted", "give its key_password", path=("key",))
        elif not opened:
            yield ConfigError(
                "it doesn't open the key", "give the key's own password", path=("key_password",)
            )
        else:
            yield ConfigError(
                "they are no certificate and its key that can be used",
                "give PEM files that belong together",
                path=("cert",),
            )


def _tried(name: str, file: Path, call: Callable[[], Any], wanted: str) -> Iterator[ConfigError]:
    try:
        call()
    except ssl.SSLError:
        yield ConfigError(f"{str(file)!r} holds no {wanted}", f"name a file of {wanted}", path=(name,))
    except OSError as error:
        yield ConfigError(
            f"the file {str(file)!r} can't be read: {error.strerror}",
            "mend the path (below the project folder unless absolute) or its permissions",
            path=(name,),
        )


# -- to librdkafka


def _translated(security: _Security, folder: Path) -> dict[str, str]:
    options = {"security.protocol": _PROTOCOLS[security.protocol]}
    if security.tls:
        options["ssl.endpoint.identification.algorithm"] = "https"
    if security.sasl:
        options["sasl.mechanism"] = str(security.mechanism)
    if security.sasl and security.mechanism == "OAUTHBEARER":
        options["sasl.oauthbearer.method"] = "oidc"
    for name, option in _OPTIONS.items():
        value = getattr(security.section, name)
        if value is not None:
            options[option] = str(folder / value) if isinstance(value, Path) else _bare(value)
    if security.section.extensions:
        pairs = (f"{name}={value}" for name, value in security.section.extensions.items())
        options["sasl.oauthbearer.extensions"] = ",".join(pairs)
    return options


def _bare(value: Any) -> Any:
    """A secret as bare text: the client library would take its asterisks."""
    return value.reveal() if isinstance(value, Secret) else value
