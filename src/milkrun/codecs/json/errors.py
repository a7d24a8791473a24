"""Why a row was refused, as a table: row, a short code, the path in the body, a sentence, and the byte where it was noticed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

ERROR_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("code", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
        pa.field("byte_offset", pa.int64()),
    ]
)


@dataclass(frozen=True, slots=True)
class RowError:
    """One refused row. Codes: empty, utf8, surrogate, syntax, trailing, depth, not_object, missing, type, range, format, keyword."""

    code: str
    message: str
    path: str = ""
    byte_offset: int | None = None


class Undecodable(Exception):
    """A body or a value that is refused; `path` grows from the inside out."""

    def __init__(self, code: str, message: str, byte_offset: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.byte_offset = byte_offset
        self.path: list[str] = []

    def row_error(self) -> RowError:
        path = "".join(reversed(self.path)).removeprefix(".")
        return RowError(self.code, self.message, path, self.byte_offset)


def error_batch(errors: Mapping[int, RowError]) -> pa.RecordBatch:
    """The errors by row (`ERROR_SCHEMA`), ascending."""
    rows = sorted(errors)
    found = [errors[row] for row in rows]
    columns = [
        rows,
        [error.code for error in found],
        [error.path for error in found],
        [error.message for error in found],
        [error.byte_offset for error in found],
    ]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, ERROR_SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=ERROR_SCHEMA)
