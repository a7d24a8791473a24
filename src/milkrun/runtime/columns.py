"""Small operations on whole columns of events: header look-ups, added headers, grouping by value.

Nothing here touches events one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from milkrun.model.batch import HEADER, HEADERS, TIMESTAMP

Rows = npt.NDArray[np.int64]


def times(at: int, rows: int) -> pa.Array:
    """`rows` times the same time (Unix ms), as `TIMESTAMP`."""
    return pa.Array.from_buffers(TIMESTAMP, rows, [None, pa.py_buffer(np.full(rows, at, np.int64))])


def header_values(headers: pa.ListArray, name: str) -> pa.BinaryArray:
    """The last value of the header `name` in each row; null where there is none."""
    flat = headers.flatten()
    if not len(flat):
        return pa.nulls(len(headers), pa.binary())
    hits = np.flatnonzero(pc.equal(flat.field("key"), name).to_numpy(zero_copy_only=False))
    rows = headers.value_parent_indices().to_numpy(zero_copy_only=False)[hits]
    picked = np.full(len(headers), -1, np.int64)
    picked[rows] = hits
    indices = pa.array(picked, mask=picked < 0)
    return flat.field("value").take(indices)


def with_headers(headers: pa.ListArray, extra: Sequence[tuple[str, pa.BinaryArray]]) -> pa.ListArray:
    """`headers` with one more header a row for each of `extra`, where its value is not null."""
    if not extra:
        return headers
    rows = len(headers)
    flat = headers.flatten()
    if not len(flat) and len(extra) == 1 and not extra[0][1].null_count:
        return _one_each(*extra[0])
    counts = np.diff(headers.offsets.to_numpy())
    keys, values = [flat.field("key")], [flat.field("value")]
    owners = [np.repeat(np.arange(rows, dtype=np.int64), counts)]
    for name, column in extra:
        present = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
        keys.append(pa.repeat(pa.scalar(name), len(present)))
        values.append(column.take(pa.array(present)).cast(pa.binary()))
        owners.append(present)
    owner = np.concatenate(owners)
    order = pa.array(np.argsort(owner, kind="stable"))
    items = pa.StructArray.from_arrays(
        [pa.concat_arrays(keys).take(order), pa.concat_arrays(values).take(order)], fields=list(HEADER)
    )
    offsets = np.zeros(rows + 1, np.int32)
    np.cumsum(np.bincount(owner, minlength=rows), out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), items, type=HEADERS)


def _one_each(name: str, values: pa.BinaryArray) -> pa.ListArray:
    """Headers of one name alone, each with a value."""
    items = pa.StructArray.from_arrays([pa.repeat(pa.scalar(name), len(values)), values], fields=list(HEADER))
    return pa.ListArray.from_arrays(pa.array(np.arange(len(values) + 1, dtype=np.int32)), items, type=HEADERS)


def groups(column: pa.Array) -> Iterator[tuple[object, Rows]]:
    """Each distinct value of a column (dictionary-encoded or not) with the rows that have it, ascending; nulls come last."""
    encoded = column if isinstance(column, pa.DictionaryArray) else column.dictionary_encode()
    values = encoded.dictionary.to_pylist()
    if len(values) == 1 and len(encoded) and not encoded.null_count:
        yield values[0], np.arange(len(encoded))
        return
    codes = encoded.indices.fill_null(len(values)).to_numpy(zero_copy_only=False)
    order = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes[order], np.arange(len(values) + 2))
    for code, value in enumerate([*values, None]):
        if bounds[code] < bounds[code + 1]:
            yield value, order[bounds[code] : bounds[code + 1]]


def rows_of(mask: npt.NDArray[np.bool_]) -> Rows:
    """The indexes at which `mask` is true."""
    return np.flatnonzero(mask)


def one_chunk(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """The column as a single array."""
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
