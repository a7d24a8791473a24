"""Rows as text of COPY, and text columns looked at together, beside the same done value by value."""

from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from milkrun.connectors.postgres.copying import lines
from milkrun.connectors.postgres.scanning import NONE, has_byte, least_byte
from milkrun.connectors.postgres.values import json_without_oddities, text_without_nul
from milkrun.model.schema import JSON_MARK

TEXTS = st.lists(st.none() | st.text(st.sampled_from('a\\\t\n\r\0"é\x0b ')))
LATEST = datetime(9999, 12, 31, 23, 59, 59, 999_000, UTC)
MOMENTS = st.lists(
    st.none()
    | st.sampled_from([datetime(1, 1, 1, tzinfo=UTC), LATEST])
    | st.datetimes(timezones=st.just(UTC)).map(lambda moment: moment.replace(microsecond=0))
)


def _copied(column: pa.ChunkedArray | pa.Array) -> list[str | None]:
    """The cells of a table of one column, still as COPY has them."""
    content = b"".join(map(bytes, lines(pa.table({"a": column})))).decode()
    return [None if cell == "\\N" else cell for cell in content.split("\n")[:-1]]


@given(TEXTS, st.integers(0, 3))
def test_text_is_escaped(texts: list[str | None], start: int) -> None:
    escapes = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
    expected = [None if text is None else "".join(escapes.get(c, c) for c in text) for text in texts[start:]]

    assert _copied(pa.array(texts, pa.string()).slice(start)) == expected


@given(TEXTS, st.integers(0, 3))
def test_bytes_are_found(texts: list[str | None], start: int) -> None:
    column = pa.chunked_array(
        [pa.array(texts, pa.string()).slice(start), pa.array([], pa.large_string()).cast(pa.string())]
    )
    content = "".join(text or "" for text in texts[start:]).encode()

    assert least_byte(column) == min(content, default=NONE)
    assert has_byte(column, 0x5C) == (b"\\" in content)
    assert text_without_nul(column).to_pylist() == [
        text and text.replace("\0", "␀") for text in texts[start:]
    ]


def test_bytes_are_found_far_behind() -> None:
    column = pa.array(["x" * 300_000, "y" * 300_000 + "\t"])

    assert least_byte(column) == 9 and has_byte(column, 9) and not has_byte(column, 0x5C)


@given(MOMENTS, st.sampled_from(["UTC", "Europe/Amsterdam", None]))
def test_timestamps_are_moments(moments: list[datetime | None], zone: str | None) -> None:
    column = pa.array(moments, pa.timestamp("ms", tz="UTC")).cast(pa.timestamp("ms", tz=zone))

    cells = _copied(column)

    assert [cell and cell.endswith("+00") for cell in cells] == [
        moment and zone is not None for moment in moments
    ]
    assert [cell and datetime.fromisoformat(cell).replace(tzinfo=UTC) for cell in cells] == moments


def test_times_beyond_years_of_four_digits() -> None:
    first, end = datetime(1, 1, 1, tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=2_932_896)
    after = int((end - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()) + 86_400
    before = int((first - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()) - 1
    column = pa.array([before, None, before + 1, after - 1, after], pa.int64()).cast(
        pa.timestamp("s", tz="UTC")
    )

    assert _copied(column) == [
        "0001-12-31T23:59:59+00 BC",
        None,
        "0001-01-01 00:00:00+00",
        "9999-12-31 23:59:59+00",
        "10000-01-01T00:00:00+00",
    ]


def test_dates_beyond_years_of_four_digits() -> None:
    column = pa.array([-719_163, -719_162, None, 2_932_896, 2_932_897], pa.int32()).cast(pa.date32())

    assert _copied(column) == [
        "0001-12-31 BC",
        str(date(1, 1, 1)),
        None,
        str(date(9999, 12, 31)),
        "10000-01-01",
    ]


def test_numbers_of_open_json_are_looked_at_wherever_it_is() -> None:
    opened = pa.field("a", pa.string(), metadata={JSON_MARK: b"1"})
    typed = pa.field("a", pa.struct([pa.field("b", pa.string())]))
    text = pa.chunked_array([['{"b":"1e9999"}', '{"b":1e200000}']])

    for field in (
        opened,
        pa.field("x", pa.list_(pa.field("item", pa.struct([opened])))),
        pa.field("x", pa.map_(pa.string(), opened)),
    ):
        assert json_without_oddities(text, field).to_pylist() == ['{"b":"1e9999"}', '{"b":"1e200000"}']
    assert json_without_oddities(text, typed).to_pylist() == text.to_pylist()


def test_halves_of_pairs_are_replaced_in_typed_objects_too() -> None:
    text = pa.chunked_array([['{"b":"\\ud800 \\ud83d\\ude00 \\u0000 \\\\u0000"}']])

    assert json_without_oddities(
        text, pa.field("a", pa.struct([pa.field("b", pa.string())]))
    ).to_pylist() == ['{"b":"\ufffd \\ud83d\\ude00 ␀ \\\\u0000"}']
