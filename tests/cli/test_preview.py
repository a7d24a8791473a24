"""The command preview: an interrupt ends the listening once, and the command the second time."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from milkrun.cli.preview import _interruptible


@pytest.fixture
def interrupts() -> Iterator[None]:
    """Python's own handler: a test run that was started in the background ignores interrupts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts")
def test_an_interrupt_is_taken_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), _interruptible() as stop:
        assert not stop.is_set()
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set()
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
