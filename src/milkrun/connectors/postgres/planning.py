"""From a cut to the rows of a table: nested fields as JSON text, and values within what PostgreSQL can hold.

All of it is a pure function of the cut and the sink's configuration; the target is not asked.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from milkrun.connectors.postgres.canonical import canonical
from milkrun.connectors.postgres.types import JSONB, PostgresType, from_arrow
from milkrun.connectors.postgres.values import (
    json_without_oddities,
    text_without_nul,
    times_within_range,
)
from milkrun.plugin.sink import Events, FileContent, TableRows
from milkrun.tables.documents import documents
from milkrun.tables.names import table_name
from milkrun.tables.plans import Column, TablePlan
from milkrun.tables.rows import rows_of

LONGEST_NAME = 63
"""Bytes of an identifier; the server would cut off the rest without a word."""

LONGEST_TABLE = LONGEST_NAME - len("__g999999")
"""Bytes of a table's plain name, which leave room for the number of a generation beside it."""


class PostgresPlan(TablePlan[PostgresType]):
    """Rows for a table of PostgreSQL; those of `jsonb` columns are JSON text."""

    def outputs(self) -> Sequence[TableRows | FileContent]:
        """As `TablePlan.outputs`; JSON as `canonical` writes it."""
        rows = self.rows
        for index, column in enumerate(self.columns):
            if column.type == JSONB:
                rows = rows.set_column(index, column.name, canonical(rows.column(index)))
        columns = tuple((column.name, column.type.sql) for column in self.columns)
        return [TableRows(f"{self.schema}.{self.table}", columns, rows, self.replaced)]


def plan_rows(events: Events, *, schema: str, template: str, upsert: bool) -> PostgresPlan:
    """The plan of a cut. Refused where a field's type or the topic's table name is impossible."""
    rows = rows_of(events, upsert=upsert, longest=LONGEST_NAME, nul_in_text=False)
    fields = rows.table.schema
    columns = tuple(Column(field.name, from_arrow(field)) for field in fields)
    values = {field.name: _values(rows.table.column(field.name), field) for field in fields}
    table = table_name(template, events.partition.topic, longest=LONGEST_TABLE)
    return PostgresPlan(events, schema, table, columns, pa.table(values), rows.replaced)


def _values(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    kind = field.type
    if from_arrow(field) == JSONB:
        return json_without_oddities(documents(column, field), field)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return text_without_nul(column)
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        return times_within_range(column)
    return column
