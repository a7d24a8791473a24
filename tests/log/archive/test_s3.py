"""The archive on a real S3 server: what a folder does, a bucket does too."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from milkrun.log.archive.tiered import TieredLog
from milkrun.log.archive.verifying import verify
from milkrun.log.embedded import EmbeddedLog
from milkrun.model.errors import Refused
from milkrun.model.spec import ArchiveRule, TopicSpec
from milkrun.testing.clock import ManualClock
from milkrun.testing.log_contract import NOW, order_erasure, values
from tests.log.archive.depot import HOUR, append, archive, files, spec
from tests.servers.s3 import ACCESS_KEY, REGION, SECRET_KEY, S3Server, s3_server

__all__ = ["s3_server"]

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("s3")]

BUCKET = "archive-tests"
OLD = NOW - int(2 * HOUR * 1000)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


def open_on_s3(server: S3Server, folder: Path, clock: ManualClock, prefix: str) -> TieredLog:
    server.create_bucket(BUCKET)
    options = {
        "region": REGION,
        "endpoint": server.endpoint,
        "access_key": ACCESS_KEY,
        "secret_key": SECRET_KEY,
        "allow_http": True,
    }
    place = spec(folder, {"*": ArchiveRule(HOUR, HOUR, 20_000)}, url=f"s3://{BUCKET}/{prefix}", s3=options)
    return TieredLog(EmbeddedLog(folder / "log.db", clock), place)


def test_events_go_to_a_bucket_and_come_back(
    s3_server: S3Server, tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("milkrun.log.archive.archiver.BATCH_BYTES", 50_000)
    monkeypatch.setattr("milkrun.log.archive.files.GROUP_ROWS", 300)
    log = open_on_s3(s3_server, tmp_path, clock, "back")
    log.create_topic(TopicSpec("shop"))
    written = [f"{number * 7919:x}".encode() * 8 for number in range(5_000)]
    for start in range(0, 5_000, 500):
        append(log, "shop", written[start : start + 500], [OLD] * 500)
    turn = archive(log, clock)
    assert turn.files > 1
    assert log.hot.bounds("shop", 0) == (5_000, 5_000)
    assert values(log, "shop") == written
    assert values(log, "shop", max_rows=77)[:1_000] == written[:1_000]
    assert log.offset_at("shop", 0, OLD) == 0
    checks = list(verify(log, list(log.manifest.all())))
    assert len(checks) == turn.files and all(each.ok for each in checks)
    log.close()


def test_orphans_are_removed_and_the_place_stays_one_logs(
    s3_server: S3Server, tmp_path: Path, clock: ManualClock
) -> None:
    log = open_on_s3(s3_server, tmp_path, clock, "orphans")
    log.create_topic(TopicSpec("shop"))
    append(log, "shop", [b"a"], [OLD])
    archive(log, clock)
    (file,) = files(log, "shop")
    orphan = file.name.replace(file.name[-20:-8], "0" * 12)
    assert log.site.store.create(orphan, b"torn")
    archive(log, clock)
    assert list(log.site.store.names()) == [file.name]
    other = open_on_s3(s3_server, tmp_path / "other", clock, "orphans")
    other.create_topic(TopicSpec("shop"))
    with pytest.raises(Refused, match="holds the archive of another log"):
        archive(other, clock)
    assert list(log.site.store.names()) == [file.name]
    for each in (log, other):
        each.close()


def test_erased_events_leave_the_bucket(s3_server: S3Server, tmp_path: Path, clock: ManualClock) -> None:
    log = open_on_s3(s3_server, tmp_path, clock, "erased")
    log.create_topic(TopicSpec("shop"))
    person = secrets.token_bytes(100)
    append(log, "shop", [b"a", person, b"c"], [OLD] * 3)
    archive(log, clock)
    (before,) = files(log, "shop")
    assert person in (log.site.store.read(before.name) or b"")
    ordered = order_erasure(log, "shop", [1], "x")
    assert log.erase("shop", 0, ordered.offsets, "x").tolist() == [1]
    turn = archive(log, clock)
    assert (turn.rewritten, turn.problems) == (1, [])
    (after,) = files(log, "shop")
    assert list(log.site.store.names()) == [after.name]
    assert person not in (log.site.store.read(after.name) or person)
    assert values(log, "shop") == [b"a", None, b"c"]
    assert all(each.ok for each in verify(log, list(log.manifest.all())))
    log.close()


def test_a_missing_object_is_named(s3_server: S3Server, tmp_path: Path, clock: ManualClock) -> None:
    log = open_on_s3(s3_server, tmp_path, clock, "missing")
    log.create_topic(TopicSpec("shop"))
    append(log, "shop", [b"a"], [OLD])
    archive(log, clock)
    (file,) = files(log, "shop")
    log.site.store.delete(file.name)
    with pytest.raises(Refused, match="is not there; restore it"):
        log.read("shop", 0, 0)
    log.close()


def test_a_bucket_that_is_not_there_is_named_and_nothing_is_trimmed(
    s3_server: S3Server, tmp_path: Path, clock: ManualClock
) -> None:
    log = open_on_s3(s3_server, tmp_path, clock, "gone")
    log.create_topic(TopicSpec("shop"))
    append(log, "shop", [b"a"], [OLD])
    missing = TieredLog(log.hot, spec(tmp_path, url="s3://no-such-bucket/x", s3={**(log.spec.s3 or {})}))
    with pytest.raises(Refused, match="there is no such bucket"):
        archive(missing, clock)
    assert values(log, "shop") == [b"a"]
    assert log.hot.bounds("shop", 0) == (0, 1)
    log.close()
