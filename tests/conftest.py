"""Fixtures for every test: the outside needs of `tests.needs`, ready to name as arguments."""

import os
from pathlib import Path

import pytest

from tests.needs import need_server, need_shared


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


@pytest.fixture(scope="session")
def promtool() -> Path:
    """Prometheus' checker of metrics and rules."""
    return need_server("promtool")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder shared beside the checkout."""
    return need_shared()
