"""What a JSON decoder answers, case by case: every line of the decisions on JSON, the same for every engine.

A case is a body, the schema it is decoded by, and either the row's values or the error's code and path. Expected values are worked
out by hand from RFC 8259, RFC 3339 and the types' ranges. An engine registers itself in `tests/codecs/engines.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pyarrow as pa

from milkrun.model.schema import (
    DECIMAL_TEXT_MARK,
    JSON_MARK,
    TIMESTAMP,
    UNIT_MARK,
    EventSchema,
    json_field,
)


@dataclass(frozen=True)
class Case:
    """A body and its answer: `row` (None for a null row), or `code` and `path`. `offset` is checked where it is given."""

    name: str
    body: bytes | None
    schema: EventSchema
    row: dict[str, Any] | None = None
    code: str | None = None
    path: str = ""
    offset: int | None = None
    rest: str | None = None
    """The JSON text of the rest column, byte for byte."""
    unknown: tuple[tuple[tuple[str, ...], int], ...] = ()
    duplicates: int = 0
    ignore_case: bool = False
    coerce: bool = False


def schema(*fields: pa.Field) -> EventSchema:
    """An event schema of these fields."""
    return EventSchema(pa.schema(list(fields)))


def field(
    name: str, kind: pa.DataType, *, required: bool = False, mark: dict[bytes, bytes] | None = None
) -> pa.Field:
    """A field; nullable unless required."""
    return pa.field(name, kind, nullable=not required, metadata=mark)


A_INT = schema(field("a", pa.int64()))
A_INT8 = schema(field("a", pa.int8()))
A_INT32 = schema(field("a", pa.int32()))
A_DOUBLE = schema(field("a", pa.float64()))
A_TEXT = schema(field("a", pa.string()))
A_BOOL = schema(field("a", pa.bool_()))
A_TIME_STAMP = schema(field("a", TIMESTAMP))
A_DATE = schema(field("a", pa.date32()))
A_TIME = schema(field("a", pa.time64("us")))
A_DECIMAL = schema(field("a", pa.decimal128(9, 2)))
A_WIDE_DECIMAL = schema(field("a", pa.decimal128(38, 9)))
A_DECIMAL_TEXT = schema(field("a", pa.decimal128(9, 2), mark={DECIMAL_TEXT_MARK: b"1"}))
A_OPEN = schema(json_field("a"))
A_REQUIRED = schema(field("a", pa.int64(), required=True), field("b", pa.int64()))
A_LIST = schema(field("a", pa.list_(pa.int64())))
A_STRUCT = schema(field("a", pa.struct([field("x", pa.int64()), field("y", pa.string())])))
A_DEEP = schema(
    field(
        "order",
        pa.struct(
            [
                field("id", pa.string(), required=True),
                field(
                    "items",
                    pa.list_(pa.struct([field("sku", pa.string(), required=True), field("n", pa.int64())])),
                ),
                json_field("extra"),
            ]
        ),
    )
)
A_ITEMS_REQUIRED = schema(field("a", pa.list_(pa.field("item", pa.int64(), nullable=False))))
A_MAP = schema(field("a", pa.map_(pa.string(), pa.int64())))
A_FULL_MAP = schema(
    field("a", pa.map_(pa.string(), pa.field("value", pa.int64(), nullable=False)), required=True)
)
A_MAP_OF_STRUCTS = schema(
    field(
        "a",
        pa.map_(pa.string(), pa.struct([field("x", pa.int64(), required=True), field("y", pa.string())])),
    )
)
EMPTY = schema()


def unit(name: str) -> EventSchema:
    """A timestamp written as a number of this unit."""
    return schema(field("a", TIMESTAMP, mark={UNIT_MARK: name.encode()}))


def moment(*parts: int) -> datetime:
    """A time in UTC."""
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type,misc]


def nested(depth: int) -> bytes:
    """An event of exactly this many levels: the object and arrays in it."""
    return b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


_SYNTAX = [
    ("trailing comma in an object", b'{"a":1,}'),
    ("trailing comma in an array", b'{"a":1,"z":[1,]}'),
    ("leading comma", b'{,"a":1}'),
    ("missing comma", b'{"a":1 "b":2}'),
    ("missing colon", b'{"a" 1}'),
    ("missing value", b'{"a":}'),
    ("NaN", b'{"a":NaN}'),
    ("NaN in an unknown field", b'{"a":1,"z":{"y":[NaN]}}'),
    ("Infinity", b'{"a":Infinity}'),
    ("minus Infinity", b'{"a":-Infinity}'),
    ("nan in lower case", b'{"a":nan}'),
    ("line comment", b'{"a":1} // why'),
    ("block comment", b'{/* why */"a":1}'),
    ("leading zero", b'{"a":01}'),
    ("leading zero after a minus", b'{"a":-01}'),
    ("leading plus", b'{"a":+1}'),
    ("minus alone", b'{"a":-}'),
    ("point without digits after it", b'{"a":1.}'),
    ("point without digits before it", b'{"a":.5}'),
    ("exponent without digits", b'{"a":1e}'),
    ("hexadecimal", b'{"a":0x10}'),
    ("two points", b'{"a":1.2.3}'),
    ("underscore in a number", b'{"a":1_000}'),
    ("digits of another script", '{"a":١}'.encode()),
    ("raw control character in a string", b'{"a":"x\x01y"}'),
    ("raw newline in a string", b'{"a":"x\ny"}'),
    ("raw tab in a key", b'{"a\tb":1}'),
    ("raw NUL in an unknown field", b'{"a":1,"z":"\x00"}'),
    ("NUL after the value", b'{"a":1}\x00'),
    ("unknown escape", b'{"a":"\\x41"}'),
    ("unknown escape in an unknown field", b'{"a":1,"z":"\\\'"}'),
    ("short unicode escape", b'{"a":"\\u12"}'),
    ("unicode escape that is no hexadecimal", b'{"a":"\\u12g4"}'),
    ("underscore in a unicode escape", b'{"a":"\\u1_23"}'),
    ("unterminated string", b'{"a":"x'),
    ("unterminated object", b'{"a":1'),
    ("unterminated array", b'{"a":[1,2'),
    ("wrong bracket", b'{"a":[1}'),
    ("single quotes", b"{'a':1}"),
    ("key without quotes", b"{a:1}"),
    ("key that is a number", b"{1:1}"),
    ("True as Python writes it", b'{"a":True}'),
    ("undefined", b'{"a":undefined}'),
    ("truncated literal", b'{"a":tru}'),
    ("literal with more letters", b'{"a":nullx}'),
    ("text after the value", b'{"a":1} x'),
    ("two values", b'{"a":1}{"a":2}'),
    ("two values on two lines", b'{"a":1}\n{"a":2}'),
    ("two empty objects", b"{}{}"),
    ("closing bracket too many", b'{"a":1}}'),
    ("comma after the value", b'{"a":1},'),
    ("vertical tab as white space", b'{"a":\x0b1}'),
    ("form feed as white space", b'{"a":\x0c1}'),
    ("no-break space as white space", '{"a":\u00a01}'.encode()),
    ("byte order mark in the middle", b'{"a":\xef\xbb\xbf1}'),
    ("two byte order marks", b'\xef\xbb\xbf\xef\xbb\xbf{"a":1}'),
    ("only an opening bracket", b"{"),
    ("only a closing bracket", b"}"),
]

_UTF8 = [
    ("invalid byte in a value", b'{"a":"\xff"}', 6),
    ("invalid byte in a key", b'{"a\xff":1}', 3),
    ("invalid byte in an unknown field", b'{"a":"x","z":"\xc3("}', 14),
    ("invalid byte in an unknown nested key", b'{"a":"x","z":{"\x80":1}}', 15),
    ("overlong encoding", b'{"a":"\xc0\x80"}', 6),
    ("surrogate encoded as UTF-8", b'{"a":"\xed\xa0\x80"}', 6),
    ("beyond U+10FFFF", b'{"a":"\xf4\x90\x80\x80"}', 6),
    ("truncated character", b'{"a":"\xe2\x82"}', 6),
    ("Latin-1", "{'a':'ü'}".replace("'", '"').encode("latin-1"), 6),
    ("UTF-16", '{"a":"x"}'.encode("utf-16"), 0),
    ("lone high surrogate", b'{"a":"\\ud800"}', 6),
    ("lone low surrogate", b'{"a":"\\udc00"}', 6),
    ("low surrogate first", b'{"a":"\\udc00\\ud800"}', 6),
    ("two high surrogates", b'{"a":"\\ud83d\\ud83d\\ude00"}', 6),
    ("high surrogate before another escape", b'{"a":"\\ud800\\u0041"}', 6),
    ("high surrogate before a letter", b'{"a":"\\uD83Dx\\uDE00"}', 6),
    ("lone surrogate in an unknown field", b'{"a":"x","z":["\\udfff"]}', 15),
    ("lone surrogate in a key", b'{"a":"x","\\ud800":1}', 10),
    ("lone surrogate in a key that is overwritten", b'{"z":"\\ud800","z":1}', 6),
]

_NOT_OBJECT = [
    ("null", b"null"), ("true", b"true"), ("a number", b"12"), ("a string", b'"x"'), ("an array", b'[{"a":1}]'),
    ("an empty array", b"[]"), ("null after a byte order mark", b"\xef\xbb\xbfnull"),
]  # fmt: skip

_MALFORMED = [
    *(Case(name, body, A_INT, code="syntax") for name, body in _SYNTAX),
    *(Case(name, body, A_TEXT, code="utf8", offset=offset) for name, body, offset in _UTF8),
    *(Case(f"{name} instead of an object", body, A_INT, code="not_object") for name, body in _NOT_OBJECT),
    Case("null instead of an object, no fields", b"null", EMPTY, code="not_object"),
    Case("empty body", b"", A_INT, code="empty"),
    Case("white space only", b" \n\t", A_INT, code="empty"),
    Case("byte order mark only", b"\xef\xbb\xbf", A_INT, code="empty"),
    Case("tombstone", None, A_INT, row=None),
    Case("tombstone where a field is required", None, A_REQUIRED, row=None),
    Case("place of an error is counted in bytes", '{"a":"€" x}'.encode(), A_TEXT, code="syntax", offset=11),
]

_FINE = [
    Case("byte order mark", b'\xef\xbb\xbf{"a":1}', A_INT, row={"a": 1}),
    Case("byte order mark and open part", b'\xef\xbb\xbf{"a":{"x":1}}', A_OPEN, row={"a": '{"x":1}'}),
    Case("all white space JSON has", b' \t\r\n{ "a"\n:\t1\r}\n', A_INT, row={"a": 1}),
    Case("empty object", b"{}", A_INT, row={"a": None}),
    Case("empty object, no fields", b"{}", EMPTY, row={}),
    Case("escapes", b'{"a":"\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9"}', A_TEXT, row={"a": '"\\/\b\f\n\r\té'}),
    Case("surrogate pair", b'{"a":"\\ud83d\\ude00"}', A_TEXT, row={"a": "\U0001f600"}),
    Case("surrogate pair in capitals", b'{"a":"\\uD83D\\uDE00"}', A_TEXT, row={"a": "\U0001f600"}),
    Case("escaped backslash before ud800", b'{"a":"\\\\ud800"}', A_TEXT, row={"a": "\\ud800"}),
    Case("escaped NUL", b'{"a":"\\u0000"}', A_TEXT, row={"a": "\x00"}),
    Case("DEL needs no escape", b'{"a":"\x7f"}', A_TEXT, row={"a": "\x7f"}),
    Case("every plane of Unicode", '{"a":"é€😀"}'.encode(), A_TEXT, row={"a": "é€😀"}),
    Case("noncharacter", '{"a":"\uffff"}'.encode(), A_TEXT, row={"a": "\uffff"}),
    Case("name by escapes", b'{"\\u0061":1}', A_INT, row={"a": 1}),
    Case("names are exact", b'{"A":1}', A_INT, row={"a": None}, unknown=((("A",), 1),)),
    Case("name that is empty", b'{"":1}', schema(field("", pa.int64())), row={"": 1}),
    Case("name like a path", b'{"a.b":1}', schema(field("a.b", pa.int64())), row={"a.b": 1}),
    Case(
        "name like the step for items",
        b'{"[]":{"[]":"x"}}',
        schema(field("[]", pa.struct([field("[]", pa.int64())]))),
        code="type",
        path="[].[]",
    ),
    Case("true", b'{"a":true}', A_BOOL, row={"a": True}),
    Case("false", b'{"a":false}', A_BOOL, row={"a": False}),
    Case("a string that holds JSON", b'{"a":"{\\"x\\":1}"}', A_TEXT, row={"a": '{"x":1}'}),
    Case("string of 5 MB", b'{"a":"' + b"x" * 5_000_000 + b'"}', A_TEXT, row={"a": "x" * 5_000_000}),
    Case(
        "string of 1 MB of escapes", b'{"a":"' + b"\\n" * 500_000 + b'"}', A_TEXT, row={"a": "\n" * 500_000}
    ),
]

_DEPTH = [
    Case("128 levels", nested(128), A_OPEN, row={"a": "[" * 127 + "]" * 127}),
    Case("129 levels", nested(129), A_OPEN, code="depth", offset=5 + 127),
    Case("129 levels in an unknown field", nested(129), schema(field("b", pa.int64())), code="depth"),
    Case("100,000 levels", nested(100_000), A_OPEN, code="depth"),
    Case("100,000 levels, none closed", b'{"a":' + b"[" * 100_000, A_OPEN, code="depth"),
    Case("100,000 objects", b'{"a":' * 100_000 + b"1" + b"}" * 100_000, A_OPEN, code="depth"),
    Case("100,000 brackets without an object", b"[" * 100_000, A_OPEN, code="depth"),
    Case("brackets in a string", b'{"a":"' + b"[{" * 200 + b'"}', A_TEXT, row={"a": "[{" * 200}),
    Case(
        "brackets after an escaped quote",
        b'{"a":"\\"' + b"[" * 200 + b'"}',
        A_TEXT,
        row={"a": '"' + "[" * 200},
    ),
    Case("wide, not deep", b'{"a":[' + b"[]," * 200 + b"[]]}", A_OPEN, row={"a": "[" + "[]," * 200 + "[]]"}),
]

_DUPLICATES = [
    Case("duplicate key: the last wins", b'{"a":1,"a":2}', A_INT, row={"a": 2}, duplicates=1),
    Case("three of one key", b'{"a":1,"a":2,"a":3}', A_INT, row={"a": 3}, duplicates=2),
    Case("duplicate, the first of a wrong type", b'{"a":"x","a":2}', A_INT, row={"a": 2}, duplicates=1),
    Case("duplicate, the last of a wrong type", b'{"a":1,"a":"x"}', A_INT, code="type", path="a", offset=11),
    Case("duplicate, the last is null", b'{"a":1,"a":null}', A_INT, row={"a": None}, duplicates=1),
    Case("duplicate by escape", b'{"a":1,"\\u0061":2}', A_INT, row={"a": 2}, duplicates=1),
    Case("duplicate with white space", b'{"a" : 1, "a" : 2}', A_INT, row={"a": 2}, duplicates=1),
    Case("duplicate nested", b'{"a":{"x":1,"x":2}}', A_STRUCT, row={"a": {"x": 2, "y": None}}, duplicates=1),
    Case(
        "duplicate objects don't merge",
        b'{"a":{"x":1},"a":{"y":"k"}}',
        A_STRUCT,
        row={"a": {"x": None, "y": "k"}},
        duplicates=1,
    ),
    Case(
        "duplicate in an open part stays",
        b'{"a":{"x":1,"x":2}}',
        A_OPEN,
        row={"a": '{"x":1,"x":2}'},
        duplicates=1,
    ),
    Case("duplicate open part", b'{"a":[1],"a":[2]}', A_OPEN, row={"a": "[2]"}, duplicates=1),
    Case("duplicate unknown", b'{"z":1,"z":2}', A_INT, row={"a": None}, duplicates=1, unknown=((("z",), 1),)),
    Case("colons in strings are no keys", b'{"a":":\\":\\":x"}', A_TEXT, row={"a": ':":":x'}),
    Case("string that begins with a colon", b'{"a":":-)"}', A_TEXT, row={"a": ":-)"}),
    Case("colon after white space in a string", b'{"a":"Re : x"}', A_TEXT, row={"a": "Re : x"}),
]

_NUMBERS = [
    Case("largest int64", b'{"a":9223372036854775807}', A_INT, row={"a": 2**63 - 1}),
    Case("smallest int64", b'{"a":-9223372036854775808}', A_INT, row={"a": -(2**63)}),
    Case("one above int64", b'{"a":9223372036854775808}', A_INT, code="range", path="a", offset=5),
    Case("one below int64", b'{"a":-9223372036854775809}', A_INT, code="range", path="a"),
    Case("largest uint64", b'{"a":18446744073709551615}', A_INT, code="range", path="a"),
    Case("integer of 30 digits", b'{"a":' + b"1" * 30 + b"}", A_INT, code="range", path="a"),
    Case("integer of 5,000 digits", b'{"a":' + b"1" * 5_000 + b"}", A_INT, code="range", path="a"),
    Case("int8", b'{"a":-128}', A_INT8, row={"a": -128}),
    Case("beyond int8", b'{"a":128}', A_INT8, code="range", path="a"),
    Case("int32", b'{"a":2147483647}', A_INT32, row={"a": 2**31 - 1}),
    Case("beyond int32", b'{"a":2147483648}', A_INT32, code="range", path="a"),
    Case("1.0 is whole", b'{"a":1.0}', A_INT, row={"a": 1}),
    Case("1e3 is whole", b'{"a":1e3}', A_INT, row={"a": 1000}),
    Case("120e-1 is whole", b'{"a":120e-1}', A_INT, row={"a": 12}),
    Case("1.5e1 is whole", b'{"a":1.5E+1}', A_INT, row={"a": 15}),
    Case("minus zero is zero", b'{"a":-0}', A_INT, row={"a": 0}),
    Case("-0.0 is zero", b'{"a":-0.0}', A_INT, row={"a": 0}),
    Case("0e999999999 is zero", b'{"a":0e999999999}', A_INT, row={"a": 0}),
    Case("whole beyond what a double tells", b'{"a":9007199254740993.0}', A_INT, row={"a": 2**53 + 1}),
    Case("largest int64 with a fraction", b'{"a":9223372036854775807.0}', A_INT, row={"a": 2**63 - 1}),
    Case("one above int64 with a fraction", b'{"a":9223372036854775808.0}', A_INT, code="range", path="a"),
    Case("1.5 is not whole", b'{"a":1.5}', A_INT, code="type", path="a"),
    Case("barely not whole", b'{"a":1.00000000000000000001}', A_INT, code="type", path="a"),
    Case("1e-1 is not whole", b'{"a":1e-1}', A_INT, code="type", path="a"),
    Case("1e400 is no int64", b'{"a":1e400}', A_INT, code="range", path="a"),
    Case("huge exponent is no int64", b'{"a":1e999999999999999999999}', A_INT, code="range", path="a"),
    Case("integer where a double is due", b'{"a":3}', A_DOUBLE, row={"a": 3.0}),
    Case("integer beyond 64 bits as a double", b'{"a":18446744073709551616}', A_DOUBLE, row={"a": 2.0**64}),
    Case("largest double", b'{"a":1.7976931348623157e308}', A_DOUBLE, row={"a": 1.7976931348623157e308}),
    Case("double out of range", b'{"a":1e400}', A_DOUBLE, code="range", path="a", offset=5),
    Case("double out of range below", b'{"a":-1e309}', A_DOUBLE, code="range", path="a"),
    Case("integer out of a double's range", b'{"a":' + b"9" * 400 + b"}", A_DOUBLE, code="range", path="a"),
    Case("double that rounds to zero", b'{"a":1e-400}', A_DOUBLE, row={"a": 0.0}),
    Case("smallest double", b'{"a":5e-324}', A_DOUBLE, row={"a": 5e-324}),
    Case("double nearest to its text", b'{"a":0.1}', A_DOUBLE, row={"a": 0.1}),
    Case(
        "1e400 in an unknown field is JSON", b'{"a":1,"z":1e400}', A_INT, row={"a": 1}, unknown=((("z",), 1),)
    ),
    Case("1e400 in an open part is JSON", b'{"a":[1e400]}', A_OPEN, row={"a": "[1e400]"}),
]

_DECIMALS = [
    Case("decimal", b'{"a":12.34}', A_DECIMAL, row={"a": Decimal("12.34")}),
    Case("decimal from an integer", b'{"a":12}', A_DECIMAL, row={"a": Decimal("12.00")}),
    Case("decimal from an exponent", b'{"a":1.2e3}', A_DECIMAL, row={"a": Decimal("1200.00")}),
    Case("decimal with zeros beyond its scale", b'{"a":1.50000}', A_DECIMAL, row={"a": Decimal("1.50")}),
    Case("decimal zero", b'{"a":0e-50}', A_DECIMAL, row={"a": Decimal("0.00")}),
    Case("decimal negative", b'{"a":-0.01}', A_DECIMAL, row={"a": Decimal("-0.01")}),
    Case("decimal never through a double", b'{"a":1234567.89}', A_DECIMAL, row={"a": Decimal("1234567.89")}),
    Case("decimal of 38 digits", b'{"a":12345678901234567890123456789.123456789}', A_WIDE_DECIMAL,
         row={"a": Decimal("12345678901234567890123456789.123456789")}),
    Case("decimal with too many digits after the point", b'{"a":1.234}', A_DECIMAL, code="range", path="a"),
    Case("decimal with too many digits before it", b'{"a":12345678}', A_DECIMAL, code="range", path="a"),
    Case("decimal with a huge exponent", b'{"a":1e999999999}', A_DECIMAL, code="range", path="a"),
    Case("decimal with a tiny exponent", b'{"a":1e-999999999}', A_DECIMAL, code="range", path="a"),
    Case("decimal with an exponent beyond all", b'{"a":1e99999999999999999999}', A_DECIMAL, code="range", path="a"),
    Case("decimal from a string", b'{"a":"12.34"}', A_DECIMAL, code="type", path="a"),
    Case("decimal text", b'{"a":"12.34"}', A_DECIMAL_TEXT, row={"a": Decimal("12.34")}),
    Case("decimal text that is none", b'{"a":"12,34"}', A_DECIMAL_TEXT, code="format", path="a"),
    Case("decimal text NaN", b'{"a":"NaN"}', A_DECIMAL_TEXT, code="format", path="a"),
    Case("decimal text with white space", b'{"a":" 1"}', A_DECIMAL_TEXT, code="format", path="a"),
    Case("decimal text out of range", b'{"a":"1e9"}', A_DECIMAL_TEXT, code="range", path="a"),
    Case("decimal text from a number", b'{"a":12.34}', A_DECIMAL_TEXT, code="type", path="a"),
]  # fmt: skip


def _stamp(name: str, text: str, expected: datetime | None) -> Case:
    body = f'{{"a":"{text}"}}'.encode()
    if expected is None:
        return Case(f"timestamp: {name}", body, A_TIME_STAMP, code="format", path="a")
    return Case(f"timestamp: {name}", body, A_TIME_STAMP, row={"a": expected})


_TIMES = [
    _stamp("UTC", "2026-11-24T10:00:00Z", moment(2026, 11, 24, 10)),
    _stamp("lower case", "2026-11-24t10:00:00z", moment(2026, 11, 24, 10)),
    _stamp("space instead of T", "2026-11-24 10:00:00Z", moment(2026, 11, 24, 10)),
    _stamp("two spaces", "2026-11-24  10:00:00Z", None),
    _stamp("offset ahead", "2026-11-24T10:00:00+02:00", moment(2026, 11, 24, 8)),
    _stamp("offset behind, next day", "2026-11-24T23:30:00-01:30", moment(2026, 11, 25, 1)),
    _stamp("largest offset", "2026-11-24T00:00:00+23:59", moment(2026, 11, 23, 0, 1)),
    _stamp("unknown offset", "2026-11-24T10:00:00-00:00", moment(2026, 11, 24, 10)),
    _stamp("offset of 24 hours", "2026-11-24T10:00:00+24:00", None),
    _stamp("offset of 60 minutes", "2026-11-24T10:00:00+01:60", None),
    _stamp("offset without colon", "2026-11-24T10:00:00+0200", None),
    _stamp("offset of hours alone", "2026-11-24T10:00:00+02", None),
    _stamp("no offset", "2026-11-24T10:00:00", None),
    _stamp("milliseconds", "2026-11-24T10:00:00.123Z", moment(2026, 11, 24, 10, 0, 0, 123000)),
    _stamp("one digit of a fraction", "2026-11-24T10:00:00.5Z", moment(2026, 11, 24, 10, 0, 0, 500000)),
    _stamp("microseconds", "2026-11-24T10:00:00.123456Z", moment(2026, 11, 24, 10, 0, 0, 123456)),
    _stamp("nanoseconds are cut", "2026-11-24T10:00:00.123456789Z", moment(2026, 11, 24, 10, 0, 0, 123456)),
    _stamp("nines are cut, not rounded", "2026-11-24T10:00:00.999999999Z", moment(2026, 11, 24, 10, 0, 0, 999999)),
    _stamp("cut before 1970 as well", "1969-12-31T23:59:59.9999999Z", moment(1969, 12, 31, 23, 59, 59, 999999)),
    _stamp("fraction without digits", "2026-11-24T10:00:00.Z", None),
    _stamp("comma before the fraction", "2026-11-24T10:00:00,5Z", None),
    _stamp("31 February", "2026-02-31T10:00:00Z", None),
    _stamp("29 February of a common year", "2026-02-29T10:00:00Z", None),
    _stamp("29 February of 1900", "1900-02-29T10:00:00Z", None),
    _stamp("29 February of a leap year", "2024-02-29T10:00:00Z", moment(2024, 2, 29, 10)),
    _stamp("month 13", "2026-13-01T10:00:00Z", None),
    _stamp("day 0", "2026-11-00T10:00:00Z", None),
    _stamp("leap second", "2016-12-31T23:59:60Z", None),
    _stamp("hour 24", "2026-11-24T24:00:00Z", None),
    _stamp("minute 60", "2026-11-24T10:60:00Z", None),
    _stamp("no seconds", "2026-11-24T10:00Z", None),
    _stamp("date alone", "2026-11-24", None),
    _stamp("compact", "20261124T100000Z", None),
    _stamp("week date", "2026-W48-2T10:00:00Z", None),
    _stamp("year of five digits", "+12026-11-24T10:00:00Z", None),
    _stamp("digits of another script", "٢٠٢٦-11-24T10:00:00Z", None),
    _stamp("newline after it", "2026-11-24T10:00:00Z\\n", None),
    _stamp("empty", "", None),
    _stamp("first moment", "0001-01-01T00:00:00Z", moment(1, 1, 1)),
    _stamp("before the first moment", "0001-01-01T00:00:00+00:01", None),
    _stamp("year 0", "0000-12-31T00:00:00Z", None),
    _stamp("last moment", "9999-12-31T23:59:59.999999Z", moment(9999, 12, 31, 23, 59, 59, 999999)),
    _stamp("after the last moment", "9999-12-31T23:59:59-00:01", None),
    Case("timestamp from a number without a unit", b'{"a":1764000000}', A_TIME_STAMP, code="type", path="a"),
    Case("seconds", b'{"a":1764000000}', unit("s"), row={"a": moment(2025, 11, 24, 16)}),
    Case("milliseconds as a number", b'{"a":1764000000123}', unit("ms"), row={"a": moment(2025, 11, 24, 16, 0, 0, 123000)}),
    Case("microseconds as a number", b'{"a":1764000000123456}', unit("us"), row={"a": moment(2025, 11, 24, 16, 0, 0, 123456)}),
    Case("seconds with a fraction", b'{"a":1764000000.123456}', unit("s"), row={"a": moment(2025, 11, 24, 16, 0, 0, 123456)}),
    Case("fraction cut toward the past", b'{"a":-0.0000001}', unit("s"), row={"a": moment(1969, 12, 31, 23, 59, 59, 999999)}),
    Case("seconds with an exponent", b'{"a":1.764e9}', unit("s"), row={"a": moment(2025, 11, 24, 16)}),
    Case("negative seconds", b'{"a":-1}', unit("s"), row={"a": moment(1969, 12, 31, 23, 59, 59)}),
    Case("last second", b'{"a":253402300799}', unit("s"), row={"a": moment(9999, 12, 31, 23, 59, 59)}),
    Case("beyond the last second", b'{"a":253402300800}', unit("s"), code="range", path="a"),
    Case("first second", b'{"a":-62135596800}', unit("s"), row={"a": moment(1, 1, 1)}),
    Case("beyond the first second", b'{"a":-62135596801}', unit("s"), code="range", path="a"),
    Case("number of a unit beyond 64 bits", b'{"a":1e300}', unit("s"), code="range", path="a"),
    Case("text where a unit is said", b'{"a":"2026-11-24T10:00:00Z"}', unit("s"), code="type", path="a"),
    Case("date", b'{"a":"2024-02-29"}', A_DATE, row={"a": date(2024, 2, 29)}),
    Case("date that isn't", b'{"a":"2026-02-29"}', A_DATE, code="format", path="a"),
    Case("date with a time", b'{"a":"2026-11-24T00:00:00Z"}', A_DATE, code="format", path="a"),
    Case("date from a number", b'{"a":20261124}', A_DATE, code="type", path="a"),
    Case("time of day", b'{"a":"23:59:59.5"}', A_TIME, row={"a": time(23, 59, 59, 500000)}),
    Case("time of day with offset, turned to UTC", b'{"a":"00:30:00+01:00"}', A_TIME, row={"a": time(23, 30)}),
    Case("time of day, second 60", b'{"a":"23:59:60"}', A_TIME, code="format", path="a"),
]  # fmt: skip

_TYPES = [
    Case("string where an integer is due", b'{"a":"1"}', A_INT, code="type", path="a", offset=5),
    Case("boolean where an integer is due", b'{"a":true}', A_INT, code="type", path="a"),
    Case("object where an integer is due", b'{"a":{}}', A_INT, code="type", path="a"),
    Case("array where an integer is due", b'{"a":[1]}', A_INT, code="type", path="a"),
    Case("boolean where a double is due", b'{"a":false}', A_DOUBLE, code="type", path="a"),
    Case("string where a double is due", b'{"a":"1.5"}', A_DOUBLE, code="type", path="a"),
    Case("number where a string is due", b'{"a":1}', A_TEXT, code="type", path="a"),
    Case("number where a boolean is due", b'{"a":1}', A_BOOL, code="type", path="a"),
    Case("string where a boolean is due", b'{"a":"true"}', A_BOOL, code="type", path="a"),
    Case("string where an object is due", b'{"a":"x"}', A_STRUCT, code="type", path="a"),
    Case("array where an object is due", b'{"a":[]}', A_STRUCT, code="type", path="a"),
    Case("object where an array is due", b'{"a":{}}', A_LIST, code="type", path="a"),
    Case("number where an array is due", b'{"a":1}', A_LIST, code="type", path="a"),
    Case("error in an object", b'{"a":{"x":"k"}}', A_STRUCT, code="type", path="a.x", offset=10),
    Case("error in an array", b'{"a":[1,2,"x"]}', A_LIST, code="type", path="a[2]", offset=10),
    Case(
        "error deep inside",
        b'{"order":{"id":"o","items":[{"sku":"s","n":1},{"sku":"t","n":1.5}]}}',
        A_DEEP,
        code="type",
        path="order.items[1].n",
        offset=61,
    ),
    Case("null", b'{"a":null}', A_INT, row={"a": None}),
    Case("null object", b'{"a":null}', A_STRUCT, row={"a": None}),
    Case("empty object for a struct", b'{"a":{}}', A_STRUCT, row={"a": {"x": None, "y": None}}),
    Case("null array", b'{"a":null}', A_LIST, row={"a": None}),
    Case("empty array", b'{"a":[]}', A_LIST, row={"a": []}),
    Case("null item", b'{"a":[1,null,3]}', A_LIST, row={"a": [1, None, 3]}),
    Case("whole numbers spelt otherwise in an array", b'{"a":[1.0,2,3e0]}', A_LIST, row={"a": [1, 2, 3]}),
    Case("required", b'{"a":1}', A_REQUIRED, row={"a": 1, "b": None}),
    Case("missing where required", b'{"b":1}', A_REQUIRED, code="required", path="a", offset=0),
    Case("null where required", b'{"b":1,"a":null}', A_REQUIRED, code="required", path="a", offset=11),
    Case(
        "null item where required",
        b'{"a":[1,null]}',
        A_ITEMS_REQUIRED,
        code="required",
        path="a[1]",
        offset=8,
    ),
    Case(
        "missing in an object", b'{"order":{"items":[]}}', A_DEEP, code="required", path="order.id", offset=9
    ),
    Case(
        "missing in an item",
        b'{"order":{"id":"o","items":[{"sku":"s"},{"n":1}]}}',
        A_DEEP,
        code="required",
        path="order.items[1].sku",
        offset=40,
    ),
    Case("required of an object that isn't there", b"{}", A_DEEP, row={"order": None}),
    Case("required of an object that is null", b'{"order":null}', A_DEEP, row={"order": None}),
    Case(
        "nested to the full",
        b'{"order":{"id":"o","items":[{"sku":"s","n":1},{"sku":"t"}],"extra":{"k":[1, 2]}}}',
        A_DEEP,
        row={
            "order": {
                "id": "o",
                "items": [{"sku": "s", "n": 1}, {"sku": "t", "n": None}],
                "extra": '{"k":[1, 2]}',
            }
        },
    ),
]

_MAPS = [
    Case("map", b'{"a":{"x":1,"y":2}}', A_MAP, row={"a": [("x", 1), ("y", 2)]}),
    Case("map without members", b'{"a":{}}', A_MAP, row={"a": []}),
    Case("map that is null", b'{"a":null}', A_MAP, row={"a": None}),
    Case("map that isn't there", b"{}", A_MAP, row={"a": None}),
    Case("map with a null value", b'{"a":{"x":null,"y":2}}', A_MAP, row={"a": [("x", None), ("y", 2)]}),
    Case("map with white space", b'{"a" : { "x" : 1 , "y" : 2 } }', A_MAP, row={"a": [("x", 1), ("y", 2)]}),
    Case("map, whole numbers spelt otherwise", b'{"a":{"y":1.0,"x":2e0}}', A_MAP, row={"a": [("y", 1), ("x", 2)]}),
    Case("map: any text is a key", '{"a":{"":1,"a.b":2,"{}":3,"é":4,"\\u0000":5,"\\"":6}}'.encode(), A_MAP,
         row={"a": [("", 1), ("a.b", 2), ("{}", 3), ("é", 4), ("\0", 5), ('"', 6)]}),
    Case("map: half of a surrogate pair as a key", b'{"a":{"\\ud800":1}}', A_MAP, code="utf8", offset=7),
    Case("map: the last of a key wins", b'{"a":{"x":1,"y":2,"x":3}}', A_MAP, row={"a": [("x", 3), ("y", 2)]}, duplicates=1),
    Case("map: the last of a key wins, spelt by an escape", b'{"a":{"x":1,"y":2,"\\u0078":3}}', A_MAP,
         row={"a": [("x", 3), ("y", 2)]}, duplicates=1),
    Case("map: the last of a key wins, judged exactly", b'{"a":{"x":1,"y":2.0,"x":3}}', A_MAP,
         row={"a": [("x", 3), ("y", 2)]}, duplicates=1),
    Case("map: a key twice, the first of a wrong type", b'{"a":{"x":"k","x":2}}', A_MAP, row={"a": [("x", 2)]}, duplicates=1),
    Case("map: a key twice, the last of a wrong type", b'{"a":{"x":1,"x":"k"}}', A_MAP, code="type", path="a.x", offset=16),
    Case("map twice", b'{"a":{"x":1,"x":2},"a":{"y":3}}', A_MAP, row={"a": [("y", 3)]}, duplicates=2),
    Case("string in a map of integers", b'{"a":{"x":1,"color":"red"}}', A_MAP, code="type", path="a.color", offset=20),
    Case("array where a map is due", b'{"a":[]}', A_MAP, code="type", path="a", offset=5),
    Case("string where a map is due", b'{"a":"x"}', A_MAP, code="type", path="a", offset=5),
    Case("map of required values", b'{"a":{"x":1}}', A_FULL_MAP, row={"a": [("x", 1)]}),
    Case("map of required values, empty", b'{"a":{}}', A_FULL_MAP, row={"a": []}),
    Case("map of required values, one null", b'{"a":{"x":null}}', A_FULL_MAP, code="required", path="a.x", offset=10),
    Case("map missing where required", b'{"b":1}', A_FULL_MAP, code="required", path="a", offset=0),
    Case("map null where required", b'{"a":null}', A_FULL_MAP, code="required", path="a", offset=5),
    Case("map of objects", b'{"a":{"k":{"x":1},"l":null,"m":{"y":"z","x":2}}}', A_MAP_OF_STRUCTS,
         row={"a": [("k", {"x": 1, "y": None}), ("l", None), ("m", {"x": 2, "y": "z"})]}),
    Case("missing in an object in a map", b'{"a":{"k":{"x":1},"l":{"y":""}}}', A_MAP_OF_STRUCTS,
         code="required", path="a.l.x", offset=22),
    Case("unknown in an object in a map", b'{"a":{"k":{"x":1,"z":true},"l":{"x":2}}}', A_MAP_OF_STRUCTS,
         row={"a": [("k", {"x": 1, "y": None}), ("l", {"x": 2, "y": None})]}, unknown=((("a", "{}", "z"), 1),),
         rest='{"a":{"k":{"z":true}}}'),
    Case("unknown beside a map", b'{"z":1,"a":{"x":1}}', A_MAP, row={"a": [("x", 1)]}, unknown=((("z",), 1),), rest='{"z":1}'),
    Case("map of open parts", b'{"a":{"k":{"p":1.10},"l":null,"m":[ ]}}',
         schema(field("a", pa.map_(pa.string(), json_field("value")))), row={"a": [("k", '{"p":1.10}'), ("l", None), ("m", "[ ]")]}),
    Case("map of open parts, a key twice", b'{"a":{"k":{"p":1.10},"l":1,"k":"x"}}',
         schema(field("a", pa.map_(pa.string(), json_field("value")))), row={"a": [("k", '"x"'), ("l", "1")]}, duplicates=1),
    Case("map of maps of lists", b'{"a":{"k":{"l":[1,2],"m":[]},"n":{}}}',
         schema(field("a", pa.map_(pa.string(), pa.map_(pa.string(), pa.list_(pa.int64()))))),
         row={"a": [("k", [("l", [1, 2]), ("m", [])]), ("n", [])]}),
    Case("error in a map in a list", b'{"a":[{"k":1},{"l":true}]}',
         schema(field("a", pa.list_(pa.map_(pa.string(), pa.int64())))), code="type", path="a[1].l", offset=19),
    Case("field called like the step for values", b'{"{}":{"{}":{"k":"x"}}}',
         schema(field("{}", pa.struct([field("{}", pa.map_(pa.string(), pa.int64()))]))), code="type", path="{}.{}.k"),
    Case("keys of a map keep their case", b'{"A":{"x":1,"X":2}}', A_MAP, row={"a": [("x", 1), ("X", 2)]}, ignore_case=True),
    Case("coerced: values of a map", b'{"a":{"x":"12","y":3}}', A_MAP, row={"a": [("x", 12), ("y", 3)]}, coerce=True),
    Case("map 128 levels deep", b'{"a":{"k":' + b"[" * 126 + b"]" * 126 + b"}}",
         schema(field("a", pa.map_(pa.string(), json_field("value")))), row={"a": [("k", "[" * 126 + "]" * 126)]}),
    Case("map 129 levels deep", b'{"a":{"k":' + b"[" * 127 + b"]" * 127 + b"}}",
         schema(field("a", pa.map_(pa.string(), json_field("value")))), code="depth", offset=10 + 126),
    Case("map of 1,000 keys", b'{"a":{' + b",".join(b'"k%d":%d' % (n, n) for n in range(1000)) + b"}}", A_MAP,
         row={"a": [(f"k{n}", n) for n in range(1000)]}),
]  # fmt: skip

_OPEN = [
    Case("open object, as it is written", b'{"a":{"x": 1.10,\n"y":[ ]}}', A_OPEN, row={"a": '{"x": 1.10,\n"y":[ ]}'}),
    Case("open array", b'{"a":[1,"x",null]}', A_OPEN, row={"a": '[1,"x",null]'}),
    Case("open string", b'{"a":"x\\n"}', A_OPEN, row={"a": '"x\\n"'}),
    Case("open number keeps its digits", b'{"a":1.10}', A_OPEN, row={"a": "1.10"}),
    Case("open number beyond 64 bits", b'{"a":123456789012345678901234567890}', A_OPEN,
         row={"a": "123456789012345678901234567890"}),
    Case("open boolean", b'{"a":true}', A_OPEN, row={"a": "true"}),
    Case("open null is null", b'{"a":null}', A_OPEN, row={"a": None}),
    Case("open required", b'{"a":{}}', schema(json_field("a", nullable=False)), row={"a": "{}"}),
    Case("open required and null", b'{"a":null}', schema(json_field("a", nullable=False)), code="required", path="a"),
    Case("open items", b'{"a":[{"k":1},"x",null]}', schema(field("a", pa.list_(json_field("item")))),
         row={"a": ['{"k":1}', '"x"', None]}),
    Case("open in items", b'{"a":[{"o":1},{},{"o":{"p":2}}]}', schema(field("a", pa.list_(pa.struct([json_field("o")])))),
         row={"a": [{"o": "1"}, {"o": None}, {"o": '{"p":2}'}]}),
    Case("marked by metadata alone", b'{"a":{"x":1}}', schema(field("a", pa.string(), mark={JSON_MARK: b"1"})),
         row={"a": '{"x":1}'}),
]  # fmt: skip

_UNKNOWN = [
    Case("unknown field", b'{"a":1,"z":2}', A_INT, row={"a": 1}, unknown=((("z",), 1),), rest='{"z":2}'),
    Case("unknown, byte for byte", b'{"z":{ "k" : 1.10 },"a":1}', A_INT, row={"a": 1},
         unknown=((("z",), 1),), rest='{"z":{ "k" : 1.10 }}'),
    Case("unknown null is kept and not counted", b'{"a":1,"z":null}', A_INT, row={"a": 1}, rest='{"z":null}'),
    Case("unknown empty array is kept and not counted", b'{"a":1,"z":[]}', A_INT, row={"a": 1}, rest='{"z":[]}'),
    Case("unknown false counts", b'{"z":false}', A_INT, row={"a": None}, unknown=((("z",), 1),), rest='{"z":false}'),
    Case("unknown nested", b'{"a":{"x":1,"z":true}}', A_STRUCT, row={"a": {"x": 1, "y": None}},
         unknown=((("a", "z"), 1),), rest='{"a":{"z":true}}'),
    Case("unknown in items", b'{"order":{"id":"o","items":[{"sku":"s"},{"sku":"t","q":1}]}}', A_DEEP,
         row={"order": {"id": "o", "items": [{"sku": "s", "n": None}, {"sku": "t", "n": None}], "extra": None}},
         unknown=((("order", "items", "[]", "q"), 1),), rest='{"order":{"items":{"1":{"q":1}}}}'),
    Case("nothing unknown", b'{"a":1}', A_INT, row={"a": 1}),
    Case("everything unknown", b'{"y":1,"z":{}}', EMPTY, row={}, unknown=((("y",), 1), (("z",), 1)), rest='{"y":1,"z":{}}'),
    Case("unknown keeps the last of duplicates", b'{"z":1,"z":2}', A_INT, row={"a": None}, duplicates=1,
         unknown=((("z",), 1),), rest='{"z":2}'),
]  # fmt: skip

_CASELESS = [
    Case("names without case", b'{"A":1}', A_INT, row={"a": 1}, ignore_case=True),
    Case("names without case, nested", b'{"A":{"X":1,"Y":"k"}}', A_STRUCT, row={"a": {"x": 1, "y": "k"}}, ignore_case=True),
    Case("names without case, the last wins", b'{"a":1,"A":2}', A_INT, row={"a": 2}, duplicates=1, ignore_case=True),
    Case("names without case, the last by place wins", b'{"a":1,"A":2,"a":3}', A_INT, row={"a": 3}, duplicates=2,
         ignore_case=True),
    Case("names without case, open part", b'{"A":{"x": 1}}', A_OPEN, row={"a": '{"x": 1}'}, ignore_case=True),
    Case("names without case, error", b'{"A":"x"}', A_INT, code="type", path="A", ignore_case=True),
    Case("names without case, unknown", b'{"B":1}', A_INT, row={"a": None}, unknown=((("B",), 1),), rest='{"B":1}',
         ignore_case=True),
]  # fmt: skip

_COERCED = [
    Case("coerced: text to integer", b'{"a":"12"}', A_INT, row={"a": 12}, coerce=True),
    Case("coerced: text to integer by escape", b'{"a":"\\u0031e2"}', A_INT, row={"a": 100}, coerce=True),
    Case("coerced: text with a fraction to integer", b'{"a":"1.5"}', A_INT, code="type", path="a", offset=5, coerce=True),
    Case("coerced: text beyond 64 bits", b'{"a":"9223372036854775808"}', A_INT, code="range", path="a", coerce=True),
    Case("coerced: text that is no number", b'{"a":"12 "}', A_INT, code="format", path="a", offset=5, coerce=True),
    Case("coerced: empty text", b'{"a":""}', A_DOUBLE, code="format", path="a", coerce=True),
    Case("coerced: text to double", b'{"a":"-1.5e3"}', A_DOUBLE, row={"a": -1500.0}, coerce=True),
    Case("coerced: text to decimal", b'{"a":"12.34"}', A_DECIMAL, row={"a": Decimal("12.34")}, coerce=True),
    Case("coerced: text to seconds", b'{"a":"1764000000"}', unit("s"), row={"a": moment(2025, 11, 24, 16)}, coerce=True),
    Case("coerced: number to text keeps its digits", b'{"a":1.50}', A_TEXT, row={"a": "1.50"}, coerce=True),
    Case("coerced: boolean to text", b'{"a":true}', A_TEXT, row={"a": "true"}, coerce=True),
    Case("coerced: object to text", b'{"a":{"x": 1}}', A_TEXT, row={"a": '{"x": 1}'}, coerce=True),
    Case("coerced: null stays null", b'{"a":null}', A_TEXT, row={"a": None}, coerce=True),
    Case("coerced: text is no boolean", b'{"a":"true"}', A_BOOL, code="type", path="a", coerce=True),
    Case("coerced: boolean is no integer", b'{"a":true}', A_INT, code="type", path="a", coerce=True),
]  # fmt: skip

CASES: list[Case] = [
    *_MALFORMED,
    *_FINE,
    *_DEPTH,
    *_DUPLICATES,
    *_NUMBERS,
    *_DECIMALS,
    *_TIMES,
    *_TYPES,
    *_MAPS,
    *_OPEN,
    *_UNKNOWN,
    *_CASELESS,
    *_COERCED,
]
