"""Tables whose schemas have grown from one to the next, one below the other."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa


def stacked(tables: Sequence[pa.Table]) -> pa.Table:
    """All rows in the order of the tables. A column that a table lacks is null there; of types that differ the wider one counts, and
    objects have all members of either. A column whose types no type can hold becomes text.
    """
    tables = [table.replace_schema_metadata(None) for table in tables if table.num_columns]
    if not tables:
        return pa.table({})
    for name in _conflicts([table.schema for table in tables]):
        tables = [_as_text(table, name) for table in tables]
    return pa.concat_tables(tables, promote_options="permissive")


def _conflicts(schemas: Sequence[pa.Schema]) -> list[str]:
    """The columns that have no common type."""
    found = []
    for name in dict.fromkeys(name for schema in schemas for name in schema.names):
        fields = [pa.schema([schema.field(name)]) for schema in schemas if name in schema.names]
        try:
            pa.unify_schemas(fields, promote_options="permissive")
        except pa.ArrowException:
            found.append(name)
    return found


def _as_text(table: pa.Table, name: str) -> pa.Table:
    index = table.schema.get_field_index(name)
    if index < 0:
        return table
    values = [None if value is None else str(value) for value in table.column(index).to_pylist()]
    return table.set_column(index, name, pa.array(values, pa.string()))
