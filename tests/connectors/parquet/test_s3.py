"""The sink on a real S3 server, beyond the suite of all sinks: kill -9 between puts, missing buckets, large files."""

from __future__ import annotations

from pathlib import Path

import pytest

from milkrun.model.errors import Refused
from milkrun.storage.bucket import BucketStore
from milkrun.storage.target import Bucket
from tests.connectors.parquet import cuts
from tests.connectors.parquet.lake import BUCKET, deliver, make_s3, s3_options
from tests.connectors.parquet.test_kill import run_until_killed
from tests.servers.s3 import S3Server, s3_server

__all__ = ["s3_server"]

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("s3")]


@pytest.fixture
def server(s3_server: S3Server) -> S3Server:
    s3_server.create_bucket(BUCKET)
    return s3_server


@pytest.mark.parametrize("place", ["before_put:1", "after_put:3", "after_put:7"])
def test_a_cut_cut_short_is_finished(server: S3Server, tmp_path: Path, place: str) -> None:
    url = f"s3://{BUCKET}/kill/{place}"
    run_until_killed(f"parquet.{place}", str(tmp_path), url, str(server.port))
    sink = make_s3(server, tmp_path, url, **cuts.OPTIONS)
    deliver(sink, cuts.CUT)
    sink.open()
    held = sink.audit("shop.order")
    assert sorted(held.column("offset").to_pylist()) == list(range(70))


def test_the_real_store_keeps_conditions(server: S3Server) -> None:
    store = BucketStore(Bucket(BUCKET, "conditions"), s3_options(server))
    store.open()
    assert store.conditional
    assert store.create("x", b"one")
    assert not store.create("x", b"two")
    assert store.read("x") == b"one"
    store.replace("x", b"three")
    assert store.read("x") == b"three"
    assert store.read("y") is None


def test_an_object_larger_than_a_part_is_one_conditional_put(server: S3Server) -> None:
    store = BucketStore(Bucket(BUCKET, "large"), s3_options(server))
    store.open()
    large = bytes(range(256)) * (12 << 12)
    assert store.create("x", large)
    assert not store.create("x", large)
    assert store.read("x") == large


def test_names_keep_every_character_and_only_data_is_listed(server: S3Server) -> None:
    store = BucketStore(Bucket(BUCKET, "names/a b%20c"), s3_options(server))
    store.open()
    names = ["k=a%2Fb/x.parquet", "k=%2E%2E/x.parquet", "plain.parquet"]
    for name in (*names, "_skipped/x", "a/.hidden"):
        assert store.create(name, name.encode())
    assert sorted(store.names()) == sorted(names)
    assert [store.read(name) for name in names] == [name.encode() for name in names]
    with store.reader(names[0]) as file:
        file.seek(-7, 2)
        assert file.read() == b"parquet"
    with pytest.raises(FileNotFoundError):
        store.reader("missing")


def test_a_missing_bucket_is_named(server: S3Server, tmp_path: Path) -> None:
    with pytest.raises(
        Refused, match="s3://no-such-bucket: testing the store: there is no such bucket; create it"
    ):
        make_s3(server, tmp_path, "s3://no-such-bucket").open()
