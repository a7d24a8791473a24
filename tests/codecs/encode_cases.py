"""What `encode` writes, case by case, worked out by hand: every engine must give these very bytes, or refuse."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pyarrow as pa

from milkrun.encoding import Writing
from milkrun.model.schema import DECIMAL_TEXT_MARK, TIMESTAMP, UNIT_MARK, json_field

PLAIN = Writing()
KSQLDB = Writing(ksqldb=True)
UNMARKED = Writing(marks=False)
NO_NULLS = Writing(nulls=False)


@dataclass(frozen=True, slots=True)
class Case:
    """Values of a column `a`, and the text of each, `a`'s name left out; or what the refusal says."""

    name: str
    field: pa.Field
    values: list[Any] | pa.Array
    texts: list[str] | None = None
    writing: Writing = PLAIN
    refused: str = ""

    @property
    def column(self) -> pa.Array:
        """The values."""
        return self.values if isinstance(self.values, pa.Array) else pa.array(self.values, self.field.type)


def _a(kind: pa.DataType, mark: dict[bytes, bytes] | None = None) -> pa.Field:
    return pa.field("a", kind, metadata=mark)


def _whole(kind: pa.DataType, numbers: list[int]) -> pa.Array:
    """A column of what dates, times or timestamps are stored as."""
    storage = pa.int32() if kind.bit_width == 32 else pa.int64()
    return pa.array(numbers, storage).view(kind)


def _unit(unit: str) -> dict[bytes, bytes]:
    return {UNIT_MARK: unit.encode()}


_DOUBLES = [1.0, -0.0, 0.1, 1e15, 1e16, 1e-4, 1e-5, 1.5e-7, 1e22, 123456789.125, 5e-324, 1.7976931348623157e308,
            9007199254740993.0, 2e-323]  # fmt: skip
_FLOATS = [0.1, 1.0, 16777216.0, 1e10, 1e16, 1e-5, 1.401298464324817e-45, 3.4028234663852886e38]
_WORDS = [math.nan, math.inf, -math.inf]
_TALL = "1" + "0" * 73 + "1.1"
_POINTS = pa.struct([("x", pa.int64()), ("y", pa.list_(pa.int64()))])

CASES = [
    Case("null", _a(pa.null()), [None], ["null"]),
    Case("boolean", _a(pa.bool_()), [True, False, None], ["true", "false", "null"]),
    Case("int8", _a(pa.int8()), [-128, 127], ["-128", "127"]),
    Case("int16", _a(pa.int16()), [-(2**15)], ["-32768"]),
    Case("int32", _a(pa.int32()), [-(2**31)], ["-2147483648"]),
    Case("int64", _a(pa.int64()), [-(2**63), 2**63 - 1, 0], [str(-(2**63)), str(2**63 - 1), "0"]),
    Case("uint8", _a(pa.uint8()), [255], ["255"]),
    Case("uint16", _a(pa.uint16()), [65535], ["65535"]),
    Case("uint32", _a(pa.uint32()), [2**32 - 1], ["4294967295"]),
    Case("uint64", _a(pa.uint64()), [2**64 - 1, 7], [str(2**64 - 1), "7"]),
    Case("double", _a(pa.float64()), _DOUBLES,
         ["1.0", "-0.0", "0.1", "1000000000000000.0", "1e+16", "0.0001", "1e-05", "1.5e-07", "1e+22", "123456789.125", "5e-324",
          "1.7976931348623157e+308", "9007199254740992.0", "2e-323"]),
    # Java 19, Double.toString.
    Case("double as Java", _a(pa.float64()), [*_DOUBLES, 0.001, 9999999.0, 1e7, 100226670.37],
         ["1.0", "-0.0", "0.1", "1.0E15", "1.0E16", "1.0E-4", "1.0E-5", "1.5E-7", "1.0E22", "1.23456789125E8", "4.9E-324",
          "1.7976931348623157E308", "9.007199254740992E15", "2.0E-323", "0.001", "9999999.0", "1.0E7", "1.0022667037E8"], KSQLDB),
    Case("float", _a(pa.float32()), _FLOATS,
         ["0.1", "1.0", "16777216.0", "10000000000.0", "1e+16", "1e-05", "1e-45", "3.4028235e+38"]),
    Case("float as Java", _a(pa.float32()), _FLOATS,
         ["0.1", "1.0", "1.6777216E7", "1.0E10", "1.0E16", "1.0E-5", "1.4E-45", "3.4028235E38"], KSQLDB),
    Case("words", _a(pa.float64()), _WORDS, ['"NaN"', '"Infinity"', '"-Infinity"']),
    Case("words of floats", _a(pa.float32()), _WORDS, ['"NaN"', '"Infinity"', '"-Infinity"']),
    Case("words as Java", _a(pa.float64()), _WORDS, ['"NaN"', '"Infinity"', '"-Infinity"'], KSQLDB),
    Case("decimal", _a(pa.decimal128(38, 9)),
         [Decimal(0), Decimal("-0.000000001"), Decimal("12345678901234567890123456789.123456789"), Decimal("1.5")],
         ["0.000000000", "-0.000000001", "12345678901234567890123456789.123456789", "1.500000000"]),
    # Java, BigDecimal.toString.
    Case("decimal as Java", _a(pa.decimal128(38, 9)),
         [Decimal(0), Decimal("0.0000001"), Decimal("0.000001"), Decimal("-1.5")],
         ["0E-9", "1.00E-7", "0.000001000", "-1.500000000"], KSQLDB),
    Case("decimal of a scale below zero", _a(pa.decimal128(5, -2)), [Decimal(12300), Decimal(0)], ["12300", "0"]),
    Case("decimal of a scale below zero as Java", _a(pa.decimal128(5, -2)), [Decimal(12300)], ["1.23E+4"], KSQLDB),
    Case("decimal without a scale", _a(pa.decimal128(5, 0)), [Decimal(-7)], ["-7"]),
    Case("decimal of 256 bits", _a(pa.decimal256(76, 1)),
         pa.array([_TALL, f"-{_TALL}", "0.5", "-0.5", "-340282366920938463463374607431768211456.0"]).cast(pa.decimal256(76, 1)),
         [_TALL, f"-{_TALL}", "0.5", "-0.5", "-340282366920938463463374607431768211456.0"]),
    Case("decimal of 32 bits", _a(pa.decimal32(9, 2)), [Decimal("-1234567.89")], ["-1234567.89"]),
    Case("decimal of 64 bits", _a(pa.decimal64(18, 2)), [Decimal("-0.05")], ["-0.05"]),
    Case("decimal as text", _a(pa.decimal128(9, 2), {DECIMAL_TEXT_MARK: b"1"}), [Decimal("1.5"), None], ['"1.50"', "null"]),
    Case("decimal unmarked", _a(pa.decimal128(9, 2), {DECIMAL_TEXT_MARK: b"1"}), [Decimal("1.5")], ["1.50"], UNMARKED),
    Case("text", _a(pa.string()), ['"\\/', "\b\t\n\f\r", "\x00\x1f\x7f", "é😀", "", "a" * 100 + '"'],
         ['"\\"\\\\/"', '"\\b\\t\\n\\f\\r"', '"\\u0000\\u001f\x7f"', '"é😀"', '""', '"' + "a" * 100 + '\\""']),
    Case("large text", _a(pa.large_string()), ["x", None], ['"x"', "null"]),
    Case("a special byte at every place of every length", _a(pa.string()),
         ["b" * place + "\n" + "b" * (length - place - 1) for length in range(1, 20) for place in range(length)],
         ['"' + "b" * place + "\\n" + "b" * (length - place - 1) + '"' for length in range(1, 20) for place in range(length)]),
    Case("every length", _a(pa.string()), ["é" + "c" * length for length in range(80)],
         ['"é' + "c" * length + '"' for length in range(80)]),
    Case("json", json_field("a"), ['{"b" : 1.50}', "[]", None], ['{"b" : 1.50}', "[]", "null"]),
    Case("bytes", _a(pa.binary()), [b"x"], refused="the field 'a' has the type binary, which JSON can't hold"),
    # RFC 4648, section 10.
    Case("bytes as ksqlDB", _a(pa.binary()), [b"", b"f", b"fo", b"foo", b"foob", b"\xff\xfe\xfd"],
         ['""', '"Zg=="', '"Zm8="', '"Zm9v"', '"Zm9vYg=="', '"//79"'], KSQLDB),
    Case("large bytes as ksqlDB", _a(pa.large_binary()), [b"f"], ['"Zg=="'], KSQLDB),
    Case("date", _a(pa.date32()), [date(1, 1, 1), date(9999, 12, 31), date(2028, 2, 29), date(1970, 1, 1), date(1900, 3, 1)],
         ['"0001-01-01"', '"9999-12-31"', '"2028-02-29"', '"1970-01-01"', '"1900-03-01"']),
    Case("date as days", _a(pa.date32()), [date(1969, 12, 31), date(2003, 12, 24)], ["-1", "12410"], KSQLDB),
    Case("date beyond", _a(pa.date32()), _whole(pa.date32(), [0, 2_932_897]),
         refused="row 1: the value of a is not within the years 1 to 9999"),
    Case("date before", _a(pa.date32()), _whole(pa.date32(), [-719_163]),
         refused="row 0: the value of a is not within the years 1 to 9999"),
    Case("date in milliseconds", _a(pa.date64()), _whole(pa.date64(), [-1, 86_400_000]), ['"1969-12-31"', '"1970-01-02"']),
    Case("date in milliseconds as days", _a(pa.date64()), _whole(pa.date64(), [-1, 86_400_000]), ["-1", "1"], KSQLDB),
    Case("time", _a(pa.time64("us")), [time(0), time(23, 59, 59, 999_999), time(1, 2, 3, 40)],
         ['"00:00:00.000000"', '"23:59:59.999999"', '"01:02:03.000040"']),
    Case("time in seconds", _a(pa.time32("s")), [time(9, 16)], ['"09:16:00"']),
    Case("time in milliseconds", _a(pa.time32("ms")), [time(9, 16, 0, 7_000)], ['"09:16:00.007"']),
    Case("time in nanoseconds", _a(pa.time64("ns")), _whole(pa.time64("ns"), [1]), ['"00:00:00.000000001"']),
    Case("time as ksqlDB", _a(pa.time64("us")), [time(9, 16, 0, 1_999)], ["33360001"], KSQLDB),
    Case("time in seconds as ksqlDB", _a(pa.time32("s")), [time(9, 16)], ["33360000"], KSQLDB),
    Case("time beyond", _a(pa.time64("us")), _whole(pa.time64("us"), [86_400_000_000]), refused="row 0: the value of a is no time of a day"),
    Case("time before", _a(pa.time32("ms")), _whole(pa.time32("ms"), [0, 0, -1]), refused="row 2: the value of a is no time of a day"),
    Case("instant", _a(TIMESTAMP), [datetime(1, 1, 1, tzinfo=UTC), datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC),
                                    datetime.max.replace(tzinfo=UTC), None],
         ['"0001-01-01T00:00:00.000000Z"', '"1969-12-31T23:59:59.999999Z"', '"9999-12-31T23:59:59.999999Z"', "null"]),
    Case("instant of another zone", _a(pa.timestamp("ms", "Europe/Amsterdam")), _whole(pa.timestamp("ms", "Europe/Amsterdam"), [0]),
         ['"1970-01-01T00:00:00.000Z"']),
    Case("timestamp without zone", _a(pa.timestamp("s")), _whole(pa.timestamp("s"), [-1]), ['"1969-12-31T23:59:59"']),
    Case("timestamp in nanoseconds", _a(pa.timestamp("ns")), _whole(pa.timestamp("ns"), [-1, 2**63 - 1]),
         ['"1969-12-31T23:59:59.999999999"', '"2262-04-11T23:47:16.854775807"']),
    Case("instant beyond", _a(TIMESTAMP), _whole(TIMESTAMP, [253_402_300_800_000_000]),
         refused="row 0: the value of a is not within the years 1 to 9999"),
    Case("instant before", _a(pa.timestamp("s")), _whole(pa.timestamp("s"), [-62_135_596_801]),
         refused="row 0: the value of a is not within the years 1 to 9999"),
    Case("instant as ksqlDB", _a(TIMESTAMP), _whole(TIMESTAMP, [1_001, -1, 2**62]), ["1", "-1", str(2**62 // 1000)], KSQLDB),
    Case("seconds as ksqlDB", _a(pa.timestamp("s")), _whole(pa.timestamp("s"), [2**62]), [str(2**62 * 1000)], KSQLDB),
    Case("instant in seconds", _a(TIMESTAMP, _unit("s")), _whole(TIMESTAMP, [1_500_000, -1, -2_000_000, 0]),
         ["1.5", "-0.000001", "-2", "0"]),
    Case("instant in milliseconds", _a(TIMESTAMP, _unit("ms")), _whole(TIMESTAMP, [1_500, 20]), ["1.5", "0.02"]),
    Case("instant in microseconds", _a(TIMESTAMP, _unit("us")), _whole(TIMESTAMP, [-7]), ["-7"]),
    Case("instant unmarked", _a(TIMESTAMP, _unit("s")), _whole(TIMESTAMP, [0]), ['"1970-01-01T00:00:00.000000Z"'], UNMARKED),
    Case("instant marked as ksqlDB", _a(TIMESTAMP, _unit("s")), _whole(TIMESTAMP, [5_000_000]), ["5000"], KSQLDB),
    Case("struct", _a(_POINTS), [{"x": 1, "y": [1, None]}, {"x": None, "y": None}, None],
         ['{"x":1,"y":[1,null]}', '{"x":null,"y":null}', "null"]),
    Case("struct without nulls", _a(_POINTS), [{"x": None, "y": [None]}, {"x": None, "y": None}], ['{"y":[null]}', "{}"], NO_NULLS),
    Case("struct without members", _a(pa.struct([])), [{}, None], ["{}", "null"]),
    Case("list", _a(pa.list_(pa.list_(pa.string()))), [[["b"], [], None], [], None], ['[["b"],[],null]', "[]", "null"]),
    Case("large list", _a(pa.large_list(pa.int8())), [[1], None, [2, 3]], ["[1]", "null", "[2,3]"]),
    Case("a value below a null isn't looked at", _a(pa.struct([pa.field("d", pa.date32())])),
         pa.StructArray.from_arrays([_whole(pa.date32(), [10**9, 0])], fields=[pa.field("d", pa.date32())], mask=pa.array([True, False])),
         ["null", '{"d":"1970-01-01"}']),
    Case("a place in a list of structs", _a(pa.list_(pa.struct([pa.field("d", pa.date32())]))),
         pa.ListArray.from_arrays(pa.array([0, 2], pa.int32()),
                                  pa.StructArray.from_arrays([_whole(pa.date32(), [0, 10**9])], names=["d"])),
         refused="row 0: the value of a[].d is not within"),
    Case("map", _a(pa.map_(pa.string(), pa.int64())), [[("b", 1), ('"', None)], [], None], ['{"b":1,"\\"":null}', "{}", "null"]),
    Case("map without null members", _a(pa.map_(pa.string(), pa.int64())), [[("b", None), ("c", 1)], [("d", None)], [("e", 2)]],
         ['{"b":null,"c":1}', '{"d":null}', '{"e":2}'], NO_NULLS),
    Case("map of structs", _a(pa.map_(pa.large_string(), _POINTS)), [[("b", {"x": 1, "y": []})]], ['{"b":{"x":1,"y":[]}}']),
    Case("map of other keys", _a(pa.map_(pa.int64(), pa.int64())), [[(1, 1)]], refused="which JSON can't hold"),
    Case("dictionary", _a(pa.dictionary(pa.int8(), pa.string())),
         pa.DictionaryArray.from_arrays(pa.array([1, None, 2, 0], pa.int8()), pa.array(["b", "c", None])), ['"c"', "null", "null", '"b"']),
    Case("dictionary in a struct", _a(pa.struct([("d", pa.dictionary(pa.uint32(), pa.float64()))])),
         pa.StructArray.from_arrays([pa.DictionaryArray.from_arrays(pa.array([1, 0], pa.uint32()), pa.array([0.5, 1e16]))], names=["d"]),
         ['{"d":1e+16}', '{"d":0.5}']),
    Case("dictionary of structs", _a(pa.dictionary(pa.int64(), pa.struct([("x", pa.int64())]))),
         pa.DictionaryArray.from_arrays(pa.array([0, 0], pa.int64()), pa.array([{"x": 1}], pa.struct([("x", pa.int64())]))),
         ['{"x":1}', '{"x":1}']),
    Case("half floats", _a(pa.float16()), pa.array([1.0], pa.float32()).cast(pa.float16()), refused="which JSON can't hold"),
]  # fmt: skip
