"""Files read once to their end: formats, gzip, faults, bounds, restarts, and what is refused."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import pytest

from milkrun.connectors.files import FilesConfig
from milkrun.model.errors import ConfigError, ConfigErrors, GapError, Refused, Transient
from milkrun.plugin.config import describe
from tests.connectors.files.folder import append, make, reading


def test_files_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "b.ndjson").write_bytes(b"3\n\n4")
    (tmp_path / "a.ndjson").write_bytes(b"1\n2\n")
    (tmp_path / "c.txt").write_bytes(b"no")
    with reading(tmp_path) as run:
        assert run.more() == [b"1", b"2", b"3", b"4"]
        assert run.column("file") == ["a.ndjson", "a.ndjson", "b.ndjson", "b.ndjson"]
        assert run.column("line") == ["1", "2", "1", "3"]
        marks = [str(place).split(":") for place in run.column("file.position")]
        assert [place for _, place in marks] == ["0", "2", "0", "3"]
        assert marks[0][0] == marks[1][0] != marks[2][0]
        assert run.taken[0].headers[3].as_py() == [
            {"key": "file.path", "value": b"b.ndjson"},
            {"key": "file.line", "value": b"3"},
        ]
        assert run.source.poll(10, 60.0) is None


def test_a_file_renamed_before_its_turn_is_found_again(tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_bytes(b"1\n")
    (tmp_path / "b.ndjson").write_bytes(b"2\n")
    with reading(tmp_path) as run:
        first = run.source.poll(1, 0.0)
        assert first is not None and first.values.to_pylist() == [b"1"]
        (tmp_path / "b.ndjson").rename(tmp_path / "b.old")
        assert run.more() == [b"2"]
        assert run.column("file") == ["b.ndjson"]


def test_patterns_may_be_absolute_deep_and_name_a_file_twice(tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "deep" / "a.jsonl").write_bytes(b"1\n")
    (tmp_path / "in" / "link.jsonl").symlink_to(tmp_path / "in" / "deep" / "a.jsonl")
    with reading(tmp_path, paths=["in/**/*.jsonl", str(tmp_path / "in" / "*" / "a.*")]) as run:
        assert run.more() == [b"1"]
        assert run.column("file") == ["in/deep/a.jsonl"]


def test_format_by_extension_and_by_option(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes(b"x\ty\n1\t2\n")
    (tmp_path / "b.csv").write_bytes(b"\xef\xbb\xbf\n\nx\n1\n\n2")
    (tmp_path / "c.data").write_bytes(b"1;2\n")
    with reading(tmp_path, paths=["a.*", "b.*"]) as run:
        assert run.more() == [b'{"x":"1","y":"2"}', b'{"x":"1"}', b'{"x":"2"}']
        assert run.column("line") == ["2", "4", "6"]
    options: dict[str, Any] = {"format": "csv", "header": False, "columns": ["p", "q"], "delimiter": ";"}
    with reading(tmp_path, paths=["c.data"], **options) as run:
        assert run.more() == [b'{"p":"1","q":"2"}']
    with reading(tmp_path, paths=["a.tsv"], columns=["p", "q"]) as run:
        assert run.more() == [b'{"p":"1","q":"2"}']
    with reading(tmp_path, paths=["c.data"]) as run, pytest.raises(Refused, match="set format"):
        run.more()


@pytest.mark.parametrize("header", [b"x,x\n", b"x,\n", b'x,"y\n', b"\xff\n"])
def test_a_header_that_names_no_columns_is_refused(tmp_path: Path, header: bytes) -> None:
    (tmp_path / "a.csv").write_bytes(header)
    with reading(tmp_path, paths=["a.csv"]) as run, pytest.raises(Refused, match=r"a\.csv"):
        run.more()


def test_contradicting_options_are_named_all_at_once(tmp_path: Path) -> None:
    columns: dict[str, Any] = {"header": False, "columns": ["b", "b"], "types": {"a": "integer"}}
    with pytest.raises(ConfigErrors) as raised:
        make(tmp_path, paths=[], format="csv", delimiter='"', **columns)
    assert [error.path for error in raised.value.errors] == [
        ("paths",),
        ("columns",),
        ("types", "a"),
        ("delimiter",),
    ]
    with pytest.raises(ConfigErrors, match="nothing names the columns"):
        make(tmp_path, format="tsv", header=False)


def test_every_option_is_documented() -> None:
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "files.md").read_text()
    assert [info.name for info in describe(FilesConfig) if f"`{info.name}`" not in page] == []


def test_a_pattern_without_a_file_is_an_error_unless_following(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no file matches"), reading(tmp_path):
        pass
    with reading(tmp_path, follow=True) as run:
        assert run.more() == []


def test_types_must_name_columns_of_the_header(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"x\n1\n")
    options: dict[str, Any] = {"paths": ["a.csv"], "types": {"z": "integer"}}
    with reading(tmp_path, **options) as run, pytest.raises(Refused, match="no column 'z'"):
        run.more()


def test_long_lines_keep_their_first_bytes_in_bounded_memory(tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_bytes(b"1\n" + b"x" * (5 << 20) + b"\n2\n" + b"y" * (3 << 20))
    with reading(tmp_path, max_event="16KB") as run:
        values = run.more()
        assert values == [b"1", b"x" * (16 << 10), b"2", b"y" * (16 << 10)]
        assert run.faults() == {values[1]: "too_large", values[3]: "too_large"}
        messages = [fault.message for received in run.taken for fault in received.faults]
        assert str(5 << 20) in messages[0]
        position = run.position
    with reading(tmp_path, position, max_event="16KB") as run:
        assert run.more() == []


@pytest.mark.parametrize("extra", [0, 1, 1023, 1024, 1025, 3000])
def test_a_position_behind_a_long_line_is_found_again(tmp_path: Path, extra: int) -> None:
    # The reader drops what exceeds max_event, but the sample before the place must be of the file's own last bytes.
    path = tmp_path / "a.ndjson"
    path.write_bytes(bytes(ord("a") + place % 26 for place in range(16 + (1 << 20) + extra)) + b"\n1\n")
    with reading(tmp_path, max_event=16) as run:
        first = run.source.poll(1, 0.0)
        assert first is not None and len(first) == 1
    with reading(tmp_path, first.position, max_event=16) as run:
        assert run.more() == [b"1"]


# -- gzip


def test_gzip_of_several_members_by_name_or_by_content(tmp_path: Path) -> None:
    data = gzip.compress(b"1\n2") + gzip.compress(b"\n3\n") + b"\0" * 512
    for name in ("a.ndjson.gz", "a.ndjson"):
        (tmp_path / name).write_bytes(data)
        with reading(tmp_path, paths=[name]) as run:
            assert run.more() == [b"1", b"2", b"3"]


def test_truncated_gzip_gives_what_it_has_and_goes_on_when_whole(tmp_path: Path) -> None:
    path, lines = tmp_path / "a.ndjson.gz", [b"%d" % number for number in range(20_000)]
    whole = gzip.compress(b"\n".join(lines), mtime=0)
    path.write_bytes(whole[: len(whole) // 2])
    with reading(tmp_path, paths=["*.gz"]) as run:
        taken: list[bytes] = []
        position = None
        with pytest.raises(Transient, match=r"a\.ndjson\.gz: the gzip file ends in the middle"):
            while (received := run.source.poll(3000, 0.0)) is not None:
                taken += received.values.to_pylist()
                position = received.position
    assert taken and taken == lines[: len(taken)]
    append(path, whole[len(whole) // 2 :])
    with reading(tmp_path, position, paths=["*.gz"]) as run:
        assert taken + run.more() == lines


def test_damaged_gzip_is_refused_after_what_came_before(tmp_path: Path) -> None:
    (tmp_path / "a.ndjson.gz").write_bytes(gzip.compress(b"1\n") + b"garbage")
    with reading(tmp_path, paths=["*.gz"]) as run:
        first = run.source.poll(10, 0.0)
        assert first is not None and first.values.to_pylist() == [b"1"]
        for _ in range(2):
            with pytest.raises(Refused, match="damaged gzip"):
                run.source.poll(10, 0.0)


def test_gzip_resumes_at_its_uncompressed_offset(tmp_path: Path) -> None:
    lines = [f"row {number}".encode() for number in range(500)]
    (tmp_path / "a.ndjson.gz").write_bytes(gzip.compress(b"\n".join(lines)))
    position: Any = None
    values: list[bytes] = []
    while len(values) < 500:
        with reading(tmp_path, position, paths=["*.gz"]) as run:
            received = run.source.poll(97, 0.0)
            assert received is not None
            values, position = values + received.values.to_pylist(), received.position
    assert values == lines


# -- restarts


def read_all(folder: Path) -> object:
    with reading(folder) as run:
        run.more()
        return run.position


def test_a_grown_file_goes_on_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    path.write_bytes(b"1\n2")
    position = read_all(tmp_path)
    append(path, b"\n3\n")
    with reading(tmp_path, position) as run:
        assert run.more() == [b"3"]
        assert run.column("line") == ["3"]


def test_a_last_line_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    path.write_bytes(b"1\n2")
    position = read_all(tmp_path)
    append(path, b"3\n")
    with reading(tmp_path, position) as run, pytest.raises(GapError, match=r"a\.ndjson.*cut short"):
        run.more()


def test_a_replaced_file_is_read_from_its_beginning(tmp_path: Path) -> None:
    path, other = tmp_path / "a.ndjson", tmp_path / "new"
    path.write_bytes(b"1\n2\n")
    position = read_all(tmp_path)
    other.write_bytes(b"3\n4\n5\n")
    other.replace(path)
    with reading(tmp_path, position) as run:
        assert run.more() == [b"3", b"4", b"5"]
        assert len(run.position["files"]) == 1


def test_a_copy_put_in_the_place_of_the_file_goes_on(tmp_path: Path) -> None:
    path, other = tmp_path / "a.ndjson", tmp_path / "a.ndjson.restored"
    path.write_bytes(b"1\n2\n")
    position = read_all(tmp_path)
    other.write_bytes(b"1\n2\n3\n")
    other.replace(path)
    with reading(tmp_path, position) as run:
        assert run.more() == [b"3"]


def test_done_files_may_go_and_half_read_ones_may_not(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    path.write_bytes(b"1\n2\n")
    with reading(tmp_path) as run:
        half = run.source.poll(1, 0.0)
        run.more()
        done = run.position
    path.unlink()
    with reading(tmp_path, done) as run:
        assert run.more() == []
        assert run.position["files"] == []
    assert half is not None
    with (
        pytest.raises(GapError, match=r"a\.ndjson: read up to byte 2.*removed: accept"),
        reading(tmp_path, half.position),
    ):
        pass
    with reading(tmp_path, half.position, removed="accept") as run:
        assert run.more() == []


@pytest.mark.parametrize("size", [1500, 2999])
def test_a_file_cut_behind_its_beginning_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.ndjson"
    path.write_bytes(b"".join(b"line %04d\n" % number for number in range(300)))
    position = read_all(tmp_path)
    os.truncate(path, size)
    with pytest.raises(GapError, match=r"a\.ndjson: read up to byte 3000"), reading(tmp_path, position):
        pass


def test_a_position_of_another_source_is_refused(tmp_path: Path) -> None:
    for position in ({"offset": 3}, {"version": 99}, [1]):
        with pytest.raises(GapError, match="position"), reading(tmp_path, position):
            pass


def test_positions_hold_no_contents(tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_bytes(b'{"card":"4111111111111111"}\n')
    assert "4111" not in str(read_all(tmp_path))


def test_a_file_that_only_begins_like_another_is_read(tmp_path: Path) -> None:
    start = b"".join(b"line %04d\n" % number for number in range(200))
    (tmp_path / "a.ndjson").write_bytes(start)
    with reading(tmp_path, paths=["a.ndjson*"]) as run:
        run.more()
        position = run.position
    (tmp_path / "a.ndjson.2").write_bytes(start[:-10] + b"another!!\nand more\n")
    (tmp_path / "a.ndjson.copy").write_bytes(start)
    with reading(tmp_path, position, paths=["a.ndjson*"], format="ndjson") as run:
        values = run.more()
        assert len(values) == 201 and values[-2:] == [b"another!!", b"and more"]
        assert set(run.column("file")) == {"a.ndjson.2"}


def test_a_name_that_is_not_utf8_is_shown_with_escapes(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.ndjson")).write_bytes(b"1\n2\n")
    with reading(tmp_path) as run:
        first = run.source.poll(1, 0.0)
        assert first is not None and first.attributes["file"].to_pylist() == ["\\udcff.ndjson"]
    with reading(tmp_path, first.position) as run:
        assert run.more() == [b"2"]
