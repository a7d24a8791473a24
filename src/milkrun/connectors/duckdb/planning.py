"""From a cut to the rows of a table, under names that DuckDB can tell apart.

All of it is a pure function of the cut and the sink's configuration; the target is not asked.
"""

from __future__ import annotations

import pyarrow as pa

from milkrun.connectors.duckdb.types import ColumnType, from_arrow
from milkrun.plugin.sink import Events
from milkrun.tables.names import column_names, table_name
from milkrun.tables.plans import Column, TablePlan
from milkrun.tables.rows import rows_of


class DuckDBPlan(TablePlan[ColumnType]):
    """Rows for a table of DuckDB."""


def plan_rows(events: Events, *, schema: str, template: str, upsert: bool) -> DuckDBPlan:
    """The plan of a cut. Refused where a field's type or the topic's table name is impossible."""
    rows = rows_of(events, upsert=upsert)
    columns = tuple(Column(field.name, from_arrow(field)) for field in rows.table.schema)
    values = {field.name: _renamed(rows.table.column(field.name)) for field in rows.table.schema}
    table = table_name(template, events.partition.topic)
    return DuckDBPlan(events, schema, table, columns, pa.table(values), rows.replaced)


def _renamed(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column with members named as `from_arrow` names them."""
    wanted = _renamed_type(column.type)
    if wanted == column.type:
        return column
    return pa.chunked_array([renamed(chunk, wanted) for chunk in column.chunks], wanted)


def _renamed_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_struct(kind):
        names = column_names(member.name for member in kind)
        members = zip(names, kind, strict=True)
        return pa.struct([pa.field(name, _renamed_type(member.type)) for name, member in members])
    if pa.types.is_list(kind):
        return pa.list_(_renamed_type(kind.value_type))
    if pa.types.is_large_list(kind):
        return pa.large_list(_renamed_type(kind.value_type))
    if pa.types.is_map(kind):
        return pa.map_(kind.key_type, _renamed_type(kind.item_type))
    return kind


def renamed(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """The same values under a type that differs in the names of members alone; buffers are shared."""
    if array.type == kind:
        return array
    if pa.types.is_struct(kind):
        members = [renamed(array.field(index), kind.field(index).type) for index in range(kind.num_fields)]
        return pa.StructArray.from_arrays(members, fields=list(kind), mask=array.is_null())
    whole = array if array.offset == 0 else pa.concat_arrays([array, array.slice(0, 0)])
    buffers = whole.buffers()[:2]
    if pa.types.is_map(kind):
        members = [whole.keys, renamed(whole.items, kind.item_type)]
        values = pa.StructArray.from_arrays(members, fields=[kind.key_field, kind.item_field])
    else:
        values = renamed(whole.values, kind.value_type)
    return pa.Array.from_buffers(kind, len(whole), buffers, whole.null_count, whole.offset, children=[values])
