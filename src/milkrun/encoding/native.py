"""The compiled engine, spoken to in Arrow's C data interface; it lets other threads run meanwhile."""

from __future__ import annotations

from types import ModuleType

import pyarrow as pa

from milkrun.compiled import Exported
from milkrun.encoding.forms import Form
from milkrun.encoding.unfit import Unfit


def encode(module: ModuleType, array: pa.Array, form: Form) -> pa.BinaryArray:
    """The rows' texts. Raises Unfit with the first row that holds such a value, OverflowError beyond 2 GiB."""
    capsule, unfit = module.encode(form.described(), array)
    if unfit is not None:
        row, path, what = unfit
        raise Unfit(path, what, row)
    return pa.array(Exported(pa.binary(), capsule))
