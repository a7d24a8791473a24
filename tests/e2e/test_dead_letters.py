"""Dead letters corrected and redelivered by commands while the worker is killed at every step: each once, the order of each key kept.

What is in the warehouse is judged by `dead_letter_checker`, in a process of its own.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.dead_letter_checker import FIELDS, judge
from tests.e2e.kafka import KafkaStation
from tests.e2e.station import COMMAND, Station, station

PIPELINE = """
sources:
  in: {files: {paths: ["input.ndjson"]}, topic: work, key: body.key, dedupe: off}
sinks:
  warehouse: {duckdb: {path: warehouse.duckdb}, cut: {rows: 4000, every: 50ms}}
on_error: hold_key
hold_limit: 1000000
"""
KEYS = 500
BEFORE = 1_000
"""Events sent first, so that the fields' types are known."""

KILLS = (
    "delivery.before_settle:1",
    "delivery.settled:1",
    "repair.cut_logged:1",
    "repair.before_settle:1",
    "duckdb.before_commit:1",
    "repair.settled:1",
    "duckdb.after_commit:1",
    "delivery.written:1",
    "log.before_commit:4",
    "log.after_commit:6",
)
MEND = r"""regexp_replace(value, '"wrong (\d+)"', '\1')"""


class Work:
    """What is sent, and what of it is wrong: in one of twelve fields a text with the number that it should be."""

    def __init__(self, shop: Station, seed: int, total: int, wrong: int) -> None:
        chance = random.Random(seed)
        bad = set(chance.sample(range(BEFORE, total), wrong))
        self._shop = shop
        self._lines: list[str] = []
        self._journal: list[str] = []
        for seq in range(total):
            fields: dict[str, int | str] = {f"f{number:02d}": seq for number in range(FIELDS)}
            if seq in bad:
                fields[f"f{chance.randrange(FIELDS):02d}"] = f"wrong {seq}"
            key = f"k{chance.randrange(KEYS):03d}"
            self._lines.append(json.dumps({"key": key, "seq": seq} | fields))
            self._journal.append(json.dumps({"key": key, "seq": seq}))
        self.sent = 0

    def send(self, until: int) -> None:
        """Send the events before `until`."""
        for path, lines in ((self.input, self._lines), (self.journal, self._journal)):
            with path.open("a") as file:
                file.writelines(f"{line}\n" for line in lines[self.sent : until])
        self.sent = until

    @property
    def input(self) -> Path:
        return self._shop.folder / "input.ndjson"

    @property
    def journal(self) -> Path:
        return self._shop.folder / "journal.jsonl"

    def judged(self) -> dict[str, list[object]]:
        warehouse = str(self._shop.folder / "warehouse.duckdb")
        command = [
            sys.executable,
            "-m",
            "tests.e2e.dead_letter_checker",
            str(self.journal),
            warehouse,
            "work",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode in (0, 1), done.stderr
        found: dict[str, list[object]] = json.loads(done.stdout)
        return found


def killed_command(shop: Station, place: str, *arguments: str) -> None:
    """Run a command that kills itself at that place."""
    command = [*COMMAND, *arguments, "-p", str(shop.folder)]
    environment = os.environ | {"MILKRUN_KILL_AT": place}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr


def mend(shop: Station, where: str) -> None:
    """Correct and redeliver; what is on its way already is left alone."""
    shop.asked("dead", "repair", "--where", where, "--sql", MEND, "--apply", "--why", "a word too much")
    shop.asked("dead", "redeliver", "--where", where)


def run_killed(shop: Station, seed: int, total: int, wrong: int) -> None:
    work = Work(shop, seed, total, wrong)
    work.send(BEFORE)
    assert shop.up("--until-idle").ended() == 0, shop.said()
    for number, place in enumerate(KILLS):
        work.send(BEFORE + (total - BEFORE) * (number + 1) // len(KILLS))
        if number:
            # Of a key's letters some are sent before an earlier one of them is: they have to wait.
            mend(shop, f"CAST(path[2:] AS INTEGER) % 3 = {number % 3}")
        code = shop.up("--until-idle", environment={"MILKRUN_KILL_AT": place}).ended()
        assert code == -signal.SIGKILL, (place, code, shop.said())
    assert shop.up("--until-idle").ended() == 0, shop.said()
    groups = shop.asked("dead", "list", "--state", "all")
    assert {(group["code"], group["path"]) for group in groups} == {
        ("type", f"f{number:02d}") for number in range(FIELDS)
    }
    assert sum(group["count"] for group in groups) == wrong
    ((sink,),) = [row["sinks"] for row in shop.asked("ledger")["totals"] if row["topic"] == "work"]
    assert sink["held"] > wrong
    # The commands are killed too: before their commit nothing is done, after it all is.
    killed_command(shop, "log.before_commit:1", "dead", "repair", "--all", "--sql", MEND, "--apply")
    shop.asked("dead", "repair", "--all", "--sql", MEND, "--apply")
    killed_command(shop, "log.after_commit:1", "dead", "redeliver", "--all")
    shop.asked("dead", "redeliver", "--all")
    assert shop.up("--until-idle").ended() == 0, shop.said()
    assert not any(work.judged().values()), work.judged()
    assert {group["path"]: group["states"] for group in shop.asked("dead", "list", "--state", "all")} == {
        group["path"]: {"redelivered": group["count"]} for group in groups
    }
    shop.prove()


@pytest.mark.slow
def test_a_thousand_letters_of_twelve_causes_among_a_hundred_thousand_events(tmp_path: Path) -> None:
    with station(tmp_path, PIPELINE) as shop:
        run_killed(shop, 1, 100_000, 1_000)


def test_without_holding_the_judge_sees_the_disorder(tmp_path: Path) -> None:
    with station(tmp_path, PIPELINE.replace("hold_key", "park")) as shop:
        work = Work(shop, 3, 3_000, 40)
        for until in (BEFORE, 3_000):
            work.send(until)
            assert shop.up("--until-idle").ended() == 0, shop.said()
        mend(shop, "true")
        assert shop.up("--until-idle").ended() == 0, shop.said()
        found = work.judged()
        assert found.pop("disordered")
        assert not any(found.values()), found
        shop.prove()


def test_the_judge_sees_each_kind_of_wrong() -> None:
    sent = [{"key": "a", "seq": 1}, {"key": "a", "seq": 2}, {"key": "b", "seq": 3}]
    rows = [
        ("a", 2, *[2] * FIELDS),
        ("a", 1, *[1] * FIELDS),
        ("a", 1, *[7] * FIELDS),
        ("c", 9, *[9] * FIELDS),
    ]
    assert judge(sent, rows) == {
        "lost": [("b", 3)],
        "doubled": [("a", 1)],
        "uninvited": [("c", 9)],
        "disordered": ["a"],
        "wrong": [1],
    }


# -- on Kafka

KAFKA = """
pipeline: {t}
sources:
  in: {files: {paths: ["input.ndjson"]}, topic: "{t}.work", key: body.key, dedupe: off}
topics: {"{t}.work": {partitions: 2}}
sinks:
  lake: {parquet: {url: lake}, cut: {every: 50ms}}
on_error: hold_key
"""


@pytest.mark.integration
@pytest.mark.xdist_group("kafka_e2e")
def test_letters_on_kafka(tmp_path: Path, kafka: str) -> None:
    shop = KafkaStation(tmp_path / "shop", KAFKA, kafka)
    lines = [{"key": f"k{seq % 5}", "seq": seq} for seq in range(40)]
    path = shop.folder / "input.ndjson"
    try:
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines[:20]))
        assert shop.up("--until-idle").ended() == 0, shop.said()
        bad = [
            line | {"seq": f"wrong {line['seq']}"} if line["seq"] in (21, 26, 33) else line for line in lines
        ]
        path.write_text("".join(f"{json.dumps(line)}\n" for line in bad))
        assert shop.up("--until-idle").ended() == 0, shop.said()
        rows = {row["topic"]: row for row in shop.asked("ledger")["totals"]}
        (sink,) = rows[shop.topic("work")]["sinks"]
        # 21, 26 and later ones are of the key k1, 33 and 38 of k3.
        assert (sink["delivered"], sink["dead"], sink["held"]) == (34, 3, 3)
        shop.asked("dead", "repair", "--all", "--sql", MEND, "--apply")
        first = shop.asked("dead", "list", "--each")[0]["id"]
        shop.asked("dead", "drop", first, "--why", "not needed")
        assert shop.asked("dead", "redeliver", "--all")["done"] == 2
        killed = shop.up("--until-idle", environment={"MILKRUN_KILL_AT": "repair.before_settle:1"})
        assert killed.ended() == -signal.SIGKILL, shop.said()
        assert shop.up("--until-idle").ended() == 0, shop.said()
        shop.prove()
        (sink,) = {row["topic"]: row for row in shop.asked("ledger")["totals"]}[shop.topic("work")]["sinks"]
        assert (sink["delivered"], sink["dead"], sink["dropped"], sink["held"]) == (39, 0, 1, 0)
    finally:
        shop.kill()


def test_dead_letters_read_as_connects(tmp_path: Path) -> None:
    """Whatever tool knows Kafka Connect's dead letters finds what it looks for (KIP-298)."""
    with station(tmp_path, PIPELINE) as shop:
        path = shop.folder / "input.ndjson"
        path.write_text('{"key": "a", "n": 1}\n{"key": "a", "n": 2}\n')
        assert shop.up("--until-idle").ended() == 0, shop.said()
        with path.open("a") as file:
            file.write('{"key": "a", "n": "x"}\n')
        assert shop.up("--until-idle").ended() == 0, shop.said()
        read = shop.command("topics", "read", "_dead.shop", "-o", "json")
        headers = dict(json.loads(read.out.splitlines()[0])["headers"])
        assert {
            name: headers[f"__connect.errors.{name}"] for name in ("topic", "partition", "offset", "stage")
        } == {
            "topic": "work",
            "partition": "0",
            "offset": "2",
            "stage": "VALUE_CONVERTER",
        }
        assert headers["__connect.errors.exception.message"].startswith("n: expected an integer")
