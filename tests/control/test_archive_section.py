"""The `archive:` of milkrun.yaml: what it means, and each mistake at its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from milkrun.control.archive_section import S3_PRICE
from milkrun.control.literals import literal_secrets
from milkrun.control.loading import load_machine, load_project, load_version
from milkrun.model.errors import ConfigErrors
from milkrun.model.spec import ArchiveRule, ArchiveSpec
from tests.control.conftest import Write

HOUR, DAY = 3600.0, 86_400.0
WEEK = ArchiveRule(7 * DAY, 7 * DAY, 128 << 20)


def archive(write: Write, text: str, environment: dict[str, str] | None = None) -> ArchiveSpec:
    folder = write({"milkrun.yaml": f"name: shop\narchive: {text}\n"})
    found = load_project(folder, environment or {}).archive
    assert found is not None
    return found


def mistakes(folder: Path) -> list[str]:
    with pytest.raises(ConfigErrors) as raised:
        load_project(folder, {})
    return [str(error) for error in raised.value.errors]


def test_a_place_is_enough(write: Write, tmp_path: Path) -> None:
    found = archive(write, "{url: old}")
    assert found == ArchiveSpec("old", tmp_path / "shop", {"*": WEEK})
    assert load_project(write({"milkrun.yaml": "name: shop\n"})).archive is None


def test_everything_that_can_be_said(write: Write) -> None:
    found = archive(
        write,
        "{url: s3://company/shop, after: 12h, keep_hot: 3d, file_size: 256MB, price: 0.004, "
        "topics: {'*': {}, 'shop.*': {after: 1h}, shop.order: {keep_hot: 30d, file_size: 64MB}, debug: off}, "
        "s3: {region: eu-central-1, access_key: '${KEY}', secret_key: '${SECRET}'}}",
        {"KEY": "me", "SECRET": "hunter2"},
    )
    assert (found.url, found.price) == ("s3://company/shop", 0.004)
    assert found.rules == {
        "*": ArchiveRule(12 * HOUR, 3 * DAY, 256 << 20),
        "shop.*": ArchiveRule(HOUR, HOUR, 256 << 20),
        "shop.order": ArchiveRule(12 * HOUR, 30 * DAY, 64 << 20),
        "debug": None,
    }
    assert found.s3 == {"region": "eu-central-1", "access_key": "me", "secret_key": "hunter2"}
    assert "hunter2" not in repr(found)


def test_which_rule_holds(write: Write) -> None:
    found = archive(write, "{url: old, topics: {'*': {}, 'a.*': {after: 1h}, a.b: {after: 2h}, 'a.c*': off}}")

    def hours(topic: str, *, own: bool = True) -> float | None:
        rule = found.rule(topic, own=own)
        return None if rule is None else rule.after_seconds / HOUR

    assert [hours(topic) for topic in ("a.b", "a.x", "a.c", "b")] == [2, 1, 1, 168]
    # `*` is of the project's own topics, a pattern of any.
    assert [hours(topic, own=False) for topic in ("a.b", "b")] == [2, None]


def test_a_list_of_topics_is_all_of_them(write: Write) -> None:
    found = archive(write, "{url: old, topics: [billing, 'shop.*']}")
    assert found.rules == {"billing": WEEK, "shop.*": WEEK}
    assert found.rule("other", own=True) is None


def test_prices(write: Write) -> None:
    assert archive(write, "{url: s3://company}").price == S3_PRICE
    assert archive(write, "{url: /srv/old}").price == 0.0
    assert archive(write, "{url: /srv/old, price: 1}").price == 1.0


@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        (
            "{after: 1d}",
            "2:1",
            "archive: option 'url' is missing; write url: s3://bucket/prefix, or a folder",
        ),
        ("folder", "2:1", "archive: 'folder' where a mapping belongs"),
        ("{url: 'ftp://x/y'}", "2:11", "archive.url: 'ftp://x/y' is no place for Parquet files"),
        ("{url: 7}", "2:11", "archive.url: 7 is not text"),
        ("{url: a, after: soon}", "2:19", "archive.after: 'soon' is not a duration; write for example"),
        ("{url: a, after: 0s}", "2:19", "archive.after: events can't be archived before they are there"),
        ("{url: a, keep_hot: 1d}", "2:19", "archive.keep_hot: the log can't give events up after 1d"),
        (
            "{url: a, file_size: 64KB}",
            "2:19",
            "archive.file_size: 64KB is out of range; give a value from 1MB up to 4GB",
        ),
        ("{url: a, price: -1}", "2:19", "archive.price: -1 is out of range"),
        ("{url: a, topic: x}", "2:19", "archive.topic: unknown option 'topic'; perhaps 'topics' is meant"),
        ("{url: a, topics: [1]}", "2:28", "archive.topics.0: '1' names no topics"),
        ("{url: a, topics: all}", "2:19", "archive.topics: 'all' where a mapping belongs"),
        ("{url: a, topics: {b: on}}", "2:28", "archive.topics.b: 'on' where a mapping belongs"),
        (
            "{url: a, topics: {b: {after: 9d, keep_hot: 1d}}}",
            "2:43",
            "archive.topics.b.keep_hot: the log can't give",
        ),
        ("{url: a, s3: {region: x}}", "2:19", "archive.s3: s3 is set, but url is a folder"),
        ("{url: 's3://b', s3: {regio: x}}", "2:31", "archive.s3.regio: unknown option 'regio'"),
        (
            "{url: 's3://b', s3: {access_key: x}}",
            "2:26",
            "archive.s3: one of access_key and secret_key is missing",
        ),
        (
            "{url: 's3://b', s3: {endpoint: 'http://x'}}",
            "2:31",
            "archive.s3.endpoint: the endpoint has no TLS",
        ),
    ],
)
def test_mistakes(write: Write, text: str, place: str, said: str) -> None:
    found = mistakes(write({"milkrun.yaml": f"name: shop\narchive: {text}\n"}))
    assert len(found) == 1
    assert found[0].startswith(f"milkrun.yaml:{place}: {said}"), found[0]


def test_a_secret_of_the_bucket_never_goes_into_a_cluster() -> None:
    text = "archive: {url: 's3://b', s3: {access_key: '${KEY}', secret_key: hunter2}}\n"
    (error,) = literal_secrets({"milkrun.yaml": text})
    assert error.path == ("archive", "s3", "secret_key")
    assert "hunter2" not in str(error)


def test_a_version_from_elsewhere_has_this_machines_archive(write: Write, tmp_path: Path) -> None:
    here = load_machine(write({"milkrun.yaml": "name: shop\narchive: {url: here}\n"}), {}).spec
    elsewhere = tmp_path / "version"
    elsewhere.mkdir()
    (elsewhere / "milkrun.yaml").write_text("name: shop\narchive: {url: '${UNSET}'}\n")
    loaded = load_version(elsewhere, here, {})
    assert loaded.spec.archive == here.archive
