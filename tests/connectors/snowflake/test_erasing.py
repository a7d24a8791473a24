"""Erasures on Snowflake: what is sent, a switch that comes between, and kill -9 between the steps."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from milkrun.connectors.snowflake import SnowflakeSink
from milkrun.model.batch import TopicPartition
from milkrun.model.errors import Reopen, Transient
from milkrun.testing.cuts import ORDER, cut, orders
from tests.connectors.snowflake.account import deliver, make, query, staged
from tests.connectors.snowflake.scripted import UPLOADED, Connection, opened
from tests.connectors.snowflake.test_kill import run_until_killed
from tests.servers.fakesnow import SnowflakeServer, snowflake_server

__all__ = ["snowflake_server"]

PLACE = TopicPartition("shop.order", 0)
real = [pytest.mark.soak, pytest.mark.integration, pytest.mark.xdist_group("fakesnow")]


def erase(sink: SnowflakeSink, *offsets: int) -> int:
    """Open the sink, erase, close it."""
    sink.open()
    try:
        return sink.erase(PLACE, "first", np.array(offsets, np.int64))
    finally:
        sink.close()


def answers() -> dict[str, object]:
    """A target whose generation 1 has filled SHOP_ORDER, and 2 SHOP_ORDER__G2."""
    tables = [("t", "SHOP_ORDER", "TABLE"), ("t", "SHOP_ORDER__G2", "TABLE")]
    return {
        'SELECT "GENERATION"': [(1, 0, None)],
        r'SELECT DISTINCT .*"_MILKRUN_POSITIONS"': [("SHOP_ORDER", 1), ("SHOP_ORDER__G2", 2)],
        r'SELECT DISTINCT .*"_MILKRUN_REPAIRS"': [("SHOP_ORDER", 1)],
        "SHOW TERSE OBJECTS": tables,
        r"DESCRIBE .*__G2": [
            (name, "VARCHAR(1)") for name in ("_TOPIC", "_PARTITION", "_OFFSET", "_INCARNATION")
        ],
        "DESCRIBE": [(name, "VARCHAR(1)") for name in ("_TOPIC", "_PARTITION", "_OFFSET")],
        "PUT": UPLOADED,
        "COPY": [("f", "LOADED", 2, 2)],
        'DELETE FROM "RAW"."SHOP"."SHOP_ORDER" ': [(2,)],
        "DELETE": [(1,)],
    }


def test_the_rows_of_all_generations_go_in_one_transaction_and_staged_files_with_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    connection = Connection(answers())
    sink = opened(monkeypatch, connection, tmp_path)
    connection.statements.clear()
    assert sink.erase(PLACE, "first", np.array([3, 8], np.int64)) == 3
    start = connection.texts.index("BEGIN TRANSACTION")
    folder = "@_MILKRUN_STAGE/shop/target/shop.order/0/"
    assert connection.texts[start - 2].startswith(f"PUT file://erased.parquet {folder.rstrip('/')} ")
    assert (
        connection.texts[start - 1]
        == 'CREATE OR REPLACE TEMPORARY TABLE "_MILKRUN_ERASED" ("_OFFSET" NUMBER(38,0))'
    )
    listed = 'AND "_OFFSET" IN (SELECT "_OFFSET" FROM "_MILKRUN_ERASED")'
    assert connection.statements[start + 1 :] == [
        (
            f'COPY INTO "_MILKRUN_ERASED" ("_OFFSET") FROM (SELECT $1:C1::NUMBER(38,0) FROM {folder}erased.parquet) '
            "FILE_FORMAT = (TYPE = PARQUET BINARY_AS_TEXT = FALSE) ON_ERROR = ABORT_STATEMENT FORCE = TRUE",
            (),
        ),
        (
            f'DELETE FROM "RAW"."SHOP"."SHOP_ORDER" WHERE "_TOPIC" = ? AND "_PARTITION" = ? {listed}',
            ("shop.order", 0),
        ),
        (
            f'DELETE FROM "RAW"."SHOP"."SHOP_ORDER__G2" WHERE "_TOPIC" = ? AND "_PARTITION" = ? AND "_INCARNATION" = ? {listed}',
            ("shop.order", 0, "first"),
        ),
        ('UPDATE "RAW"."SHOP"."_MILKRUN_LOCK" SET "TAKEN" = "TAKEN" + 1', ()),
        (
            'SELECT "GENERATION", "SWITCHES", "LEAVING" FROM "RAW"."SHOP"."_MILKRUN_GENERATIONS" WHERE "PIPELINE" = ? AND "SINK" = ?',
            ("shop", "target"),
        ),
        ("COMMIT", ()),
        (f"REMOVE {folder}", ()),
    ]


@pytest.mark.parametrize("meanwhile", [(2, 1, 1), (2, 1, None)], ids=["under way", "through"])
def test_a_switch_that_comes_between_has_it_tried_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, meanwhile: tuple[int, int, int | None]
) -> None:
    connection = Connection({**answers(), 'SELECT "GENERATION"': [[(1, 0, None)], [meanwhile]]})
    sink = opened(monkeypatch, connection, tmp_path)
    with pytest.raises(Transient, match=r"tables were renamed while shop.order"):
        sink.erase(PLACE, "first", np.array([3, 8], np.int64))
    assert connection.texts[-1] == "ROLLBACK"


def test_a_list_that_is_not_loaded_whole_deletes_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    connection = Connection({**answers(), "COPY": []})
    sink = opened(monkeypatch, connection, tmp_path)
    with pytest.raises(Reopen, match="was not loaded whole"):
        sink.erase(PLACE, "first", np.array([3, 8], np.int64))
    assert not any(text.startswith("DELETE") for text in connection.texts)


class TestOnAServer:
    pytestmark = real

    def test_what_a_crash_left_in_the_stage_goes_as_well(
        self, snowflake_server: SnowflakeServer, tmp_path: Path
    ) -> None:
        run_until_killed(snowflake_server, tmp_path, "snowflake.after_commit:1", "append")
        snowflake_server.end_sessions()
        assert len(staged(snowflake_server, tmp_path)) == 1
        assert erase(make(snowflake_server, tmp_path), 5) == 1
        assert staged(snowflake_server, tmp_path) == []

    @pytest.mark.parametrize(("place", "found"), [("before_erasure", 1), ("after_erasure", 0)])
    def test_an_erasure_that_was_killed_is_finished_by_the_next(
        self, snowflake_server: SnowflakeServer, tmp_path: Path, place: str, found: int
    ) -> None:
        deliver(make(snowflake_server, tmp_path), cut(orders(0, 1, 2), ORDER))
        program = (
            "import sys; from pathlib import Path; from tests.connectors.snowflake.test_erasing import SnowflakeServer, erase, make;"
            "erase(make(SnowflakeServer(int(sys.argv[1])), Path(sys.argv[2])), 0)"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, str(snowflake_server.port), str(tmp_path)],
            env={**os.environ, "MILKRUN_KILL_AT": f"snowflake.{place}"},
            cwd=Path(__file__).parents[3],
            capture_output=True,
        )
        assert done.returncode == -signal.SIGKILL, done.stderr.decode()
        snowflake_server.end_sessions()
        assert query(snowflake_server, tmp_path, "SELECT COUNT(*) FROM SHOP_ORDER") == [(2 + found,)]
        assert erase(make(snowflake_server, tmp_path), 0) == found
        assert staged(snowflake_server, tmp_path) == []
        deliver(make(snowflake_server, tmp_path), cut(orders(3), ORDER))
        rows = query(snowflake_server, tmp_path, "SELECT _OFFSET FROM SHOP_ORDER ORDER BY 1")
        assert rows == [(1,), (2,), (3,)]
