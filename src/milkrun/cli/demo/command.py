"""The command `milkrun demo`: what it takes, what it shows in the end, and its exit code."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from milkrun.cli.demo import broker
from milkrun.cli.demo.folder import DemoFolder, check, check_cluster, prepare
from milkrun.cli.demo.stage import Stage
from milkrun.cli.demo.story import Ending, Story
from milkrun.cli.output import Format, Output
from milkrun.control.ledgers import LedgerReport

FOLDER = Path("milkrun-demo")
SECONDS = 12.0
KAFKA = "MILKRUN_KAFKA"
"""What milkrun.testing.kafka_serve tells a command of its broker."""


def demo(
    folder: Path = FOLDER,
    /,
    *,
    seconds: Annotated[float, Parameter(validator=Number(gte=1, lte=3600))] = SECONDS,
    fresh: Annotated[bool, Parameter(negative="")] = False,
    kafka: Annotated[str | None, Parameter(env_var=KAFKA)] = None,
    output: Annotated[Format, Parameter(name=["--output", "-o"], help="How results are shown.")] = "text",
    debug: Annotated[bool, Parameter(negative="", help="Show where an unexpected error happened.")] = False,
) -> int:
    """Watch a grocery shop's events go to DuckDB and Parquet, exactly once, through a crash. Ends with 1 where a sum isn't even.

    Parameters
    ----------
    folder
        Where the demo's project is made; run again there, it starts anew.
    seconds
        How long the shop is open.
    fresh
        Write the project's files anew although you have changed them.
    kafka
        Keep the log on this Kafka cluster, host:port, instead of in a file. It must have no topics of an earlier demo.
    """
    out = Output(output)
    stage = Stage(out)
    # Before the broker is touched: a project that runs in this folder may be using the queue.
    check(folder.absolute(), fresh=fresh)
    queue = f"milkrun-demo-{hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:8]}"
    url = broker.find_broker(queue)
    made = prepare(folder, broker_url=url, queue=queue, fresh=fresh, kafka=kafka)
    if kafka:
        check_cluster(made, kafka)
    client = broker.RabbitMQClient(url, queue) if url else None
    way = f"publish to the RabbitMQ queue {queue}" if url else "append to a file, as no RabbitMQ was found"
    _introduce(stage, made, kafka)
    try:
        ending = Story(made, stage, client, way).run(seconds)
    finally:
        if url:
            broker.delete_queue(url, queue)
    if output == "json":
        out.json(_json(made, ending))
    else:
        _show(stage, ending)
        _what_next(stage, made, queue if url else None, kafka)
    return 0 if ending.even else 1


def _introduce(stage: Stage, folder: DemoFolder, kafka: str | None) -> None:
    stage.plain("Milkrun: a grocery shop's events, exactly once into DuckDB and Parquet", style="bold")
    stage.plain(f"the project is in {_shown(folder.path)}: read pipelines/shop.yaml there")
    if kafka:
        stage.plain(f"its log is on the Kafka broker at {kafka}: read milkrun.yaml there")


def _show(stage: Stage, ending: Ending) -> None:
    stage.heading("4  What was refused is kept, with its cause")
    rows = [(g.count, f"{g.stage} {g.party}", g.code, g.message) for g in ending.dead]
    stage.table(("events", "refused by", "code", "cause"), rows)
    stage.heading("5  The ledger: accepted = delivered + filtered + dead + in flight")
    _show_ledger(stage, ending.ledger)
    checks = ending.verification.checks
    stage.plain(
        f"verify read the targets back: {sum(check.found for check in checks):,} rows, "
        f"{sum(check.missing for check in checks)} missing, {sum(check.doubled for check in checks)} doubled"
    )
    stage.heading("6  Answers")
    stage.plain("best-selling groceries, from DuckDB:")
    stage.table(ending.best_sellers.columns, ending.best_sellers.rows)
    stage.plain()
    stage.plain("minutes from order to door, from the Parquet files:")
    stage.table(ending.minutes_by_city.columns, ending.minutes_by_city.rows)
    stage.heading("The sums")
    stage.plain(ending.proof.text(), style="bold green" if ending.even else "bold red")
    if not ending.even:
        stage.plain("NOT EVEN: this must never happen, please report it", style="bold red")


def _show_ledger(stage: Stage, ledger: LedgerReport) -> None:
    rows = [
        (row.topic, row.accepted, sink.sink, sink.delivered, sink.filtered, sink.dead, sink.in_flight)
        for row in ledger.totals
        for sink in row.sinks
    ]
    stage.table(("topic", "accepted", "sink", "delivered", "filtered", "dead", "in flight"), rows)
    refused, duplicates = (
        sum(getattr(row, name) for row in ledger.totals) for name in ("refused", "duplicates")
    )
    stage.plain(f"sources refused {refused} and dropped {duplicates} duplicates")
    if ledger.even:
        stage.plain("even: nothing lost, nothing doubled", style="green")
    else:
        stage.plain("NOT EVEN", style="bold red")


def _what_next(stage: Stage, folder: DemoFolder, queue: str | None, kafka: str | None) -> None:
    place = _shown(folder.path)
    milkrun, python = _program("milkrun"), _program("python")
    post = (
        f'curl -H "authorization: Bearer $(cat {place}/secrets/write-key)" -H "content-type: application/json" '
        f"http://127.0.0.1:{folder.http_port}/v1/events "
        """-d '{"id": "mine-1", "type": "rated", "customer": {"id": "c1"}, "stars": 5}'"""
    )
    steps = (
        ("Run it again, in a terminal of its own:", f"{milkrun} up -p {place}"),
        ("Send an event of your own; its type makes a topic, a table and files:", post),
        ("See it arrive:", f"{milkrun} topics read shop.rated -p {place}"),
        ("", f'{python} {place}/ask.py warehouse "FROM shop_rated"'),
        ("How are things? What was refused, and why? Is it even?", f"{milkrun} status -p {place}"),
        ("", f"{milkrun} dead list -p {place}"),
        ("", f"{milkrun} ledger -p {place}"),
        ("", f"curl http://127.0.0.1:{folder.server_port}/metrics"),
        ("Change the pipeline, see what that means, and make it so:", f"{milkrun} plan -p {place}"),
        ("Begin your own project:", f"{milkrun} init my-project"),
    )
    stage.heading("What next")
    if kafka and os.environ.get(KAFKA) == kafka:
        stage.plain(
            "The broker ends with the demo. One that stays, in a terminal of its own, prints its address:"
        )
        stage.plain(f"    {python} -m milkrun.testing.kafka_serve", style="cyan")
        stage.plain("The demo on it, and then all that follows:")
        stage.plain(f"    {milkrun} demo --kafka ADDRESS {place}", style="cyan")
    for text, command in steps:
        if text:
            stage.plain(text)
        stage.plain(f"    {command}", style="cyan")
    if queue:
        stage.plain(f"(The queue {queue} was removed; `milkrun up` makes it again.)")


def _shown(path: Path) -> str:
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


def _program(name: str) -> str:
    """How to call a program of this Python's environment from here."""
    mine = Path(sys.executable).parent / name
    found = shutil.which(name)
    if not mine.exists():
        python = shlex.quote(sys.executable)
        return f"{python} -m milkrun" if name == "milkrun" else python
    if found is not None and Path(found).parent == mine.parent:
        return name
    return _shown(mine)


def _json(folder: DemoFolder, ending: Ending) -> dict[str, Any]:
    sums = ending.proof
    return {
        "folder": folder.path,
        "even": ending.even,
        "sent": sums.sent,
        "duckdb": sums.warehouse,
        "parquet": sums.lake,
        "lost": sums.lost,
        "doubled": sums.doubled,
        "dead": ending.dead,
        "kills": ending.kills,
        "sent_again": ending.answered_twice,
        "ledger": ending.ledger,
        "verification": ending.verification,
        "best_sellers": [
            dict(zip(ending.best_sellers.columns, row, strict=True)) for row in ending.best_sellers.rows
        ],
        "minutes_by_city": [
            dict(zip(ending.minutes_by_city.columns, row, strict=True)) for row in ending.minutes_by_city.rows
        ],
    }
