"""The exact statements, in their order: what the stand-in for Snowflake understands less well, or not at all, than Snowflake."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from snowflake.connector.errors import DatabaseError, OperationalError, ProgrammingError

from milkrun.model.errors import Fenced, Refused, Reopen, Transient
from milkrun.testing.cuts import ORDER, Event, cut, orders
from tests.connectors.snowflake.scripted import UPLOADED, Connection, opened

TABLE = '"RAW"."SHOP"."SHOP_ORDER"'
POSITIONS = '"RAW"."SHOP"."_MILKRUN_POSITIONS"'
FOLDER = "@_MILKRUN_STAGE/shop/target/shop.order/0"
COLUMNS = {
    "_TOPIC": "VARCHAR",
    "_PARTITION": "NUMBER(38,0)",
    "_OFFSET": "NUMBER(38,0)",
    "_ID": "VARCHAR",
    "_KEY": "VARCHAR",
    "_TIMESTAMP": "TIMESTAMP_TZ",
    "_RECEIVED_AT": "TIMESTAMP_TZ",
    "SKU": "VARCHAR",
    "COUNT": "NUMBER(38,0)",
    "_INCARNATION": "VARCHAR",
}
"""What the cuts of these tests need, in order."""

SOURCES = (
    "$1:C1::VARCHAR, $1:C2::NUMBER(38,0), $1:C3::NUMBER(38,0), $1:C4::VARCHAR, $1:C5::VARCHAR, "
    "$1:C6::VARCHAR::TIMESTAMP_TZ, $1:C7::VARCHAR::TIMESTAMP_TZ, $1:C8::VARCHAR, $1:C9::NUMBER(38,0), $1:C10::VARCHAR"
)
OPTIONS = "FILE_FORMAT = (TYPE = PARQUET BINARY_AS_TEXT = FALSE) ON_ERROR = ABORT_STATEMENT FORCE = TRUE"
PUT_OPTIONS = "AUTO_COMPRESS = FALSE SOURCE_COMPRESSION = NONE OVERWRITE = TRUE"
DESCRIBED = [
    (name, {"VARCHAR": "VARCHAR(16777216)"}.get(kind, kind + "(9)" * kind.endswith("TZ")))
    for name, kind in COLUMNS.items()
]
SHOWN = [("2026-11-24", "SHOP_ORDER", "TABLE", "RAW", "SHOP")]
CLAIM = ("shop", "target", "shop.order", 0, "first", 1, 2, "SHOP_ORDER", 1)


def quoted(names: Any) -> str:
    return ", ".join(f'"{name}"' for name in names)


def answers(**more: Any) -> dict[str, Any]:
    """A table that is there, filled up to offset 2, and loads that succeed."""
    return {
        **more,
        "SHOW TERSE OBJECTS": SHOWN,
        "DESCRIBE TABLE": DESCRIBED,
        'SELECT "PIPELINE"': [CLAIM],
        "PUT": UPLOADED,
        "COPY": [("f", "LOADED", 2, 2)],
        "UPDATE": [(1, 0)],
        "SELECT COALESCE": [(7,)],
    }


def test_opening_uses_role_warehouse_and_schema_and_makes_what_milkrun_needs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    connection = Connection()
    opened(monkeypatch, connection, tmp_path, role="loader", schema='"shop"')
    columns = connection.texts[4].partition(" (")[2]
    assert connection.texts == [
        'USE ROLE "LOADER"',
        'USE WAREHOUSE "LOADING"',
        'USE DATABASE "RAW"',
        'USE SCHEMA "RAW"."shop"',
        f'CREATE TABLE IF NOT EXISTS "RAW"."shop"."_MILKRUN_POSITIONS" ({columns}',
        f'CREATE TABLE IF NOT EXISTS "RAW"."shop"."_MILKRUN_REPAIRS" ({columns}',
        'CREATE TABLE IF NOT EXISTS "RAW"."shop"."_MILKRUN_LOCK" AS SELECT 0 AS "TAKEN"',
        'CREATE TABLE IF NOT EXISTS "RAW"."shop"."_MILKRUN_GENERATIONS" ("PIPELINE" VARCHAR NOT NULL, "SINK" VARCHAR NOT NULL, '
        '"GENERATION" NUMBER(19,0) NOT NULL, "SWITCHES" NUMBER(19,0) NOT NULL, "LEAVING" NUMBER(19,0))',
        "CREATE STAGE IF NOT EXISTS _MILKRUN_STAGE",
    ]
    assert '"NEXT_OFFSET" NUMBER(19,0) NOT NULL' in columns
    session = connection.arguments["session_parameters"]
    assert session["QUERY_TAG"] == "milkrun shop/target"
    assert (session["TIMEZONE"], session["BINARY_INPUT_FORMAT"]) == ("UTC", "HEX")


def test_a_schema_is_created_where_it_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    missing = ProgrammingError(msg="does not exist", errno=2043, sqlstate="02000")
    connection = Connection({"USE SCHEMA": [missing, []]})
    opened(monkeypatch, connection, tmp_path)
    assert connection.texts[2:5] == [
        'USE SCHEMA "RAW"."SHOP"',
        'CREATE SCHEMA IF NOT EXISTS "RAW"."SHOP"',
        'USE SCHEMA "RAW"."SHOP"',
    ]


def test_an_appended_cut_is_staged_loaded_and_counted_in_one_transaction(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    connection = Connection(answers())
    sink = opened(monkeypatch, connection, tmp_path)
    connection.statements.clear()
    sink.write(sink.plan(cut(orders(2, 5), ORDER, end=9)))
    file = "1-first-2-9-rows.parquet"
    names = 'SELECT "GENERATION", "SWITCHES", "LEAVING" FROM "RAW"."SHOP"."_MILKRUN_GENERATIONS" WHERE "PIPELINE" = ? AND "SINK" = ?'
    assert connection.texts[0] == names
    assert connection.texts[1].startswith('SELECT "PIPELINE"')
    assert connection.texts[2:4] == [
        'SHOW TERSE OBJECTS LIKE \'SHOP_ORDER\' IN SCHEMA "RAW"."SHOP"',
        f"DESCRIBE TABLE {TABLE}",
    ]
    assert connection.statements[4][1] == ("SHOP_ORDER",)
    assert connection.texts[5:8] == [
        f"PUT file://{file} {FOLDER} {PUT_OPTIONS}",
        "BEGIN TRANSACTION",
        f"COPY INTO {TABLE} ({quoted(COLUMNS)}) FROM (SELECT {SOURCES} FROM {FOLDER}/{file}) {OPTIONS}",
    ]
    moved, parameters = connection.statements[8]
    where = '"PIPELINE" = ? AND "SINK" = ? AND "TOPIC" = ? AND "PARTITION" = ?'
    assert moved == (
        f'UPDATE {POSITIONS} SET "NEXT_OFFSET" = ?, "TABLE_NAME" = ?, "WRITTEN_AT" = TO_TIMESTAMP_TZ(?, 3) WHERE {where} '
        f'AND "INCARNATION" = ? AND "GENERATION" = ? AND "NEXT_OFFSET" = ? AND "SINCE" = (SELECT MAX("SINCE") FROM {POSITIONS} '
        f'WHERE {where} AND "GENERATION" = ?)'
    )
    owner = ("shop", "target", "shop.order", 0)
    now = sink.context.clock.now()
    assert parameters == (9, "SHOP_ORDER", now, *owner, "first", 1, 2, *owner, 1)
    # A switch since the beginning undoes the cut.
    assert connection.texts[9:] == [names, "COMMIT", f"REMOVE {FOLDER}/"]


def test_the_first_cut_adds_its_position_while_it_holds_the_lock(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    connection = Connection({**answers(), 'SELECT "PIPELINE"': []})
    sink = opened(monkeypatch, connection, tmp_path)
    connection.statements.clear()
    sink.write(sink.plan(cut(orders(0, 1), ORDER)))
    begin = connection.texts.index("BEGIN TRANSACTION")
    texts = connection.texts[begin:]
    assert texts[1].startswith("COPY INTO")
    assert texts[2] == 'UPDATE "RAW"."SHOP"."_MILKRUN_LOCK" SET "TAKEN" = "TAKEN" + 1'
    assert [text.split()[0] for text in texts[3:]] == [
        "SELECT",
        "SELECT",
        "SELECT",
        "SELECT",
        "INSERT",
        "SELECT",
        "COMMIT",
        "REMOVE",
    ]
    inserted = connection.statements[begin + 7]
    assert inserted[0] == f"INSERT INTO {POSITIONS} SELECT {'?, ' * 9}TO_TIMESTAMP_TZ(?, 3)"
    assert inserted[1][:9] == ("shop", "target", "shop.order", 0, "first", 1, 2, "SHOP_ORDER", 8)


def test_an_upsert_deletes_the_topics_rows_of_its_keys_before_it_loads(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    described = [*DESCRIBED, ("_KEY_BYTES", "BINARY(8388608)")]
    copied = [[("f", "LOADED", 2, 2)], [("f", "LOADED", 1, 1)]]
    connection = Connection({**answers(), "DESCRIBE TABLE": described, "COPY": copied})
    sink = opened(monkeypatch, connection, tmp_path, mode="upsert")
    connection.statements.clear()
    sink.write(sink.plan(cut([Event(2, {"count": 1}, b"a"), Event(3, None, b"\xff")], ORDER)))
    texts = connection.texts[
        connection.texts.index(
            'CREATE OR REPLACE TEMPORARY TABLE "_MILKRUN_REPLACED" ("_KEY" VARCHAR, "_KEY_BYTES" BINARY)'
        ) :
    ]
    rows, keys = (f"{FOLDER}/1-first-2-4-{part}.parquet" for part in ("rows", "keys"))
    deletion = (
        f'DELETE FROM {TABLE} WHERE "_TOPIC" = ? AND "{{0}}" IN (SELECT "{{0}}" FROM "_MILKRUN_REPLACED")'
    )
    assert texts[1:5] == [
        "BEGIN TRANSACTION",
        'COPY INTO "_MILKRUN_REPLACED" ("_KEY", "_KEY_BYTES") FROM (SELECT $1:C1::VARCHAR, $1:C2::VARCHAR::BINARY '
        f"FROM {keys}) {OPTIONS}",
        deletion.format("_KEY"),
        deletion.format("_KEY_BYTES"),
    ]
    assert f"FROM {rows})" in texts[5]
    assert [text.split()[0] for text in texts[6:]] == ["UPDATE", "SELECT", "COMMIT", "REMOVE"]
    staged = pq.read_table(io.BytesIO(connection.uploads[1]))
    assert staged.to_pydict() == {"C1": ["a", None], "C2": [None, "FF"]}


def test_tables_and_columns_come_before_the_transaction(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    described = [DESCRIBED[:-2], DESCRIBED]
    connection = Connection({**answers(), "DESCRIBE TABLE": described})
    sink = opened(monkeypatch, connection, tmp_path)
    connection.statements.clear()
    sink.write(sink.plan(cut(orders(2, 3), ORDER)))
    added = [text for text in connection.texts if text.startswith("ALTER")]
    assert added == [
        f'ALTER TABLE {TABLE} ADD COLUMN IF NOT EXISTS "COUNT" NUMBER(38,0)',
        f'ALTER TABLE {TABLE} ADD COLUMN IF NOT EXISTS "_INCARNATION" VARCHAR',
    ]
    assert connection.texts.index(added[-1]) < connection.texts.index("BEGIN TRANSACTION")
    begun = Connection({**answers(), "SHOW TERSE OBJECTS": [[], SHOWN], 'SELECT "PIPELINE"': []})
    sink = opened(monkeypatch, begun, tmp_path)
    sink.write(sink.plan(cut(orders(0, 1), ORDER)))
    definitions = ", ".join(f'"{name}" {kind}' for name, kind in COLUMNS.items())
    assert f"CREATE TABLE IF NOT EXISTS {TABLE} ({definitions})" in begun.texts


def test_a_small_number_is_widened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small = [(name, "NUMBER(5,0)" if name == "COUNT" else kind) for name, kind in DESCRIBED]
    connection = Connection({**answers(), "DESCRIBE TABLE": [small, DESCRIBED]})
    sink = opened(monkeypatch, connection, tmp_path)
    sink.write(sink.plan(cut(orders(2, 3), ORDER)))
    assert f'ALTER TABLE {TABLE} ALTER COLUMN "COUNT" SET DATA TYPE NUMBER(38,0)' in connection.texts


def test_nested_values_are_parsed_into_variants(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    described = [*DESCRIBED, ("S", "VARIANT")]
    connection = Connection({**answers(), "DESCRIBE TABLE": described, "COPY": [("f", "LOADED", 1, 1)]})
    sink = opened(monkeypatch, connection, tmp_path)
    schema = pa.schema([("s", pa.struct([("x", pa.list_(pa.int64()))]))])
    sink.write(sink.plan(cut([Event(2, {"s": {"x": [1, None]}})], schema)))
    copy = next(text for text in connection.texts if text.startswith("COPY"))
    assert "PARSE_JSON($1:C8::VARCHAR)" in copy
    assert pq.read_table(io.BytesIO(connection.uploads[0]))["C8"].to_pylist() == ['{"x":[1,null]}']


def test_staged_files_hold_plain_types_in_zstd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    connection = Connection(answers())
    sink = opened(monkeypatch, connection, tmp_path)
    sink.write(sink.plan(cut(orders(2, 3), ORDER)))
    file = pq.ParquetFile(io.BytesIO(connection.uploads[0]))
    group = file.metadata.row_group(0)
    assert {group.column(index).compression for index in range(group.num_columns)} == {"ZSTD"}
    assert set(file.schema_arrow.types) <= {pa.string(), pa.int64()}
    assert file.read()["C6"].to_pylist() == ["2026-11-24T12:00:02.000+00:00", "2026-11-24T12:00:03.000+00:00"]


# -- what goes wrong


@pytest.mark.parametrize(
    "outcome",
    [[("Copy executed with 0 files processed.",)], [("f", "LOADED", 2, 1)], [("f", "LOAD_SKIPPED", 0, 0)]],
    ids=["no file", "fewer rows", "skipped"],
)
def test_a_file_that_was_not_loaded_whole_is_rolled_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, outcome: list[tuple[Any, ...]]
) -> None:
    connection = Connection({**answers(), "COPY": outcome})
    sink = opened(monkeypatch, connection, tmp_path)
    with pytest.raises(Reopen, match="not loaded whole"):
        sink.write(sink.plan(cut(orders(2, 3), ORDER)))
    assert connection.texts[-1] == "ROLLBACK"


def test_a_file_that_did_not_come_to_the_stage_is_not_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    failed = [("f", "f", 1, 1, "NONE", "NONE", "ERROR", "no space")]
    connection = Connection({**answers(), "PUT": failed})
    sink = opened(monkeypatch, connection, tmp_path)
    with pytest.raises(Reopen, match="did not come to the stage"):
        sink.write(sink.plan(cut(orders(2, 3), ORDER)))
    assert "BEGIN TRANSACTION" not in connection.texts


def test_a_position_that_another_has_moved_fences(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    connection = Connection({**answers(), "UPDATE": [(0, 0)]})
    sink = opened(monkeypatch, connection, tmp_path)
    with pytest.raises(Fenced, match="another worker has moved the position"):
        sink.write(sink.plan(cut(orders(2, 3), ORDER)))
    assert connection.texts[-1] == "ROLLBACK"
    assert "COMMIT" not in connection.texts


def test_a_commit_of_unknown_outcome_reopens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lost = OperationalError(msg="lost", errno=250003)
    connection = Connection({"COMMIT": lost, **answers()})
    sink = opened(monkeypatch, connection, tmp_path)
    with pytest.raises(Reopen):
        sink.write(sink.plan(cut(orders(2, 3), ORDER)))
    assert not connection.texts[-1].startswith("REMOVE")


def test_a_lock_that_is_held_is_waited_for_and_a_lost_rollback_reopens(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    locked = ProgrammingError(msg="lock", errno=625, sqlstate="57014")
    connection = Connection({**answers(), "UPDATE": locked})
    sink = opened(monkeypatch, connection, tmp_path)
    plan = sink.plan(cut(orders(2, 3), ORDER))
    with pytest.raises(Transient, match="holds the table's lock"):
        sink.write(plan)
    connection.answers = {"ROLLBACK": DatabaseError(msg="gone", errno=390112), **connection.answers}
    with pytest.raises(Reopen):
        sink.write(plan)


def test_a_column_that_vanished_is_tried_anew_and_no_value_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gone = ProgrammingError(msg="invalid identifier 'COUNT'", errno=904, sqlstate="42000")
    unfit = ProgrammingError(msg="Numeric value '4711' is not recognized", errno=100038, sqlstate="22018")
    connection = Connection({**answers(), "COPY": [gone, unfit]})
    sink = opened(monkeypatch, connection, tmp_path)
    plan = sink.plan(cut(orders(2, 3), ORDER))
    with pytest.raises(Reopen, match="tried anew"):
        sink.write(plan)
    with pytest.raises(Refused, match="does not fit its column") as caught:
        sink.write(plan)
    assert "4711" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_file_that_can_not_be_removed_does_not_undo_the_cut(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    connection = Connection({**answers(), "REMOVE": OperationalError(msg="lost", errno=250003)})
    sink = opened(monkeypatch, connection, tmp_path)
    sink.write(sink.plan(cut(orders(2, 3), ORDER)))
    assert connection.texts[-2:] == ["COMMIT", f"REMOVE {FOLDER}/"]


def test_what_would_be_altered_is_told_without_altering(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    connection = Connection({**answers(), "SHOW TERSE OBJECTS": [], "SHOW TERSE SCHEMAS": [("", "SHOP")]})
    sink = opened(monkeypatch, connection, tmp_path)
    connection.statements.clear()
    grown = pa.schema([*ORDER, pa.field("more", pa.bool_())])
    plans = [sink.plan(cut(orders(0), ORDER)), sink.plan(cut(orders(1), grown))]
    statements = sink.ddl([*plans, *plans])
    assert [text.split("(")[0] for text in statements] == [
        f"CREATE TABLE IF NOT EXISTS {TABLE} ",
        f'ALTER TABLE {TABLE} ADD COLUMN IF NOT EXISTS "MORE" BOOLEAN',
    ]
    assert {text.split()[0] for text in connection.texts} == {"SHOW", "SELECT"}
    assert sink.ddl([]) == []
