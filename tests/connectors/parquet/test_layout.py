"""Folders and file names: safe whatever the value, the same for the same cut, and readable back."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milkrun.connectors.parquet import layout
from milkrun.connectors.parquet.layout import FileName, parse_file_name, parse_layout
from milkrun.model.batch import TopicPartition
from milkrun.model.errors import ConfigError, Refused

ORDER = TopicPartition("shop.order", 3)


def test_a_name_tells_topic_partition_offsets_and_incarnation() -> None:
    name = layout.file_name(ORDER, 12, 340, "first", 1)
    # The first digits of SHA-256 of "first", by sha256sum.
    assert name == "shop.order-00003-00000000000000000012-00000000000000000340-a7937b64.parquet"
    assert parse_file_name(f"topic=shop.order/{name}") == FileName("shop.order", 3, 12, 340, "a7937b64", 1)


def test_a_later_generation_stands_in_the_name() -> None:
    name = layout.file_name(ORDER, 0, 1, "first", 2)
    assert name.endswith("-a7937b64-g2.parquet")
    parsed = parse_file_name(name)
    assert parsed is not None and parsed.generation == 2


@pytest.mark.parametrize("topic", ["a-00001-b", "t" * 249, "_dead.shop", "x-g2", "A.b_c-d"])
def test_any_topic_comes_back_from_its_name(topic: str) -> None:
    name = layout.file_name(TopicPartition(topic, 123456), 0, 2**63 - 1, "i", 1)
    parsed = parse_file_name(name)
    assert parsed is not None
    assert (parsed.topic, parsed.partition, parsed.end) == (layout.stem(topic), 123456, 2**63 - 1)
    assert len(name) <= 255
    assert not name.startswith(("_", "."))


def test_long_topics_that_begin_alike_have_names_of_their_own() -> None:
    assert layout.stem("t" * 200 + "a") != layout.stem("t" * 200 + "b")


@pytest.mark.parametrize(
    "name",
    [
        "data.parquet",
        "shop.order-0-1-2-a7937b64.parquet",
        "shop.order-00003-00000000000000000012-00000000000000000340-a7937b64.parquet.tmp",
        "shop.order-00003-00000000000000000012-00000000000000000340-A7937B64.parquet",
    ],
)
def test_names_of_others_are_left_alone(name: str) -> None:
    assert parse_file_name(name) is None


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("NL", "NL"),
        ("a/b", "a%2Fb"),
        ("..", "%2E%2E"),
        (".", "%2E"),
        ("a=b", "a%3Db"),
        ("100%", "100%25"),
        ("ü 🥛", "%C3%BC%20%F0%9F%A5%9B"),
        ("a\\b\n", "a%5Cb%0A"),
        ("_x", "%5Fx"),
        ("", "__HIVE_DEFAULT_PARTITION__"),
        (None, "__HIVE_DEFAULT_PARTITION__"),
        ("__HIVE_DEFAULT_PARTITION__", "%5F_HIVE_DEFAULT_PARTITION__"),
    ],
)
def test_values_as_folders(value: str | None, name: str) -> None:
    assert layout.label(value) == name


@given(st.text(min_size=1))
def test_no_value_leaves_its_folder_and_short_ones_come_back(value: str) -> None:
    name = layout.label(value)
    assert len(name) <= layout.LABEL_BYTES
    assert name.isascii() and name.isprintable()
    assert not set(name) & set("/\\=?#*[]'\" ") and name not in (".", "..")
    if "~" not in name:
        assert unquote(name) == value


@given(st.text(min_size=60), st.text(min_size=60))
def test_long_values_stay_apart(one: str, two: str) -> None:
    assert (layout.label(one) == layout.label(two)) == (one == two)


def test_a_long_value_is_cut_between_characters() -> None:
    name = layout.label("🥛" * 100)
    head, _, digest = name.rpartition("~")
    assert len(digest) == 16
    assert unquote(head, errors="replace").rstrip("�") == "🥛" * (len(head) // 12)
    assert len(head) % 3 == 0


def test_hour_brings_its_date() -> None:
    assert [level.key for level in parse_layout(["topic", "hour"])] == ["topic", "date", "hour"]
    assert [level.key for level in parse_layout(["date", "topic", "hour"])] == ["date", "topic", "hour"]
    assert parse_layout([]) == ()


def test_a_field_gets_a_key_of_its_own() -> None:
    plain, named = parse_layout(["body.address.city", "country=body.country"])
    assert (plain.key, plain.steps) == ("by_address_city", ("address", "city"))
    assert (named.key, named.steps) == ("country", ("country",))
    assert parse_layout([str(plain), str(named)]) == (plain, named)


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (
            ["type"],
            "'type' is no path to a field; write body.<field>, or in partition_by also topic, date or hour",
        ),
        (["body."], "'body.' is no path to a field"),
        (["topic", "topic"], "the folder key 'topic' comes twice"),
        (["hour", "date"], "the folder key 'date' comes twice"),
        (["Topic=body.a", "topic"], "the folder key 'topic' comes twice"),
        (["a/b=body.x"], "'a/b' can't be a folder's key"),
        (["_x=body.x"], "'_x' can't be a folder's key"),
        (["=body.x"], "'' can't be a folder's key"),
    ],
)
def test_entries_that_mean_nothing(entries: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_layout(entries)
    assert said in str(caught.value)
    assert caught.value.path == ("partition_by", len(entries) - 1)


def test_a_name_longer_than_s3_takes_is_refused() -> None:
    layout.check_length("n" * 1000, "p" * 23)
    with pytest.raises(Refused, match="would be 1025 bytes long"):
        layout.check_length("n" * 1000, "p" * 24)
