"""How events are typed: `EventSchema`, the union of two of them, and the way from and to JSON Schema documents.

An event is a JSON object; its schema gives each field an Arrow type. Open parts (objects without declared properties, lists of
mixed kinds, anything JSON Schema can't say as one type) are kept as JSON text: a string column marked by `JSON_MARK`.
"""

from milkrun.model.schema.event_schema import (
    DECIMAL_TEXT_MARK,
    JSON_MARK,
    MAX_FIELDS,
    TIMESTAMP,
    UNIT_MARK,
    EventSchema,
    count_fields,
    is_json,
    json_field,
    timestamp_unit,
)
from milkrun.model.schema.json_schema import (
    Strictness,
    from_json_schema,
    read_json_schema,
    to_json_schema,
)
from milkrun.model.schema.merging import Merged, merge

__all__ = [
    "DECIMAL_TEXT_MARK",
    "JSON_MARK",
    "MAX_FIELDS",
    "TIMESTAMP",
    "UNIT_MARK",
    "EventSchema",
    "Merged",
    "Strictness",
    "count_fields",
    "from_json_schema",
    "is_json",
    "json_field",
    "merge",
    "read_json_schema",
    "timestamp_unit",
    "to_json_schema",
]
