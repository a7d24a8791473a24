"""What is wrong with a row: the codes, the errors batch, and the exception that carries one inside this package.

A message says what was found and what is due, in kinds and limits; it never repeats a value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum

import pyarrow as pa

ERRORS_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("code", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
        pa.field("byte_offset", pa.int64()),
    ]
)
"""One entry a failed row, ascending. `path` is like `order.items[2].price`, empty for the whole event; `byte_offset` counts from
the row's first byte to the value (or, for a missing one, the object that lacks it), null where no place can be named."""

Steps = tuple[str | int, ...]
"""Leads from the event to a value: names of fields, keys of maps, and indexes of list items."""

_MAX_STEP = 100


class Code(StrEnum):
    """Why a row fails. Of several reasons any one may be given."""

    EMPTY = "empty"
    """No bytes, or white space only."""
    UTF8 = "utf8"
    """Invalid UTF-8, or an escape that is half of a surrogate pair."""
    SYNTAX = "syntax"
    """Not one JSON text as RFC 8259 defines it."""
    DEPTH = "depth"
    """Nested deeper than allowed."""
    NOT_OBJECT = "not_object"
    """A JSON text, but not an object."""
    TYPE = "type"
    """A value of another kind than the schema's."""
    RANGE = "range"
    """A number that the field's type can't hold exactly (for double: at all)."""
    FORMAT = "format"
    """A string that is no timestamp, date, time or decimal as required."""
    REQUIRED = "required"
    """Missing or null where that isn't allowed."""
    UNKNOWN_FIELD = "unknown_field"
    """A field where the schema allows no others."""
    CONSTRAINT = "constraint"
    """Right in type, but breaks another keyword of the JSON Schema."""


class RowError(Exception):
    """Why one row fails, raised and caught within this package. `offset` is in bytes, where it is known already."""

    def __init__(self, code: Code, message: str, steps: Steps = (), offset: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.steps = steps
        self.offset = offset


def path_text(steps: Steps) -> str:
    """The steps as people write them; long names are cut."""
    text = ""
    for step in steps:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            name = step if len(step) <= _MAX_STEP else step[:_MAX_STEP] + "…"
            text += f".{name}" if text else name
    return text.encode(errors="backslashreplace").decode()


def errors_batch(errors: Mapping[int, RowError]) -> pa.RecordBatch:
    """The errors of some rows as one batch of `ERRORS_SCHEMA`."""
    rows = sorted(errors)
    each: Sequence[RowError] = [errors[row] for row in rows]
    columns: list[Iterable[object]] = [
        rows,
        [str(error.code) for error in each],
        [path_text(error.steps) for error in each],
        [error.message for error in each],
        [error.offset for error in each],
    ]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, ERRORS_SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=ERRORS_SCHEMA)
