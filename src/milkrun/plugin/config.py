"""One declaration per connector of what can be configured: a frozen dataclass with `option()` fields.

Validation, the CLI's help, the docs and any form are derived from it, so that they can't drift apart. Values arrive as YAML
gives them; `parse` returns the dataclass or raises ConfigErrors that name each value, what is wrong and what would be right.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from milkrun.model.errors import ConfigError, ConfigErrors

Seconds = Annotated[float, "duration"]
"""A span of time: `500ms`, `30s`, `5m`, `1h`, `7d`, or a number of seconds."""

Bytes = Annotated[int, "size"]
"""A size: `512`, `64KB`, `64MB`, `1GB` (powers of 1024)."""

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_BYTES = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}

T = TypeVar("T")


class Secret(str):
    """Text that is never printed: `repr`, `format` and logs show asterisks; `reveal` gives it to a client library."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"

    def __str__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return "***"

    def reveal(self) -> str:
        return str.__str__(self)


def option(
    help: str,
    *,
    default: Any = dataclasses.MISSING,
    example: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
) -> Any:
    """A dataclass field that a user can set. Without a default it is required; `example` is how it looks in YAML."""
    metadata = {"help": help, "example": example, "minimum": minimum, "maximum": maximum}
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=lambda: default.copy(), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True, slots=True)
class OptionInfo:
    """One option as documentation shows it."""

    name: str
    type: str
    help: str
    required: bool
    default: str
    example: str


def describe(config: type[Any]) -> list[OptionInfo]:
    """The options of a configuration class, in their order."""
    hints = typing.get_type_hints(config, include_extras=True)
    infos = []
    for item in dataclasses.fields(config):
        missing = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        default = item.default_factory() if item.default_factory is not dataclasses.MISSING else item.default
        infos.append(
            OptionInfo(
                item.name,
                type_name(hints[item.name]),
                item.metadata.get("help", ""),
                missing,
                "" if missing or default is None else str(default),
                item.metadata.get("example", ""),
            )
        )
    return infos


def parse(config: type[T], raw: Mapping[str, Any], *, path: tuple[str | int, ...] = ()) -> T:
    """A `config` from plain values. Raises ConfigErrors with every mistake, each with its path below `path`.

    What `config` itself raises (in `__post_init__`) has paths that begin at its own options.
    """
    errors: list[ConfigError] = []
    hints = typing.get_type_hints(config, include_extras=True)
    fields = {item.name: item for item in dataclasses.fields(typing.cast(Any, config))}
    values: dict[str, Any] = {}
    for name in raw:
        if name not in fields:
            errors.append(ConfigError(f"unknown option {name!r}", suggest(name, fields), path=(*path, name)))
    for name, item in fields.items():
        if name not in raw:
            if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
                errors.append(
                    ConfigError(
                        f"option {name!r} is missing",
                        f"give {type_name(hints[name])}: {item.metadata['help']}",
                        path=path,
                    )
                )
            continue
        try:
            values[name] = convert(hints[name], raw[name], (*path, name))
            _check_range(item, hints[name], values[name], (*path, name))
        except ConfigErrors as several:
            errors.extend(several.errors)
        except ConfigError as error:
            errors.append(error)
    if errors:
        raise ConfigErrors(errors)
    try:
        return config(**values)
    except (ConfigError, ConfigErrors) as error:
        own = error.errors if isinstance(error, ConfigErrors) else [error]
        below = [ConfigError(each.what, each.remedy, path=(*path, *each.path)) for each in own]
        raise ConfigErrors(below) from None


def suggest(name: str, known: Iterable[str]) -> str:
    """What to write instead of an unknown name: the nearest known one, if any is near, and all that are known."""
    names = list(known)
    nearest = difflib.get_close_matches(name, names, n=1)
    perhaps = f"perhaps {nearest[0]!r} is meant; " if nearest else ""
    return f"{perhaps}known are: {', '.join(names) or 'nothing'}"


def convert(hint: Any, value: Any, path: tuple[str | int, ...]) -> Any:
    """`value` as the type `hint` wants it. Raises ConfigError (ConfigErrors for a nested configuration)."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return (parse_duration if args[1] == "duration" else parse_size)(value, path)
    if origin is types.UnionType or origin is typing.Union:
        if value is None and type(None) in args:
            return None
        return convert(next(arg for arg in args if arg is not type(None)), value, path)
    if origin is Literal:
        if any(type(arg) is type(value) and arg == value for arg in args):
            return value
        raise _wrong(hint, value, path)
    if origin in (list, Sequence):
        if not isinstance(value, list):
            raise _wrong(hint, value, path)
        return [convert(args[0], item, (*path, index)) for index, item in enumerate(value)]
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise _wrong(hint, value, path)
        return {str(key): convert(args[1], item, (*path, str(key))) for key, item in value.items()}
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise _wrong(hint, value, path)
        return parse(typing.cast(type[Any], hint), value, path=path)
    return _scalar(hint, value, path)


_SCALARS: dict[Any, Callable[[Any], bool]] = {
    str: lambda value: isinstance(value, str),
    Secret: lambda value: isinstance(value, str),
    Path: lambda value: isinstance(value, str) and value != "",
    bool: lambda value: isinstance(value, bool),
    int: lambda value: isinstance(value, int) and not isinstance(value, bool),
    float: lambda value: isinstance(value, int | float) and not isinstance(value, bool),
}


def _scalar(hint: Any, value: Any, path: tuple[str | int, ...]) -> Any:
    if hint is Any:
        return value
    if not _SCALARS[hint](value):
        raise _wrong(hint, value, path)
    return hint(value)


def _check_range(item: Any, hint: Any, value: Any, path: tuple[str | int, ...]) -> None:
    low, high = item.metadata.get("minimum"), item.metadata.get("maximum")
    if value is None or not isinstance(value, int | float):
        return
    if (low is not None and value < low) or (high is not None and value > high):
        bounds = f"from {_amount(hint, low)} " if low is not None else ""
        bounds += f"up to {_amount(hint, high)}" if high is not None else "upwards"
        raise ConfigError(f"{_amount(hint, value)} is out of range", f"give a value {bounds}", path=path)


def _amount(hint: Any, value: float) -> str:
    """A number as one would write it there: bytes in the largest unit that gives a whole number."""
    if "size" in type_name(hint) and value:
        unit = next(unit for unit in ("t", "g", "m", "k", "") if value % _BYTES[unit] == 0)
        return f"{int(value) // _BYTES[unit]}{unit.upper()}B" if unit else str(value)
    return str(value) if isinstance(value, int) else f"{value:g}"


def type_name(hint: Any) -> str:
    """How documentation and errors call a type: `text`, `duration`, `list of text`, `one of a, b`."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return str(args[1])
    if origin is types.UnionType or origin is typing.Union:
        return type_name(next(arg for arg in args if arg is not type(None)))
    if origin is Literal:
        return "one of " + ", ".join(str(arg) for arg in args)
    if origin in (list, Sequence):
        return f"list of {type_name(args[0])}"
    if origin in (dict, Mapping):
        return f"mapping to {type_name(args[1])}"
    names = {
        str: "text",
        Secret: "secret",
        Path: "path",
        bool: "true or false",
        int: "whole number",
        float: "number",
        Any: "value",
    }
    return names.get(hint, "mapping")


def _wrong(hint: Any, value: Any, path: tuple[str | int, ...]) -> ConfigError:
    shown = "***" if hint is Secret else repr(value)[:60]
    wanted = type_name(hint).replace("list of mapping", "list of mappings")
    if wanted.startswith(("mapping", "list", "whole", "number", "path", "secret")):
        wanted = f"a {wanted}"
    return ConfigError(f"{shown} is not {wanted}", f"give {wanted}", path=path)


def parse_duration(value: Any, path: tuple[str | int, ...] = ()) -> float:
    """Seconds of `1h30m`, `500ms` or a number. Raises ConfigError."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return float(value)
    text = value.replace(" ", "") if isinstance(value, str) else ""
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ConfigError(
            f"{value!r} is not a duration", "write for example 500ms, 30s, 5m, 1h or 7d", path=path
        )
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def parse_size(value: Any, path: tuple[str | int, ...] = ()) -> int:
    """Bytes of `64MB` or a number. Raises ConfigError."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = (
        re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", value.strip().lower())
        if isinstance(value, str)
        else None
    )
    if not match:
        raise ConfigError(f"{value!r} is not a size", "write for example 512, 64KB, 64MB or 1GB", path=path)
    return int(float(match[1]) * _BYTES[match[2]])
