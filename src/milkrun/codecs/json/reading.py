"""How events are read, beyond what their schema says: the same for every engine."""

from __future__ import annotations

from dataclasses import dataclass

MAX_DEPTH = 128
"""Levels of objects and arrays that an event may have unless a caller says otherwise."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How events are read.

    `rest` asks for the rest column. With `ignore_case` names match whatever their case. With `coerce` the text of a number is taken
    where a number is due, and the JSON text of any value where a string is, as ksqlDB does.
    """

    rest: bool = False
    max_depth: int = MAX_DEPTH
    ignore_case: bool = False
    coerce: bool = False

    @property
    def literal(self) -> bool:
        """Whether names and kinds of values must be those of the schema."""
        return not (self.ignore_case or self.coerce)


LITERALLY = Reading()
