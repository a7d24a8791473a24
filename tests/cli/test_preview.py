"""The command preview: an interrupt ends the listening once, and the command the second time."""

from __future__ import annotations

import signal

import pytest

from milkrun.cli.preview import _interruptible


def test_an_interrupt_is_taken_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), _interruptible() as stop:
        assert not stop.is_set()
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set()
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
