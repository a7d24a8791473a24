"""Which rows of a column of ids are new: what both logs do around their own look-up of the ids they have seen."""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def unseen_rows(ids: pa.Array, fresh: Callable[[list[bytes]], Collection[bytes]]) -> pa.BooleanArray:
    """Of the rows of `ids` (binary or string) those that nobody has seen; `fresh` is called once with the distinct ids, unless there
    are none, and gives those of them that are new. A null is always unseen; of equal ids only the first is.
    """
    encoded = ids.cast(pa.binary()).dictionary_encode()
    distinct: list[bytes] = encoded.dictionary.to_pylist()
    if not distinct:
        return pa.array([True] * len(ids), pa.bool_())
    new = fresh(distinct)
    if len(new) == len(distinct) == len(ids):
        return pa.array(np.ones(len(ids), np.bool_))
    known = set(new)
    return pa.array(spread(encoded, np.array([value in known for value in distinct], np.bool_)))


def spread(encoded: pa.DictionaryArray, fresh: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Which rows of a column are unseen, given which of its distinct ids are new: of equal ids the first, and every null."""
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    firsts = np.zeros(len(codes), np.bool_)
    present = np.flatnonzero(codes >= 0)
    _, where = np.unique(codes[present], return_index=True)
    firsts[present[where]] = True
    return np.where(codes < 0, True, firsts & fresh[np.maximum(codes, 0)])
