"""A replay on PostgreSQL: the worker is killed at every step of a cut-over and of the way back, while new events arrive.

The judge is `tests.chaos.checker`, which knows only what clients were told and what readers of the plain names find; `milkrun ledger` and
`milkrun verify` must agree with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from psycopg import sql

from tests.chaos import checker
from tests.chaos.checker import Row, Verdict
from tests.e2e.station import until
from tests.e2e.test_faults import FILES, Client, client
from tests.e2e.test_replay import arrived, dies, replays
from tests.servers.postgres import PostgresServer, schema_of

pytestmark = [pytest.mark.integration, pytest.mark.slow]

PLACES = ["replay.still", "replay.changed", "replay.recorded"]
WITHIN = ["postgres.before_switch", "postgres.after_switch"]
"""On both sides of the commit of a switch."""


class Shop:
    """A project whose only sink is a schema of PostgreSQL."""

    def __init__(self, client: Client, server: PostgresServer, schema: str) -> None:
        self.client = client
        self.station = client.shop
        self._server = server
        self._schema = schema

    def verdict(self) -> Verdict:
        """What the checker says of the rows that readers of the plain names find now."""
        told = checker.read_journal(self.station.folder / "journal.jsonl")
        return checker.judge(told, self._rows())

    def _rows(self) -> list[Row]:
        rows: list[Row] = []
        with self._server.connect() as connection:
            for name in ("shop_order", "shop_click"):
                table = sql.Identifier(self._schema, name)
                query = sql.SQL("SELECT id, _topic, _partition, _offset, customer, seq FROM {}").format(table)
                rows += [Row(*row) for row in connection.execute(query).fetchall()]
        return rows

    def switched(self) -> int:
        """Wait until no switch is under way; the generation that readers find."""
        until(
            lambda: "switching" not in {each["state"] for each in replays(self.client).values()},
            "it is switched",
        )
        (current,) = (number for (_, number), each in replays(self.client).items() if each["current"])
        return current

    def killed_while_it_switches(self, place: str, command: str) -> int:
        """Die at the place in the middle of a switch, be started again; the generation that readers find then."""
        self.client.write(10)
        self.station.command("replay", command, "shop", "--wait", "0s")
        self.station.up(environment={"MILKRUN_KILL_AT": f"{place}:1"})
        dies(self.client)
        # Whatever readers find in between, it is one generation: no event twice, none out of order.
        found = self.verdict()
        assert not (found.doubled or found.disordered or found.uninvited), found
        self.client.write(10)
        self.station.up()
        current = self.switched()
        arrived(self.client)
        self.station.delivered()
        assert self.station.stop() == 0
        assert self.verdict().good, self.verdict()
        return current


@contextmanager
def replayed(folder: Path, server: PostgresServer) -> Iterator[Shop]:
    """A project with a replay that has caught up; nothing runs."""
    schema = schema_of(folder)
    sinks = f"""
sinks:
  warehouse: {{postgres: {{url: "${{POSTGRES_URL}}", schema: {schema}}}, topics: [shop.order, shop.click], cut: {{rows: 7, every: 30ms}}}}
topics: {{"*": {{partitions: 2}}}}
"""
    pipeline = FILES.partition("\nsinks:")[0] + sinks
    with client(folder, pipeline) as made:
        shop = Shop(made, server, schema)
        made.write(60)
        assert shop.station.up("--until-idle").ended() == 0, shop.station.said()
        assert shop.station.command("replay", "shop").code == 0
        assert shop.station.up("--until-idle").ended() == 0, shop.station.said()
        yield shop


def switches(folder: Path, server: PostgresServer, places: list[str]) -> None:
    """There and back again, killed at one place after the other; then all of it is proved."""
    with replayed(folder, server) as shop:
        for number, place in enumerate(places):
            command = "rollback" if number else "cut-over"
            assert shop.killed_while_it_switches(place, command) == (1 if number % 2 else 2)
        shop.station.finish()
        assert shop.verdict().good, shop.verdict()


def test_killed_at_every_step_of_a_switch(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTGRES_URL", postgres.url())
    switches(tmp_path / "shop", postgres, PLACES)


@pytest.mark.soak
@pytest.mark.parametrize("back", [False, True], ids=["cut-over", "rollback"])
@pytest.mark.parametrize("place", [*PLACES, *WITHIN])
def test_killed_at_any_step_of_either_switch(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, back: bool
) -> None:
    monkeypatch.setenv("POSTGRES_URL", postgres.url())
    switches(tmp_path / "shop", postgres, [WITHIN[0], place] if back else [place, WITHIN[1]])
