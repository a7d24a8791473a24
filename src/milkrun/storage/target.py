"""Places for objects as a user names them: a folder, or a bucket on S3 with how to reach it.

What can't be right is refused here, before anything is opened.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from milkrun.model.errors import ConfigError
from milkrun.plugin import Secret, option


@dataclass(frozen=True)
class S3Options:
    """How to reach an S3 bucket. What is not given comes from the `AWS_*` environment variables or the machine's role."""

    region: str | None = option("the bucket's region", default=None, example="eu-central-1")
    endpoint: str | None = option(
        "the address of an S3-compatible store; AWS itself needs none",
        default=None,
        example="https://minio.example.com",
    )
    access_key: Secret | None = option("the access key's id", default=None, example="${LAKE_KEY}")
    secret_key: Secret | None = option("the access key's secret", default=None, example="${LAKE_SECRET}")
    session_token: Secret | None = option("the token of temporary credentials", default=None)
    allow_http: bool = option("let an endpoint be reached without TLS", default=False)
    virtual_hosted: bool = option("the bucket's name is part of the host, not of the path", default=False)

    def __post_init__(self) -> None:
        if (self.access_key is None) != (self.secret_key is None):
            raise ConfigError("one of access_key and secret_key is missing", "give both or neither")
        if self.endpoint is not None:
            _check_endpoint(self.endpoint, allow_http=self.allow_http)


@dataclass(frozen=True, slots=True)
class Bucket:
    """A place on S3: `prefix` has no slash at either end and may be empty."""

    name: str
    prefix: str

    def __str__(self) -> str:
        return f"s3://{self.name}/{self.prefix}".rstrip("/")


def parse_target(url: str) -> Path | Bucket:
    """The folder (perhaps relative) or bucket that `url` means. ConfigError where it means neither."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        if not url.strip() or "\0" in url:
            raise _wrong_url(url)
        return Path(url)
    host, _, path = rest.partition("/")
    if scheme == "file" and host in ("", "localhost") and path:
        return Path("/" + unquote(path))
    bucket, prefix = host, path
    steps = [step for step in prefix.split("/") if step]
    if scheme != "s3" or not bucket or "@" in bucket or any(step in (".", "..") for step in steps):
        raise _wrong_url(url)
    return Bucket(bucket, "/".join(steps))


def _wrong_url(url: str) -> ConfigError:
    # Whatever stands before an @ may be a password.
    shown = url.rpartition("@")[2][:80]
    return ConfigError(
        f"{shown!r} is no place for Parquet files",
        "give a folder such as lake/, file:///srv/lake or s3://bucket/prefix",
        path=("url",),
    )


def _check_endpoint(endpoint: str, *, allow_http: bool) -> None:
    try:
        parts = urlsplit(endpoint)
        known = parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc
    except ValueError:
        known = False
    if not known:
        raise ConfigError(
            "the endpoint is no address",
            "give https://host[:port]; keys go into access_key and secret_key",
            path=("endpoint",),
        )
    if endpoint.startswith("http:") and not allow_http:
        raise ConfigError(
            "the endpoint has no TLS: keys and events would go over the network in the open",
            "give an https:// endpoint, or set allow_http: true where the network is trusted",
            path=("endpoint",),
        )
