"""`encode`: by the compiled package where this process uses it, else in plain Python."""

from __future__ import annotations

from types import ModuleType

import pyarrow as pa

from milkrun.compiled import compiled
from milkrun.encoding import native, python
from milkrun.encoding.forms import form_of
from milkrun.encoding.unfit import Unfit
from milkrun.encoding.writing import PLAINLY, Writing
from milkrun.model.errors import Refused


def encode(values: pa.RecordBatch | pa.Array, writing: Writing = PLAINLY) -> pa.BinaryArray:
    """One compact JSON text (RFC 8259, UTF-8) a row, null where the row is null; of a batch an object of its columns, in their order.

    Strings are escaped only where they must be. Numbers have the fewest digits that give them back, doubles as Python's `json` writes
    them; decimals have all their digits. Dates, times and timestamps are ISO 8601, instants in UTC with `Z` (RFC 3339). Numbers that
    aren't finite, for which JSON has no word, are the strings `NaN`, `Infinity` and `-Infinity`. Maps become objects. Text in fields
    that hold JSON goes in unchecked. For what can be chosen see `Writing`.

    Refused where JSON has no such values: bytes (but for ksqlDB), types that aren't named here, years outside 1 to 9999, times beyond a
    day; for the latter the row is named. Raises OverflowError where the texts are more than 2 GiB together.
    """
    return encode_by(compiled()[0], values, writing)


def encode_by(
    module: ModuleType | None, values: pa.RecordBatch | pa.Array, writing: Writing = PLAINLY
) -> pa.BinaryArray:
    """As `encode`, by the compiled package, or without one in plain Python."""
    array = values.to_struct_array() if isinstance(values, pa.RecordBatch) else values
    form = form_of(pa.field("", array.type), writing)
    try:
        if module is not None:
            return native.encode(module, array, form)
        return python.encode(array, form)
    except Unfit as unfit:
        raise Refused(unfit.text()) from None
    except (pa.ArrowCapacityError, pa.ArrowInvalid) as error:
        raise OverflowError("the texts would be more than 2 GiB; encode fewer rows at once") from error
