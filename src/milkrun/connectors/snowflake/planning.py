"""From a cut to the rows of a table, under the names and with the types that Snowflake has.

All of it is a pure function of the cut and the sink's configuration; the target is not asked.
"""

from __future__ import annotations

import pyarrow as pa

from milkrun.connectors.snowflake.names import LONGEST, LONGEST_TABLE, stored
from milkrun.connectors.snowflake.types import VARCHAR, ColumnType, as_shown, from_arrow
from milkrun.plugin.sink import Events
from milkrun.tables.names import table_name
from milkrun.tables.plans import Column, TablePlan
from milkrun.tables.rows import INCARNATION, rows_of


class SnowflakePlan(TablePlan[ColumnType]):
    """Rows for a table of Snowflake. Every row names its topic's incarnation."""


def plan_rows(events: Events, *, schema: str, template: str, upsert: bool) -> SnowflakePlan:
    """The plan of a cut. Refused where a field's type or the topic's table name is impossible."""
    rows = rows_of(events, upsert=upsert, longest=LONGEST)
    fields = list(rows.table.schema)
    columns = [Column(stored(field.name), from_arrow(field)) for field in fields]
    values = [as_shown(rows.table.column(index), field) for index, field in enumerate(fields)]
    columns.append(Column(stored(INCARNATION), VARCHAR))
    values.append(pa.chunked_array([pa.repeat(pa.scalar(events.incarnation), rows.table.num_rows)]))
    replaced = rows.replaced
    if replaced is not None:
        replaced = replaced.rename_columns([stored(name) for name in replaced.column_names])
    table = pa.table(values, names=[column.name for column in columns])
    return SnowflakePlan(
        events, schema, stored_table(template, events.partition.topic), tuple(columns), table, replaced
    )


def stored_table(template: str, topic: str) -> str:
    """The stored name of a topic's table. Refused where that is a table of Milkrun's own."""
    return stored(table_name(template, topic, longest=LONGEST_TABLE))
