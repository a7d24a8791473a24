"""Servers that benches need beside them: started once a run, of their own, on loopback; left out where the program is missing."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from milkrun.model.errors import MilkrunError
from milkrun.testing import kafka_cluster

Options = Mapping[str, Any]


@contextmanager
def running_servers(
    wanted: Collection[str], folder: Path, say: Callable[[str], None]
) -> Iterator[Mapping[str, Options]]:
    """The servers of `wanted` that could be started, each with the options that cases reach it by; `say` is told what couldn't."""
    started: dict[str, Options] = {}
    with ExitStack() as stack:
        for name in sorted(wanted):
            try:
                started[name] = stack.enter_context(_STARTERS[name](folder / f"server-{name}"))
            except NotHere as reason:
                say(f"no {name} server: {reason}")
        yield started


class NotHere(Exception):
    """The server can't be had on this machine."""


@contextmanager
def _of_tests(module: str, name: str, *arguments: object) -> Iterator[Any]:
    """A server that tests start for themselves, `name` of `tests.servers.<module>`."""
    # Pytest comes with it, so only once it is asked for.
    try:
        import pytest

        made = getattr(importlib.import_module(f"tests.servers.{module}"), name)
    except ImportError as error:
        raise NotHere(f"{error}; run it in the checkout, as `make bench` does") from error
    with ExitStack() as stack:
        try:
            server = stack.enter_context(made(*arguments))
        except (pytest.skip.Exception, pytest.fail.Exception) as outcome:
            raise NotHere(str(outcome)) from outcome
        yield server


@contextmanager
def _rabbitmq(folder: Path) -> Iterator[Options]:
    with _of_tests("rabbitmq", "Broker", folder) as broker:
        yield {"url": broker.url()}


@contextmanager
def _postgres(folder: Path) -> Iterator[Options]:
    del folder
    with _of_tests("postgres", "PostgresServer") as server:
        yield {"postgres": server.url()}


@contextmanager
def _snowflake(folder: Path) -> Iterator[Options]:
    """A stand-in: its figures say how the sink's requests compare with each other, and nothing of Snowflake."""
    folder.mkdir()
    with _of_tests("fakesnow", "running_fakesnow", folder) as server:
        yield {"snowflake": server.endpoint}


@contextmanager
def _kafka(folder: Path) -> Iterator[Options]:
    reason = kafka_cluster.missing()
    if reason is not None:
        raise NotHere(reason)
    with ExitStack() as stack:
        try:
            cluster = stack.enter_context(kafka_cluster.KafkaCluster(1, folder))
        except MilkrunError as error:
            raise NotHere(str(error)) from error
        yield {"bootstrap": cluster.bootstrap}


_STARTERS: Mapping[str, Callable[[Path], Any]] = {
    "kafka": _kafka,
    "postgres": _postgres,
    "rabbitmq": _rabbitmq,
    "snowflake": _snowflake,
}
