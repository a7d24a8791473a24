"""YAML files: values as YAML 1.2 has them, and every mistake at its place."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from milkrun.control.documents import MAX_BYTES, MAX_DEPTH, parse_document, read_document
from milkrun.model.errors import ConfigError, ConfigErrors


def mistakes(text: str) -> list[str]:
    with pytest.raises(ConfigErrors) as raised:
        parse_document(text, "f.yaml")
    return [str(error) for error in raised.value.errors]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("off", "off"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("012", 12),
        ("0x1F", 31),
        ("0o17", 15),
        ("-7", -7),
        ("1_000", "1_000"),
        ("1.5e3", 1500.0),
        ("-.inf", -math.inf),
        ("2026-11-24", "2026-11-24"),
        ("12:30", "12:30"),
        ("'5'", "5"),
        ('"true"', "true"),
        ("[1, a, {b: c}]", [1, "a", {"b": "c"}]),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    assert parse_document(f"a: {text}\n", "f.yaml").value == {"a": value}


def test_not_a_number() -> None:
    assert math.isnan(parse_document("a: .nan\n", "f.yaml").value["a"])


def test_an_empty_file_is_an_empty_mapping() -> None:
    assert parse_document("# nothing yet\n", "f.yaml").value == {}


def test_places_are_those_of_keys_and_items() -> None:
    document = parse_document("a:\n  b: 1\n  c:\n  - x\n  - d: 2\n", "f.yaml")
    assert str(document.locate(("a", "b"))) == "f.yaml:2:3"
    assert str(document.locate(("a", "c", 1, "d"))) == "f.yaml:5:5"
    assert str(document.locate(("a", "c", 7))) == "f.yaml:3:3"


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("a:\n\tb: 1\n", "f.yaml:2:1", "indent with spaces"),
        ("a: 1\n b: 2\n", "f.yaml:2:3", "check the indentation"),
        ("a: [1,\nb: 2\n", "f.yaml:", "no YAML"),
        ('a: "text\n', "f.yaml:2:1", "quote"),
        ("a: @b\n", "f.yaml:1:4", "between quotes"),
        ("a: 1\nb: 2\na: 3\n", "f.yaml:3:1", "the key 'a' a second time; keep one: the first is in line 1"),
        ("a: &x 1\n", "f.yaml:1:4", "an anchor (&x)"),
        ("a: 1\nb: *x\n", "f.yaml:2:4", "an alias (*x)"),
        ("a: !!python/object:os.system x\n", "f.yaml:1:4", "a tag"),
        ("? [a]\n: b\n", "f.yaml:1:3", "a key that isn't plain text"),
        ("a: 1\n---\nb: 2\n", "f.yaml:2:1", "a second YAML document"),
        ("a: \x01\n", "f.yaml:1:4", "control character"),
    ],
)
def test_mistakes_name_their_place(text: str, place: str, words: str) -> None:
    (only,) = mistakes(text)
    assert only.startswith(place)
    assert words in only


def test_all_duplicates_and_aliases_are_named() -> None:
    assert [text.split(": ")[0] for text in mistakes("a: &x 1\nb: *x\na: 2\n")] == [
        "f.yaml:1:4",
        "f.yaml:2:4",
        "f.yaml:3:1",
    ]


def test_an_alias_bomb_is_refused_without_unfolding() -> None:
    bomb = "a: &a [x]\n" + "".join(f"b{i}: &b{i} [*a, *a, *a, *a]\n" for i in range(500))
    assert len(mistakes(bomb)) == 100


def test_depth_is_bounded() -> None:
    deep = "[" * (MAX_DEPTH + 5) + "]" * (MAX_DEPTH + 5)
    (only,) = mistakes(f"a: {deep}\n")
    assert f"deeper than {MAX_DEPTH}" in only


def test_size_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "big.yaml"
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(ConfigError, match="larger than"):
        read_document(path, "big.yaml")


def test_bytes_that_are_no_utf8_are_placed(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"a: 1\nb: caf\xe9\n")
    with pytest.raises(ConfigError) as raised:
        read_document(path, "latin.yaml")
    assert str(raised.value.location) == "latin.yaml:2:7"


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "bom.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_document(path, "bom.yaml").value == {"a": 1}
