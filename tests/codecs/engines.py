"""The JSON engines, which have to give the same answers: plain Python, and the compiled package where it is installed.

Under CI a missing package fails the tests that need it: nothing passes there that ran on one engine only.
"""

from __future__ import annotations

from functools import cache

from milkrun.codecs.json import engine
from milkrun.codecs.json.native import NativeEngine
from milkrun.compiled import compiled, load
from tests.needs import require

ENGINES = ("python", "native")


@cache
def _native() -> NativeEngine | None:
    try:
        return NativeEngine(load())
    except ImportError:
        return None


def need_native() -> NativeEngine:
    """The compiled engine."""
    native = _native()
    require("milkrun-native isn't installed, or is another version's: make native", native is not None)
    assert native is not None
    return native


def forget_engine() -> None:
    """Have the choice of this process made anew."""
    compiled.cache_clear()
    engine.cache_clear()
