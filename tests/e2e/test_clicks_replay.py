"""The clicks of a real shop, replayed from the archive by a changed definition while new ones arrive; switched over to, and back.

The first definition takes the mornings' clicks only and keeps no times; the second takes all, with their times. What readers find is judged by
`tests.e2e.click_checker`, which knows only the raw file.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from hashlib import sha256
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from milkrun.connectors.duckdb import connect
from tests.e2e import click_checker
from tests.e2e.click_checker import Case, is_morning
from tests.e2e.station import PATIENCE, Station, station, until
from tests.e2e.test_replay import lake
from tests.needs import need_shared

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.xdist_group("clicks_replay")]

CHECKOUT = Path(__file__).resolve().parents[2]
CLICKS = 70_278
MANY, FEW = 500, 10
"""Clicks of a request, where all are sent at once, and while something else goes on."""

PIPELINE = """
pipeline: shop
sources:
  app:
    http: {listen: "127.0.0.1:{port}"}
    topic: shop.click
    key: body.session
    id: body.id
    timestamp: body.at
schema: {type: body.type, columns: fixed}
topics: {shop.click: {partitions: 2}}
sinks:
  warehouse: {duckdb: {path: warehouse.duckdb}, {only}cut: {rows: 700, every: 100ms}}
  lake: {parquet: {url: lake, partition_by: [topic]}, {only}cut: {rows: 700, every: 100ms}}
"""
PROJECT = "name: test\nlog: {embedded: {path: .milkrun/log.db}}\narchive: {url: old, after: 1s}\n"
MORNINGS = "only: {body.half: morning}, "
PROPERTIES = {"id": {"type": "string"}, "session": {"type": "string"}, "item": {"type": "integer"}}
TIME = {"at": {"type": "string", "format": "date-time"}}


def bodies() -> list[bytes]:
    """The events of all clicks, in order."""
    found = []
    for number, (session, item, moment) in enumerate(click_checker.clicks(raw_file())):
        at = _iso(str(moment))
        event = {"id": f"click-{number}", "type": "click", "session": session, "item": item, "at": at}
        half = "morning" if at[11:13] < "12" else "afternoon"
        found.append(json.dumps(event | {"half": half}).encode())
    return found


def raw_file() -> Path:
    """The clicks as they were published."""
    return need_shared() / "data/shop-clicks.tsv.gz"


def _iso(seconds: str) -> str:
    whole, _, fraction = seconds.partition(".")
    return f"{datetime.fromtimestamp(int(whole), UTC):%Y-%m-%dT%H:%M:%S}.{fraction or '0'}Z"


@contextmanager
def meanwhile(step: Callable[[], None]) -> Iterator[None]:
    """Within the block another thread does it again and again, with a pause of 20 ms."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.02):
            step()

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        try:
            yield
        finally:
            stop.set()
            working.result()


class Clicks:
    """The clicks, and how many of them have been accepted."""

    def __init__(self, shop: Station, sent: int = 0) -> None:
        self.shop = shop
        self.sent = sent
        self._bodies = bodies()
        self._changed = threading.Condition()

    def post(self, count: int) -> None:
        """Post the next `count` in one request; all must be accepted."""
        batch = self._bodies[self.sent : self.sent + count]
        status, answer = self.shop.post(b"[" + b",".join(batch) + b"]")
        assert (status, answer["accepted"]) == (200, len(batch)), answer
        with self._changed:
            self.sent += len(batch)
            self._changed.notify_all()

    def post_until(self, sent: int) -> None:
        """Post until so many have been accepted."""
        while self.sent < sent:
            self.post(min(MANY, sent - self.sent))

    def wait_for_more(self) -> None:
        """Wait until two further requests have been accepted: one of them began after this."""
        with self._changed:
            wanted = self.sent + 2 * FEW
            assert self._changed.wait_for(lambda: self.sent >= wanted, PATIENCE)

    @contextmanager
    def arriving(self) -> Iterator[None]:
        """Within the block a client posts a few clicks every now and then, each time after an answer."""
        with meanwhile(lambda: self.post(FEW)):
            yield
        assert self.sent < len(self._bodies), "the clicks ran out before the end"


class Readers:
    """Somebody who looks at the plain names all the time; each look says how many of the first `old` clicks are there, and how many rows have no
    time."""

    def __init__(self, folder: Path, old: int) -> None:
        self._folder = folder
        self._query = f'SELECT count(*) FILTER (CAST(id[7:] AS INTEGER) < {old}), count(*) FILTER ("at" IS NULL) FROM {{}}'
        self.looks: dict[str, list[Any]] = {"warehouse": [], "lake": []}

    @contextmanager
    def looking(self) -> Iterator[None]:
        """They look within the block, and have looked once when it begins."""
        self._look()
        with meanwhile(self._look):
            yield

    def see(self, counts: tuple[int, int]) -> bool:
        """Whether they see this now."""
        return all(looks[-1] == counts for looks in self.looks.values())

    def _look(self) -> None:
        with connect(self._folder / "warehouse.duckdb") as warehouse:
            found = warehouse.execute(self._query.format("shop_click")).fetchone()
        self.looks["warehouse"].append(found)
        files = f"read_parquet('{lake(self._folder)}/**/*.parquet', union_by_name = true)"
        with duckdb.connect() as connection:
            self.looks["lake"].append(connection.execute(self._query.format(files)).fetchone())

    def saw_only(self, first: tuple[int, int], then: tuple[int, int]) -> None:
        """In both targets first the one, then the other, and nothing between."""
        for target, looks in self.looks.items():
            changes = [look for index, look in enumerate(looks) if index == 0 or look != looks[index - 1]]
            assert changes == [first, then], f"{target}: {changes}"
            looks.clear()


def define(shop: Station, *, right: bool) -> None:
    """Write the project's files: by the first definition, or as it is right."""
    only, properties = ("", PROPERTIES | TIME) if right else (MORNINGS, PROPERTIES)
    pipeline = PIPELINE.replace("{port}", str(shop.port)).replace("{only}", only)
    (shop.folder / "pipelines/shop.yaml").write_text(pipeline)
    (shop.folder / "milkrun.yaml").write_text(PROJECT)
    (shop.folder / "schemas").mkdir(exist_ok=True)
    document = {"type": "object", "properties": properties}
    (shop.folder / "schemas/click.json").write_text(json.dumps(document))


def check(shop: Station, case: Case, suffix: str = "", place: str | None = None) -> None:
    """The checker's verdict on what readers find, or on the table with that suffix and the folder `place`."""
    command = [
        *(sys.executable, "-m", "tests.e2e.click_checker"),
        str(raw_file()),
        json.dumps(asdict(case)),
        str(shop.folder / "warehouse.duckdb"),
        f"shop_click{suffix}",
        str(shop.folder / place if place else lake(shop.folder)),
    ]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def left_out(old: int) -> int:
    """How many of the first `old` clicks the first definition doesn't take, by the raw file."""
    return sum(not is_morning(moment) for _, _, moment in islice(click_checker.clicks(raw_file()), old))


def archived(shop: Station, events: int) -> None:
    """Archive all; the log has none of these events left, and the archive's files, read without Milkrun, have each once."""
    done = shop.command("archive", "run")
    assert done.code == 0, done.out + done.err
    (topic,) = [each for each in shop.asked("archive")["topics"] if each["topic"] == "shop.click"]
    assert [(each["hot_start"], each["start"]) for each in topic["partitions"]] == [
        (each["hot_end"], 0) for each in topic["partitions"]
    ]
    values = [
        json.loads(value)["id"]
        for path in (shop.folder / "old").rglob("topic=shop.click/**/*.parquet")
        for value in pq.read_table(path, columns=["value"], partitioning=None).column("value").to_pylist()
    ]
    assert sorted(values) == sorted(f"click-{number}" for number in range(events))


def caught_up(shop: Station, generation: int) -> None:
    """Wait until the generation is near the end in both sinks: more arrives all the time."""

    def near() -> bool:
        found = [
            each
            for each in shop.asked("replay", "status")
            if "sink" in each and each["generation"] == generation
        ]
        return len(found) == 2 and all(
            each["done"] and each["total"] - each["done"] <= MANY for each in found
        )

    until(near, f"generation {generation} has caught up")


def done(shop: Station, *command: str) -> None:
    result = shop.command(*command)
    assert result.code == 0, result.out + result.err


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Folders of shops that have delivered and archived so many clicks by the first definition; nothing runs there."""
    made: dict[int, Path] = {}

    def folder(old: int) -> Path:
        if old not in made:
            made[old] = tmp_path_factory.mktemp("history") / "shop"
            with station(made[old], PIPELINE) as shop:
                define(shop, right=False)
                shop.up().listening()
                Clicks(shop).post_until(old)
                assert shop.delivered().stop() == 0, shop.said()
                check(shop, Case(old, old))
                archived(shop, old)
        return made[old]

    return folder


@contextmanager
def corrected(folder: Path, history: Path, old: int) -> Iterator[Clicks]:
    """A shop of its own with that history, whose definition has been put right."""
    shutil.copytree(history, folder)
    with station(folder, PIPELINE) as shop:
        define(shop, right=True)
        yield Clicks(shop, old)


@pytest.mark.parametrize(
    ("old", "total"), [(4_000, 12_000), pytest.param(50_000, CLICKS, marks=pytest.mark.soak)]
)
def test_replayed_from_the_archive_while_new_ones_arrive_then_cut_over_and_rolled_back(
    tmp_path: Path, history: Callable[[int], Path], old: int, total: int
) -> None:
    with corrected(tmp_path / "shop", history(old), old) as clicks:
        shop, missing = clicks.shop, left_out(old)
        assert 0 < missing < old
        readers = Readers(shop.folder, old)
        before, after = (old - missing, old - missing), (old, 0)
        shop.up().listening()
        clicks.post(MANY)
        shop.delivered()

        with clicks.arriving():
            done(shop, "replay", "shop")
            clicks.wait_for_more()
            caught_up(shop, 2)
            with readers.looking():
                done(shop, "replay", "cut-over", "shop", "--keep", "1h")
                clicks.wait_for_more()
                until(lambda: readers.see(after), "readers see it")
        shop.delivered()
        readers.saw_only(before, after)
        check(shop, Case(clicks.sent, 0))

        with clicks.arriving(), readers.looking():
            clicks.wait_for_more()
            done(shop, "replay", "rollback", "shop")
            clicks.wait_for_more()
            until(lambda: readers.see(before), "readers see it")
        shop.delivered()
        readers.saw_only(after, before)
        check(shop, Case(clicks.sent, old))

        clicks.post_until(total)
        shop.delivered()
        check(shop, Case(total, old))
        # Given again it goes forth; what was right is what the ledger and `milkrun verify` stand up for.
        done(shop, "replay", "rollback", "shop")
        shop.delivered().finish()
        check(shop, Case(total, 0))
        check(shop, Case(total, old), "__g1", "lake")


def test_the_checker_finds_what_is_lost_doubled_changed_or_out_of_order() -> None:
    one, two, three = ("click-0", "s", 7, None), ("click-1", "s", 8, 5), ("click-2", "t", 9, 6)
    changed = ("click-1", "s", 8, 6)
    good: dict[str, list[Any]] = {"lost": [], "too many": [], "disordered": []}
    assert click_checker.judge([one, two, three], [three, one, two]) == good
    assert click_checker.judge([one, two, three], [one, three]) == good | {"lost": [two]}
    assert click_checker.judge([one, two], [one, two, two]) == good | {"too many": [two]}
    assert click_checker.judge([one, two], [one, changed]) == good | {"lost": [two], "too many": [changed]}
    assert click_checker.judge([one, two], [two, one]) == good | {"disordered": ["s"]}


def digests(folder: Path, generation: int) -> dict[str, str]:
    """SHA-256 of all rows of a generation's table, and of the names and bytes of all files below its prefix.

    The generation's number stands in each file's name and in its footer, where a value of the metadata is it; that is left out, and nothing else.
    """
    with duckdb.connect(str(folder / "warehouse.duckdb"), read_only=True) as connection:
        query = f"FROM shop_click__g{generation} ORDER BY _partition, _offset"
        rows = connection.sql(query).to_arrow_table()
    root = folder / f"lake__g{generation}"
    paths = sorted(root.rglob("*.parquet"))
    assert paths and rows.num_rows
    files = sha256()
    for path in paths:
        name = path.relative_to(root).as_posix()
        assert name.endswith(f"-g{generation}.parquet")
        files.update(name.removesuffix(f"-g{generation}.parquet").encode())
        files.update(without_generation(path.read_bytes()))
    return {"warehouse": sha256(repr(rows.to_pylist()).encode()).hexdigest(), "lake": files.hexdigest()}


def without_generation(content: bytes) -> bytes:
    """A Parquet file's pages as they are, its length, and what its footer says, but for the generation."""
    length = int.from_bytes(content[-8:-4], "little")
    with pq.ParquetFile(BytesIO(content)) as file:
        footer = file.metadata.to_dict()
        told = dict(file.schema_arrow.metadata)
        fields = file.schema_arrow.remove_metadata()
    assert told.pop(b"milkrun.generation")
    return content[: -8 - length] + repr((len(content), footer, told, fields)).encode()


@pytest.mark.parametrize("total", [4_000, pytest.param(CLICKS, marks=pytest.mark.soak)])
def test_two_replays_are_the_same_to_the_last_byte(
    tmp_path: Path, history: Callable[[int], Path], total: int
) -> None:
    with corrected(tmp_path / "shop", history(total), total) as clicks:
        shop = clicks.shop
        done(shop, "replay", "shop")
        assert shop.up("--until-idle").ended() == 0, shop.said()
        done(shop, "replay", "shop")
        # The second one is killed in the midst of it.
        kill = {"MILKRUN_KILL_AT": "delivery.written:3"}
        assert shop.up("--until-idle", environment=kill).ended() == -signal.SIGKILL, shop.said()
        assert shop.up("--until-idle").ended() == 0, shop.said()
        for suffix in ("__g2", "__g3"):
            check(shop, Case(total, 0), suffix, f"lake{suffix}")
        assert digests(shop.folder, 2) == digests(shop.folder, 3)
        done(shop, "ledger")
