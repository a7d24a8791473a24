"""Rows as targets hold them, made comparable: Milkrun's own columns go by Milkrun's names, in whatever case the target keeps them."""

from __future__ import annotations

import pyarrow as pa

from milkrun.tables.names import folded
from milkrun.tables.rows import METADATA


def with_own_names(rows: pa.Table) -> pa.Table:
    """The rows with their metadata columns named as in `METADATA`."""
    # A field that was called so, in any case, has another name in a table.
    names = [folded(name) if folded(name) in METADATA else name for name in rows.column_names]
    return rows.rename_columns(names)
