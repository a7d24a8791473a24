"""Fixtures for every test: the outside needs of `tests.needs`, ready to name as arguments."""

from pathlib import Path

import pytest

from tests.needs import need_server, need_shared


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
