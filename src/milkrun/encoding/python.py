"""The engine that is always there: whole columns become columns of texts by Arrow, value by value only where it has no function.

Follows the tree of `forms`. What stands below a null is never looked at.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from milkrun.encoding import numbers
from milkrun.encoding.forms import Form, Kind
from milkrun.encoding.rest import merged
from milkrun.encoding.unfit import DAY, YEARS, Unfit

Lengths = npt.NDArray[np.int64]

_SLICE_BYTES = 32 << 20
"""What is written at a time, as columns: the text of it must fit 32-bit offsets."""

_FIRST_DAY, _LAST_DAY = -719_162, 2_932_896
"""0001-01-01 and 9999-12-31 as days since 1970."""

_SECONDS = 86_400
_SHORT = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}
_ESCAPES = [
    (chr(code), _SHORT.get(chr(code), f"\\u{code:04x}")) for code in range(0x20)
]  # `"` and the backslash have gone before


def encode(array: pa.Array, form: Form) -> pa.BinaryArray:
    """The rows' texts. Raises Unfit with the first row that holds such a value, pa.ArrowException beyond 2 GiB."""
    rows = max(1, len(array) * _SLICE_BYTES // max(array.nbytes, _SLICE_BYTES))
    pieces = [_piece(array, start, rows, form) for start in range(0, len(array), rows)]
    return pa.concat_arrays(pieces) if pieces else pa.array([], pa.binary())


def _piece(array: pa.Array, start: int, rows: int, form: Form) -> pa.BinaryArray:
    piece = array.slice(start, rows)
    try:
        return _rows(piece, form)
    except Unfit as unfit:
        found = unfit
    # The texts of so many first rows can be made.
    fitting, wrong = 0, len(piece)
    while wrong - fitting > 1:
        middle = (fitting + wrong) // 2
        try:
            _rows(piece.slice(0, middle), form)
            fitting = middle
        except Unfit as unfit:
            wrong, found = middle, unfit
    raise Unfit(found.path, found.what, start + fitting)


def _rows(array: pa.Array, form: Form) -> pa.BinaryArray:
    texts = text_of(array, form).view(pa.binary())
    for index, child in enumerate(form.children):
        if child.kind is Kind.REST:
            return merged(texts, array.field(index), form)
    return texts


def text_of(array: pa.Array, form: Form) -> pa.StringArray:
    """The JSON texts of values, null where they are null."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary.take(array.indices)
    return _WRITERS[form.kind](array, form)


def _object(array: pa.StructArray, form: Form) -> pa.StringArray:
    members = []
    for child, column in zip(form.children, array.flatten(), strict=True):
        if child.kind is Kind.REST:
            continue
        value = text_of(column, child)
        if form.nulls:
            value = pc.fill_null(value, "null")
        member = _wrapped(f",{child.key}", value, "")
        # Not by the option that skips nulls: it drops rows of nothing else.
        members.append(pc.fill_null(member, ""))
    opening = pa.repeat(pa.scalar("{"), len(array))
    joined = pc.binary_join_element_wise(opening, *members, pa.scalar("}"), pa.scalar(""))
    return _masked(pc.replace_substring(joined, "{,", "{", max_replacements=1), array)


def _list(array: pa.Array, form: Form) -> pa.StringArray:
    items = pc.fill_null(text_of(array.flatten(), form.children[0]), "null")
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    return _masked(_wrapped("[", _joined(items, lengths), "]"), array)


def _map(array: pa.MapArray, form: Form) -> pa.StringArray:
    keys, items, lengths = _entries(array)
    values = pc.fill_null(text_of(items, form.children[0]), "null")
    texts = pc.binary_join_element_wise(_quoted(keys, form), values, ":")
    return _masked(_wrapped("{", _joined(texts, lengths), "}"), array)


def _entries(array: pa.MapArray) -> tuple[pa.Array, pa.Array, Lengths]:
    """The keys and values of a map's rows one after another, and how many each row has; none of what stands below nulls.

    By hand, because the cast of a map to a list aborts the process on some slices (pyarrow 26.0.1).
    """
    offsets = array.offsets.to_numpy().astype(np.int64)
    lengths: Lengths = np.diff(offsets) * array.is_valid().to_numpy(zero_copy_only=False)
    before = np.cumsum(lengths) - lengths
    indices = pa.array(np.repeat(offsets[:-1] - before, lengths) + np.arange(lengths.sum()))
    return array.keys.take(indices), array.items.take(indices), lengths


def _joined(texts: pa.StringArray, lengths: Lengths) -> pa.StringArray:
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    return pc.binary_join(pa.ListArray.from_arrays(offsets, texts), ",")


def _quoted(array: pa.Array, form: Form) -> pa.StringArray:
    """Strings as RFC 8259 (section 7) writes them, nothing escaped that need not be."""
    text = pc.replace_substring(array.cast(pa.string()), "\\", "\\\\")
    text = pc.replace_substring(text, '"', '\\"')
    if pc.any(pc.match_substring_regex(text, r"[\x00-\x1f]")).as_py():
        for character, escape in _ESCAPES:
            text = pc.replace_substring(text, character, escape)
    return _wrapped('"', text, '"')


def _double(array: pa.Array, form: Form) -> pa.StringArray:
    values = array.to_pylist()
    if form.java:
        narrow = pa.types.is_float32(array.type)
        shortest = array.cast(pa.string()).to_pylist() if narrow else _reprs(values)
        return pa.array(numbers.java(values, shortest), pa.string())
    if pa.types.is_float32(array.type):
        return pa.array(numbers.floats(array.cast(pa.string()).to_pylist()), pa.string())
    return pa.array(numbers.doubles(values), pa.string())


def _reprs(values: list[float | None]) -> list[str | None]:
    return [None if value is None else repr(value) for value in values]


def _decimal(array: pa.Array, form: Form) -> pa.StringArray:
    text = array.cast(pa.string())
    # Arrow writes decimals as Java's BigDecimal does.
    if not form.java and pc.any(pc.match_substring(text, "E")).as_py():
        text = pa.array(
            [None if each is None else numbers.plain(each) for each in text.to_pylist()], pa.string()
        )
    return _wrapped('"', text, '"') if form.quoted else text


def _bytes(array: pa.Array, form: Form) -> pa.StringArray:
    values = array.to_pylist()
    return pa.array(
        [None if value is None else f'"{b64encode(value).decode()}"' for value in values], pa.string()
    )


def _days(array: pa.Array) -> pa.Int64Array:
    if pa.types.is_date32(array.type):
        return array.view(pa.int32()).cast(pa.int64())
    return _each(array, lambda milliseconds: milliseconds // (_SECONDS * 1_000))


def _each(array: pa.Array, change: Callable[[int], int]) -> pa.Int64Array:
    return pa.array([None if value is None else change(value) for value in _whole(array)], pa.int64())


def _whole(array: pa.Array) -> list[int | None]:
    """The numbers that dates, times or timestamps are stored as."""
    storage = pa.int32() if array.type.bit_width == 32 else pa.int64()
    values: list[int | None] = array.view(storage).to_pylist()
    return values


def _date(array: pa.Array, form: Form) -> pa.StringArray:
    days = _days(array)
    _check(days, _FIRST_DAY, _LAST_DAY, form, YEARS)
    return _wrapped('"', days.cast(pa.int32()).view(pa.date32()).cast(pa.string()), '"')


def _time(array: pa.Array, form: Form) -> pa.StringArray:
    _check(_each(array, int), 0, _SECONDS * 10**form.digits - 1, form, DAY)
    return _wrapped('"', array.cast(pa.string()), '"')


def _timestamp(array: pa.Array, form: Form) -> pa.StringArray:
    day = _SECONDS * 10**form.digits
    if form.digits < 9:
        _check(array.view(pa.int64()), _FIRST_DAY * day, (_LAST_DAY + 1) * day - 1, form, YEARS)
    text = array.view(pa.timestamp(array.type.unit)).cast(pa.string())
    return _wrapped('"', pc.replace_substring(text, " ", "T"), 'Z"' if form.zoned else '"')


def _check(array: pa.Array, first: int, last: int, form: Form, what: str) -> None:
    bounds = pc.min_max(array).as_py()
    if bounds["min"] is not None and (bounds["min"] < first or bounds["max"] > last):
        raise Unfit(form.path, what)


def _count(array: pa.Array, form: Form) -> pa.StringArray:
    return pa.array(
        [None if value is None else _counted(value, form) for value in _whole(array)], pa.string()
    )


def _counted(value: int, form: Form) -> str:
    if form.digits <= 0:
        return str(value * 10**-form.digits)
    unit: int = 10**form.digits
    if form.kind is Kind.COUNT:
        return str(value // unit)
    fraction = f"{abs(value) % unit:0{form.digits}d}".rstrip("0")
    return f"{'-' * (value < 0)}{abs(value) // unit}{fraction and '.'}{fraction}"


def _wrapped(before: str, text: pa.StringArray, after: str) -> pa.StringArray:
    return pc.binary_join_element_wise(pa.scalar(before), text, pa.scalar(after), "")


def _masked(text: pa.StringArray, array: pa.Array) -> pa.StringArray:
    return pc.if_else(array.is_valid(), text, pa.scalar(None, pa.string()))


_WRITERS: dict[Kind, Callable[[pa.Array, Form], pa.StringArray]] = {
    Kind.NULL: lambda array, form: pa.nulls(len(array), pa.string()),
    Kind.BOOLEAN: lambda array, form: array.cast(pa.string()),
    Kind.INTEGER: lambda array, form: array.cast(pa.string()),
    Kind.DOUBLE: _double,
    Kind.DECIMAL: _decimal,
    Kind.TEXT: _quoted,
    Kind.JSON: lambda array, form: array.cast(pa.string()),
    Kind.BYTES: _bytes,
    Kind.DATE: _date,
    Kind.DAYS: lambda array, form: _days(array).cast(pa.string()),
    Kind.TIME: _time,
    Kind.TIMESTAMP: _timestamp,
    Kind.COUNT: _count,
    Kind.EXACT_COUNT: _count,
    Kind.STRUCT: _object,
    Kind.LIST: _list,
    Kind.MAP: _map,
}
