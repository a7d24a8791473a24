"""Errors named by what they make the caller do.

Everything Milkrun raises on purpose is a `MilkrunError`. The runtime decides by class alone: `Transient` is tried again,
`Reopen` reopens the source or sink at its stored position, `Fenced` ends the task, `Fatal` ends the process, `Refused` and
its kin need a person.
"""

from __future__ import annotations

from dataclasses import dataclass


class MilkrunError(Exception):
    """Any error that Milkrun raises on purpose. `exit_code` is what a command ends with."""

    exit_code = 1


class Transient(MilkrunError):
    """The same call may succeed later: the caller retries with backoff. `retry_after` is the other side's wish in seconds."""

    exit_code = 3

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unreachable(Transient):
    """A server can't be reached or refuses the login."""


class Reopen(MilkrunError):
    """What the connector holds open is worth nothing any more: close it, open it at the stored position."""

    exit_code = 3


class Fenced(MilkrunError):
    """Another owner has taken over: the caller stops and writes nothing more."""


class Fatal(MilkrunError):
    """Going on could lose data (a failed fsync, a damaged log): the process ends."""


class Refused(MilkrunError):
    """Milkrun will not do this, now or later; the message says why and what would be right."""


class GapError(Refused):
    """A position that the log can't explain: events would be skipped or doubled by going on."""


class NotFound(Refused):
    """A topic, pipeline, sink or dead letter of that name doesn't exist."""


class OffsetOutOfRange(Refused):
    """The offset lies before the oldest event kept, or past the end."""

    def __init__(self, message: str, *, start: int, end: int) -> None:
        super().__init__(message)
        self.start = start
        self.end = end


@dataclass(frozen=True, slots=True)
class Location:
    """A place in a project file; line and column count from 1."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


class ConfigError(Refused):
    """Something in the configuration is wrong.

    `path` leads from the root of the document to the value (keys and list indexes); `remedy` says what would be right;
    `location` is filled in by whoever knows the file.
    """

    def __init__(
        self,
        what: str,
        remedy: str,
        *,
        path: tuple[str | int, ...] = (),
        location: Location | None = None,
    ) -> None:
        self.what = what
        self.remedy = remedy
        self.path = path
        self.location = location
        super().__init__(str(self))

    def __str__(self) -> str:
        place = f"{self.location}: " if self.location else ""
        dotted = ".".join(str(part) for part in self.path)
        return f"{place}{dotted + ': ' if dotted else ''}{self.what}; {self.remedy}"


class ConfigErrors(Refused):
    """Every `ConfigError` of a project at once, in the order of files and lines."""

    def __init__(self, errors: list[ConfigError]) -> None:
        self.errors = errors
        super().__init__("\n".join(str(error) for error in errors))
