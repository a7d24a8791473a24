"""The compiled package `milkrun-native`, built from `native/`: whether this process uses it, and why not.

The choice is made once a process, when it is first asked for, and is the same for all that the package does.
"""

from __future__ import annotations

import os
from functools import lru_cache
from importlib import import_module
from types import ModuleType

import pyarrow as pa

from milkrun.model.errors import ConfigError

VARIABLE = "MILKRUN_JSON_ENGINE"
"""Environment variable that names the engine, `native` or `python`; unset, the compiled one where it is there."""

INTERFACE = 3
"""What of the package Milkrun speaks to; it grows with each change of either."""


def load() -> ModuleType:
    """The package. Raises ImportError where it isn't installed, or speaks another interface."""
    module = import_module("milkrun_native")
    if module.INTERFACE != INTERFACE:
        raise ImportError(
            f"milkrun-native {module.__version__} speaks interface {module.INTERFACE}, this Milkrun {INTERFACE}: "
            "install the two of the same release"
        )
    return module


@lru_cache(maxsize=1)
def compiled() -> tuple[ModuleType | None, str]:
    """The package, or None and the reason. Raises ConfigError where the environment names an engine that isn't there."""
    wanted = os.environ.get(VARIABLE, "")
    if wanted not in ("", "native", "python"):
        raise ConfigError(f"{VARIABLE} is {wanted!r}", "set it to native or python, or not at all")
    if wanted == "python":
        return None, f"{VARIABLE} asks for it"
    try:
        return load(), ""
    except ImportError as error:
        if wanted == "native":
            raise ConfigError(f"{VARIABLE} asks for milkrun-native: {error}", "install it") from error
        missing = isinstance(error, ModuleNotFoundError)
        return None, "milkrun-native isn't installed" if missing else str(error)


class Exported:
    """A column of the package together with its type, as Arrow takes them."""

    def __init__(self, schema: pa.Schema | pa.DataType, capsule: object) -> None:
        self._schema = schema
        self._capsule = capsule

    def __arrow_c_array__(self, requested_schema: object = None) -> tuple[object, object]:
        return self._schema.__arrow_c_schema__(), self._capsule
