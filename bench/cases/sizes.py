"""How large a cut should be: PostgreSQL's COPY by its rows, and Snowflake's staged files, put and copied one a cut, by theirs."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace

import snowflake.connector

from bench.cases.log import batches, fill, new_log
from bench.cases.sinks import deliver, deliver_to_postgres
from bench.measuring import Measured, Work
from bench.pipelines import TOPIC, sink
from milkrun.model.spec import CutSpec
from milkrun.runtime.registry import sink_class


def prepare(work: Work) -> None:
    """The events as a log."""
    log = new_log(work.inputs / "log.db")
    fill(log, batches(work.events))
    log.close()


def postgres_copies(work: Work) -> Measured:
    """Ours: everything delivered once with each size of cut; what is measured is the largest, the others are in the extra keys."""
    return _each_size("postgres", work, lambda name, cut: deliver_to_postgres(work, name, cut))


def snowflake_files(work: Work) -> Measured:
    """As `postgres_copies`, with the Snowflake sink on a stand-in for Snowflake."""
    return _each_size("snowflake", work, lambda name, cut: _to_snowflake(work, name, cut))


def _each_size(connector: str, work: Work, delivered: Callable[[str, CutSpec], Measured]) -> Measured:
    sizes: Sequence[int] = sorted({min(rows, work.events) for rows in work.options["rows"]})
    default = sink_class(connector).default_cut
    found = {rows: delivered(f"rows-{rows}", replace(default, rows=rows)) for rows in sizes}
    extra = {f"events_per_s_at_{rows}_rows": round(each.events_per_s) for rows, each in found.items()}
    largest = found[sizes[-1]]
    return Measured(
        events=largest.events,
        seconds=largest.seconds,
        cpu_seconds=largest.cpu_seconds,
        peak_rss_mb=largest.peak_rss_mb,
        extra=extra,
    )


def _to_snowflake(work: Work, name: str, cut: CutSpec) -> Measured:
    database = f"BENCH_{uuid.uuid4().hex[:12].upper()}"
    config = {
        "account": "acme-test",
        "user": "milkrun",
        "password": "not-a-secret",
        "database": database,
        "warehouse": "loading",
        "schema": "SHOP",
        "endpoint": work.options["snowflake"],
        "allow_http": True,
    }
    measured = deliver(work, sink(name, "snowflake", config, cut))
    with (
        snowflake.connector.connect(
            account="acme-test",
            user="milkrun",
            password="not-a-secret",
            host="127.0.0.1",
            port=int(work.options["snowflake"].rpartition(":")[2]),
            protocol="http",
            database=database,
            schema="SHOP",
        ) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(f"SELECT COUNT(DISTINCT _OFFSET), COUNT(*) FROM {TOPIC.upper()}")
        found = cursor.fetchone()
    if found != (work.events, work.events):
        raise RuntimeError(f"{database} holds {found} events, {work.events} are due")
    return measured
