"""JSON text in one form for each value, for comparing what is planned with what `jsonb` gives back.

`jsonb` keeps of equal names the last, orders members its own way, and writes numbers in full; `canonical` does so to both sides. It
goes value by value and is for previews alone.
"""

from __future__ import annotations

import json
from decimal import Decimal

import pyarrow as pa

_Json = None | bool | str | Decimal | list["_Json"] | dict[str, "_Json"]


def canonical(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """JSON text (string) with members sorted, no blanks, and numbers as `numeric` writes them."""
    texts = [None if text is None else canonical_text(text) for text in column.to_pylist()]
    return pa.chunked_array([pa.array(texts, pa.string())])


def canonical_text(text: str) -> str:
    """As `canonical`, of one value."""
    value: _Json = json.loads(text, parse_int=Decimal, parse_float=Decimal)
    return _written(value)


def _written(value: _Json) -> str:
    match value:
        case dict():
            members = (
                f"{json.dumps(name, ensure_ascii=False)}:{_written(value[name])}" for name in sorted(value)
            )
            return f"{{{','.join(members)}}}"
        case list():
            return f"[{','.join(_written(item) for item in value)}]"
        case Decimal():
            return _number(value)
        case _:
            return json.dumps(value, ensure_ascii=False)


def _number(value: Decimal) -> str:
    """All digits and no exponent; zero has no sign, but the digits after its point."""
    if value:
        return format(value, "f")
    exponent = value.as_tuple().exponent
    assert isinstance(exponent, int)
    return f"{0:.{max(0, -exponent)}f}"
