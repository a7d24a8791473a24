"""Given ids: unlike each other, of one length, ascending, and the same in the answer as in the column."""

from __future__ import annotations

import json

from milkrun.connectors.http.ids import Ids


def test_ids_ascend_and_have_one_length() -> None:
    ids = Ids(first=0xFE)
    texts = ids.give(3).column.to_pylist() + ids.give(1).column.to_pylist()
    prefix = texts[0].partition(".")[0]
    assert len(prefix) == 20 and int(prefix, 16) >= 0
    assert texts == [f"{prefix}.{number}" for number in ("000000fe", "000000ff", "00000100", "00000101")]


def test_the_json_names_the_same_ids() -> None:
    given = Ids().give(5)
    texts = given.column.to_pylist()
    assert json.loads(given.json(0, 5)) == texts
    assert json.loads(given.json(1, 3)) == texts[1:4]
    assert json.loads(given.json(4, 1)) == texts[4:]


def test_after_the_last_number_another_prefix_begins() -> None:
    ids = Ids(first=(1 << 32) - 2)
    last = ids.give(2).column.to_pylist()
    assert last[1].endswith(".ffffffff")
    following = ids.give(2).column.to_pylist()
    assert [text.partition(".")[2] for text in following] == ["00000000", "00000001"]
    assert following[0][:20] != last[0][:20]


def test_two_collectors_give_different_ids() -> None:
    assert Ids().give(1).column != Ids().give(1).column
