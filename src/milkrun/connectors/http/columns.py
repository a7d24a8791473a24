"""Many requests' rows as the columns of one `Received`, built whole columns at a time."""

from __future__ import annotations

from itertools import chain

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from milkrun.connectors.http.ids import Ids
from milkrun.connectors.http.rows import Rows
from milkrun.connectors.http.waiting import Request, Settled
from milkrun.model.batch import HEADER, HEADERS, no_headers
from milkrun.plugin import Fault, Outcome, Received

CE_ATTRIBUTES = ("id", "type", "source", "subject", "time")


def received_of(requests: list[Request], ids: Ids | None = None) -> Received:
    """All rows in the order of the requests; the token is the requests. Those whose client brought no ids get some of `ids`."""
    rows = [request.rows for request in requests]
    without = [] if ids is None else [each for each in rows if each.ids is None]
    given = _give(without, ids) if ids is not None and without else None
    values = pa.concat_arrays([each.values for each in rows]) if len(rows) > 1 else rows[0].values
    return Received(
        values=values,
        headers=_headers(rows, len(values)),
        attributes=_attributes(rows, given if len(without) == len(rows) else None),
        token=requests,
        faults=_faults(rows),
        validated=all(each.validated for each in rows),
        made_ids=_made(rows) if given is not None else None,
    )


def settled_of(requests: list[Request], outcome: Outcome) -> list[Settled]:
    """What became of each request's rows."""
    if not outcome.refused and not outcome.duplicate.any():
        return [Settled(len(request.rows)) for request in requests]
    counts = np.array([len(request.rows) for request in requests], np.int64)
    starts = np.concatenate(([0], np.cumsum(counts)))
    seen = np.concatenate(([0], np.cumsum(outcome.duplicate)))
    duplicates = (seen[starts[1:]] - seen[starts[:-1]]).tolist()
    refused: list[list[tuple[int, str, str]]] = [[] for _ in requests]
    rows = np.array(sorted(outcome.refused), np.int64)
    for row, owner in zip(rows.tolist(), (np.searchsorted(starts, rows, "right") - 1).tolist(), strict=True):
        fault = outcome.refused[row]
        refused[owner].append((row - int(starts[owner]), fault.code, fault.message))
    return [
        Settled(count - twice - len(wrong), twice, tuple(wrong))
        for count, twice, wrong in zip(counts.tolist(), duplicates, refused, strict=True)
    ]


def _made(rows: list[Rows]) -> npt.NDArray[np.bool_]:
    """Whether the id of a row was given here."""
    return np.repeat([bool(each.given) for each in rows], [len(each) for each in rows])


def _give(rows: list[Rows], ids: Ids) -> pa.StringArray:
    """Give ids to rows that have none, and to their answers; returns all of them, in the order of the rows."""
    given = ids.give(sum(map(len, rows)))
    start = 0
    for each in rows:
        each.ids, each.given = given.column.slice(start, len(each)), given.json(start, len(each))
        start += len(each)
    return given.column


def _faults(rows: list[Rows]) -> list[Fault]:
    faults: list[Fault] = []
    start = 0
    for each in rows:
        if each.faults:
            faults += [Fault(start + fault.row, fault.code, fault.message) for fault in each.faults]
        start += len(each)
    return faults


def _attributes(rows: list[Rows], ids: pa.StringArray | None) -> dict[str, pa.StringArray]:
    """Only those that any row has; `ids` where those of all rows are one column already."""
    found: dict[str, pa.StringArray] = {}
    if ids is not None:
        found["id"] = ids
    elif any(each.ids is not None for each in rows):
        found["id"] = pa.concat_arrays(
            [each.ids if each.ids is not None else pa.nulls(len(each), pa.string()) for each in rows]
        )
    if any(each.events is not None for each in rows):
        events = list(
            chain.from_iterable(
                each.events if each.events is not None else [None] * len(each) for each in rows
            )
        )
        for name in CE_ATTRIBUTES:
            column = [None if event is None else getattr(event, name) for event in events]
            found[f"ce.{name}"] = pa.array(column, pa.string())
    return found


def _headers(rows: list[Rows], count: int) -> pa.ListArray:
    """The headers of each request, with every row of it."""
    if not any(each.headers for each in rows):
        return no_headers(count)
    names: list[str] = []
    values: list[bytes] = []
    for each in rows:
        names += [name for name, _ in each.headers] * len(each)
        values += [value for _, value in each.headers] * len(each)
    lengths = np.repeat([len(each.headers) for each in rows], [len(each) for each in rows])
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    pairs = pa.StructArray.from_arrays(
        [pa.array(names, pa.string()), pa.array(values, pa.binary())], fields=list(HEADER)
    )
    return pa.ListArray.from_arrays(pa.array(offsets), pairs, type=HEADERS)
