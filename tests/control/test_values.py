"""Values of tables as people write them down."""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow as pa

from milkrun.control.values import plain_rows


def test_maps_are_objects_at_every_depth() -> None:
    inner = pa.map_(pa.string(), pa.timestamp("us", "UTC"))
    column = pa.array(
        [{"a": [{"x": datetime(2026, 11, 24, tzinfo=UTC), "": None}]}, {}, None],
        pa.map_(pa.string(), pa.list_(inner)),
    )
    assert plain_rows(pa.table({"m": column})) == [
        {"m": {"a": [{"x": "2026-11-24T00:00:00Z", "": None}]}},
        {"m": {}},
        {"m": None},
    ]
