"""Which engine a process takes, and what it says of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

from milkrun.codecs.json import engine
from milkrun.codecs.json.engine import COST
from milkrun.compiled import VARIABLE
from milkrun.model.errors import ConfigError
from tests.codecs.engines import forget_engine, need_native


@pytest.fixture(autouse=True)
def anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The choice isn't made yet, and nothing asks for an engine."""
    monkeypatch.delenv(VARIABLE, raising=False)
    forget_engine()
    yield
    forget_engine()


def test_native_where_it_is_installed() -> None:
    need_native()
    assert (engine().name, engine().note) == ("native", "")


def test_python_where_it_isnt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "milkrun_native", None)
    assert engine().name == "python"
    assert COST in engine().note
    monkeypatch.setenv(VARIABLE, "native")
    forget_engine()
    with pytest.raises(ConfigError, match="asks for milkrun-native"):
        engine()


def test_python_where_its_interface_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    other = ModuleType("milkrun_native")
    vars(other).update(INTERFACE=999, __version__="9.9")
    monkeypatch.setitem(sys.modules, "milkrun_native", other)
    assert engine().name == "python"
    assert "milkrun-native 9.9 speaks interface 999" in engine().note


def test_as_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "python")
    assert engine().name == "python"
    monkeypatch.setenv(VARIABLE, "fast")
    forget_engine()
    with pytest.raises(ConfigError, match="is 'fast'"):
        engine()
