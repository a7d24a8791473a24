"""Fixtures for every test: the outside needs of `tests.needs`, ready to name as arguments."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from milkrun.testing.kafka_cluster import KafkaCluster
from tests.needs import need_kafka, need_server, need_shared
from tests.servers.postgres import PostgresServer


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Under CI a skipped test is a failed run: a green one has run everything."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") == "true" and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def rabbitmq_server() -> Path:
    """The program of a RabbitMQ broker; the test starts its own."""
    return need_server("rabbitmq-server")


@pytest.fixture(scope="module")
def kafka() -> Iterator[str]:
    """Where a Kafka broker listens, for `bootstrap.servers`: one a module, in which each test names topics of its own.

    A test that stops its broker, or wants another, makes a `KafkaCluster` and calls `need_kafka` first.
    """
    need_kafka()
    with KafkaCluster() as cluster:
        yield cluster.bootstrap


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server, in which each test uses a schema of its own.

    A test that stops its server makes a `PostgresServer` itself.
    """
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def kcat() -> Path:
    """A Kafka client that isn't ours."""
    return need_server("kcat")


@pytest.fixture(scope="session")
def promtool() -> Path:
    """Prometheus' checker of metrics and rules."""
    return need_server("promtool")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder shared beside the checkout."""
    return need_shared()
