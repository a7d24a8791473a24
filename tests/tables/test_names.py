"""Names of tables and columns, whatever the database."""

from __future__ import annotations

import hashlib

import pytest

from milkrun.model.errors import ConfigError, Refused
from milkrun.tables.names import check_template, column_names, quoted, shortened, table_name


def test_a_quote_within_a_name_is_doubled() -> None:
    assert quoted('a"; DROP TABLE x --') == '"a""; DROP TABLE x --"'


@pytest.mark.parametrize(
    ("template", "topic", "table"),
    [
        ("{topic}", "shop.order", "shop_order"),
        ("{topic}", "shop-order.v2", "shop_order_v2"),
        ("raw_{topic}", "click", "raw_click"),
        ("events", "click", "events"),
    ],
)
def test_the_table_of_a_topic(template: str, topic: str, table: str) -> None:
    assert table_name(template, topic) == table


def test_a_topic_can_not_take_a_table_of_milkrun() -> None:
    with pytest.raises(Refused, match="_milkrun_"):
        table_name("{topic}", "_Milkrun_positions")


@pytest.mark.parametrize("template", ["", "  ", "{Topic}", "{topic", "a{topic}{partition}", "a\0"])
def test_a_template_that_can_not_name_tables(template: str) -> None:
    with pytest.raises(ConfigError, match="can't name tables"):
        check_template(template)


@pytest.mark.parametrize(
    ("names", "columns"),
    [
        (["a", "b"], ["a", "b"]),
        (["Id", "id", "ID"], ["Id", "id_2", "ID_3"]),
        (["id_2", "Id", "id"], ["id_2", "Id", "id_3"]),
        (["Id", "id", "id_2"], ["Id", "id_2", "id_2_2"]),
        (["_topic", "_Offset", "_rest"], ["_topic_2", "_Offset_2", "_rest"]),
        (["", "a\0b"], ["_empty", "a␀b"]),
        (["Ärger", "ärger"], ["Ärger", "ärger_2"]),
    ],
)
def test_columns_never_collide(names: list[str], columns: list[str]) -> None:
    assert column_names(names, ("_topic", "_offset")) == columns


def test_a_new_name_at_the_end_changes_none_before() -> None:
    names = ["a", "A", "a_2", "_topic"]
    for count in range(len(names)):
        assert column_names(names[:count]) == column_names(names)[:count]


def test_a_name_that_is_too_long_ends_in_a_mark_of_all_of_it() -> None:
    name = "x" * 300
    mark = hashlib.sha256(name.encode()).hexdigest()[:8]
    assert shortened(name, 63) == "x" * 54 + "_" + mark
    assert shortened(name, None) == name
    assert shortened("x" * 63, 63) == "x" * 63
    assert shortened(name, 63) != shortened(name + "y", 63)


def test_a_long_name_is_cut_between_characters() -> None:
    short = shortened("ü" * 40, 63)
    assert len(short.encode()) <= 63
    assert short.startswith("ü" * 27 + "_")


def test_long_names_that_differ_in_case_alone_do_not_collide() -> None:
    names = column_names(["x" * 62, "X" * 62, "x" * 70, "X" * 70], longest=63)
    assert len({name.lower() for name in names}) == 4
    assert all(len(name) <= 63 for name in names)
    assert names[0] == "x" * 62


def test_the_table_of_a_long_topic() -> None:
    assert table_name("{topic}", "a." * 50, longest=63) == shortened("a_" * 50, 63)
