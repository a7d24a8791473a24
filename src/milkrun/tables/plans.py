"""The plan of a cut for one table: what columns the rows need, the rows, and the keys whose older rows go first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import pyarrow as pa

from milkrun.plugin.sink import FileContent, Plan, TableRows


class ColumnType(Protocol):
    """A type of the target."""

    @property
    def sql(self) -> str:
        """How SQL calls it."""


T = TypeVar("T", bound=ColumnType)


@dataclass(frozen=True, slots=True)
class Column(Generic[T]):
    """A column that the rows need, or one that a table has."""

    name: str
    type: T


@dataclass(frozen=True, slots=True)
class TablePlan(Plan, Generic[T]):
    """Rows for a table.

    `rows` has `columns` in their order; all of them are inserted. With `replaced` (as in `milkrun.tables.rows.Rows`) the topic's rows
    of these keys are deleted first.
    """

    schema: str
    table: str
    columns: tuple[Column[T], ...]
    rows: pa.Table
    replaced: pa.Table | None = None

    def outputs(self) -> Sequence[TableRows | FileContent]:
        columns = tuple((column.name, column.type.sql) for column in self.columns)
        return [TableRows(f"{self.schema}.{self.table}", columns, self.rows, self.replaced)]

    def describe(self) -> list[str]:
        lines = [f"{self.events.partition} from offset {self.events.start} to {self.events.end}"]
        lines.append(f"table {self.schema}.{self.table}")
        lines += [f"  column {column.name} {column.type.sql}" for column in self.columns]
        if self.replaced is not None:
            lines.append(f"replace or delete the rows of {self.replaced.num_rows} keys")
        lines.append(f"insert {self.rows.num_rows} rows")
        return lines
