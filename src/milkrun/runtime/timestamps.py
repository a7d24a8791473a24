"""Times as producers write them, to Unix milliseconds.

RFC 3339 with an offset (section 5.6), or a number: below 100,000,000,000 it is seconds (up to the year 5138), else milliseconds.
"""

from __future__ import annotations

from datetime import datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from milkrun.model.batch import TIMESTAMP

_SECONDS_BELOW = 1e11
_LATEST = 253_402_300_800_000  # 10000-01-01
_RFC_3339 = r"^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)$"


def parse_timestamps(texts: pa.StringArray) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    """The times (`TIMESTAMP`, null where the text is null or wrong) and the rows whose text is no time."""
    numeric = pc.match_substring_regex(texts, r"^\d+(\.\d+)?$").fill_null(False)
    written = pc.match_substring_regex(texts, _RFC_3339).fill_null(False)
    numbers = pc.if_else(numeric, texts, None).cast(pa.float64()).to_numpy(zero_copy_only=False)
    with np.errstate(invalid="ignore"):
        scaled = np.where(numbers < _SECONDS_BELOW, numbers * 1000, numbers)
        usable = np.isfinite(scaled) & (scaled < _LATEST)
        from_numbers = pa.array(np.where(usable, scaled, 0).astype(np.int64), mask=~usable)
    from_texts = _parse_texts(pc.if_else(written, texts, None))
    times = pc.coalesce(from_numbers, from_texts)
    wrong = pc.and_(texts.is_valid(), times.is_null())
    return times.cast(TIMESTAMP), np.flatnonzero(wrong.to_numpy(zero_copy_only=False))


def _parse_texts(texts: pa.StringArray) -> pa.Array:
    if texts.null_count == len(texts):
        return pa.nulls(len(texts), pa.int64())
    try:
        return texts.cast(pa.timestamp("us", tz="UTC")).cast(TIMESTAMP, safe=False).cast(pa.int64())
    except pa.ArrowInvalid:
        return pa.array([_parse_text(text) for text in texts.to_pylist()], pa.int64())


def _parse_text(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return int(datetime.fromisoformat(text.upper()).timestamp() * 1000 // 1)
    except ValueError:
        return None
