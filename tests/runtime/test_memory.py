"""The allocator's settings: taken by glibc, left alone elsewhere."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator

import pytest

from milkrun.runtime import memory


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    memory.keep_freed.cache_clear()
    yield
    memory.keep_freed.cache_clear()


class _Library:
    """A C library that notes what it is told."""

    def __init__(self, answer: int) -> None:
        self.told: list[tuple[int, int]] = []

        def mallopt(name: int, value: int) -> int:
            self.told.append((name, value))
            return answer

        self.mallopt = mallopt


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux's")
def test_glibc_takes_what_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    if not memory._is_glibc():
        pytest.skip("another C library")
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    assert memory.keep_freed()


@pytest.mark.parametrize("answer", [1, 0])
def test_it_says_whether_the_library_took_all(monkeypatch: pytest.MonkeyPatch, answer: int) -> None:
    library = _Library(answer)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(memory, "_is_glibc", lambda: True)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: library)
    assert memory.keep_freed() == (answer == 1)
    assert [name for name, _ in library.told] == [-3, -1, -2]
    memory.keep_freed()
    assert len(library.told) == 3


@pytest.mark.parametrize(
    ("variable", "glibc"), [("GLIBC_TUNABLES", True), ("MILKRUN_NOTHING", False)], ids=["tunables", "other"]
)
def test_elsewhere_nothing_is_touched(monkeypatch: pytest.MonkeyPatch, variable: str, glibc: bool) -> None:
    library = _Library(1)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setenv(variable, "glibc.malloc.trim_threshold=1")
    monkeypatch.setattr(memory, "_is_glibc", lambda: glibc)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: library)
    assert not memory.keep_freed()
    assert library.told == []
