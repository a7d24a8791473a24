"""The sink's configuration: what is accepted, and what is said of the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from milkrun.connectors.parquet.config import ParquetConfig
from milkrun.model.errors import ConfigError, ConfigErrors
from milkrun.plugin.config import parse
from milkrun.storage.target import Bucket, parse_target


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("lake/", Path("lake")),
        ("/srv/lake", Path("/srv/lake")),
        ("file:///srv/a%20lake", Path("/srv/a lake")),
        ("s3://bucket", Bucket("bucket", "")),
        ("s3://bucket/a/b//", Bucket("bucket", "a/b")),
        ("s3://bucket/with?mark#and hash", Bucket("bucket", "with?mark#and hash")),
    ],
)
def test_urls(url: str, target: Path | Bucket) -> None:
    assert parse_target(url) == target


@pytest.mark.parametrize(
    "url",
    ["", " ", "gs://bucket/x", "s3://", "s3:///x", "s3://bucket/../x", "file://host/x", "file:///", "a\0b"],
)
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(ConfigError, match="is no place for Parquet files"):
        parse_target(url)


def test_a_password_in_a_url_is_not_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_target("s3://key:hunter2@bucket/x")
    assert "hunter2" not in str(caught.value)


def test_defaults() -> None:
    config = parse(ParquetConfig, {"url": "lake/"})
    assert (config.partition_by, config.compression_level, config.s3) == (["topic", "hour"], 1, None)


def test_s3_options_are_read_and_secrets_stay_hidden() -> None:
    config = parse(
        ParquetConfig,
        {"url": "s3://b/p", "s3": {"region": "eu-central-1", "access_key": "key", "secret_key": "hunter2"}},
    )
    assert config.s3 is not None and config.s3.secret_key is not None
    assert config.s3.secret_key.reveal() == "hunter2"
    assert "hunter2" not in repr(config)


@pytest.mark.parametrize(
    ("raw", "at", "said"),
    [
        ({"url": "gs://b"}, "url", "is no place for Parquet files"),
        ({"url": "lake", "s3": {}}, "s3", "s3 is set, but url is a folder"),
        (
            {"url": "s3://b", "s3": {"access_key": "k"}},
            "s3",
            "one of access_key and secret_key is missing",
        ),
        ({"url": "s3://b", "s3": {"endpoint": "http://h:1"}}, "s3.endpoint", "has no TLS"),
        ({"url": "s3://b", "s3": {"endpoint": "h:1"}}, "s3.endpoint", "the endpoint is no address"),
        ({"url": "s3://b", "s3": {"endpoint": "https://[::1"}}, "s3.endpoint", "the endpoint is no address"),
        ({"url": "s3://b", "s3": {"endpoint": "https://k:p@h"}}, "s3.endpoint", "the endpoint is no address"),
        ({"url": "lake", "compression_level": 23}, "compression_level", "23 is out of range"),
        ({"url": "lake", "partition_by": ["colour"]}, "partition_by.0", "'colour' is no path to a field"),
        ({"url": "lake", "time_column": "placed_at"}, "time_column", "'placed_at' is no path to a field"),
    ],
)
def test_mistakes_are_told_with_their_place(raw: dict[str, Any], at: str, said: str) -> None:
    with pytest.raises(ConfigErrors) as caught:
        parse(ParquetConfig, raw, path=("sinks", "lake"))
    (error,) = caught.value.errors
    assert ".".join(map(str, error.path)) == f"sinks.lake.{at}"
    assert said in error.what
