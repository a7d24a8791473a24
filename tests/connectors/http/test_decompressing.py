"""Content encodings: whole, damaged, cut off, and made to fill the memory."""

from __future__ import annotations

import gzip
import tracemalloc

import pytest
import zstandard

from milkrun.connectors.http.decompressing import MAX_MEMBERS, decompress
from milkrun.connectors.http.refusals import Refusal

TEXT = b'{"text":"' + bytes(range(97, 123)) * 5000 + b'"}'
LIMIT = 1 << 20
COMPRESS = {
    "gzip": lambda data: gzip.compress(data, 6),
    "zstd": lambda data: zstandard.ZstdCompressor(write_checksum=True).compress(data),
}
BOTH = pytest.mark.parametrize("encoding", ["gzip", "zstd"])


def anything(nbytes: int) -> None:
    """Room for all."""


def refused(body: bytes, encoding: str, limit: int = LIMIT) -> tuple[int, str, str]:
    with pytest.raises(Refusal) as raised:
        decompress(body, encoding, limit, anything)
    return raised.value.status, raised.value.code, raised.value.message


@BOTH
@pytest.mark.parametrize("data", [b"", b"x", TEXT])
def test_what_was_compressed_comes_out(encoding: str, data: bytes) -> None:
    assert decompress(COMPRESS[encoding](data), encoding, LIMIT, anything) == data


@BOTH
def test_several_members_are_one_body(encoding: str) -> None:
    body = COMPRESS[encoding](TEXT) + COMPRESS[encoding](b"") + COMPRESS[encoding](b"end")
    assert decompress(body, encoding, LIMIT, anything) == TEXT + b"end"


def test_zstd_frames_that_are_skipped_hold_nothing() -> None:
    skipped = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"
    assert decompress(skipped + COMPRESS["zstd"](b"x"), "zstd", LIMIT, anything) == b"x"


@BOTH
def test_every_cut_is_noticed(encoding: str) -> None:
    body = COMPRESS[encoding](TEXT)
    for end in (*range(1, 20), *range(20, len(body), 97), *range(len(body) - 9, len(body))):
        status, code, message = refused(body[:end], encoding)
        assert (status, code) == (400, "encoding")
        assert "ends too early" in message


@BOTH
@pytest.mark.parametrize("tail", [b"\n", b"garbage behind the end"])
def test_what_stands_behind_the_end_is_refused(encoding: str, tail: bytes) -> None:
    assert refused(COMPRESS[encoding](TEXT) + tail, encoding)[:2] == (400, "encoding")


@BOTH
def test_damage_is_refused(encoding: str) -> None:
    body = bytearray(COMPRESS[encoding](TEXT))
    body[-3] ^= 0xFF  # within the checksum
    assert refused(bytes(body), encoding)[:2] == (400, "encoding")
    assert refused(b"{}" * 20, encoding)[:2] == (400, "encoding")


@BOTH
def test_the_limit_is_exact(encoding: str) -> None:
    body = COMPRESS[encoding](TEXT)
    assert decompress(body, encoding, len(TEXT), anything) == TEXT
    assert refused(body, encoding, len(TEXT) - 1)[:2] == (413, "too_large")


@BOTH
def test_a_bomb_takes_no_more_memory_than_the_limit_and_a_piece(encoding: str) -> None:
    bomb = COMPRESS[encoding](bytes(100 << 20))
    tracemalloc.start()
    try:
        assert refused(bomb, encoding)[:2] == (413, "too_large")
        assert tracemalloc.get_traced_memory()[1] < LIMIT + (12 << 20)
    finally:
        tracemalloc.stop()


def test_a_zstd_window_beyond_what_http_allows_is_refused() -> None:
    # RFC 9659: no more than 8 MB over HTTP. Window_Descriptor 0x71: exponent 14, mantissa 1 is 16 MB and an eighth.
    assert refused(b"\x28\xb5\x2f\xfd\x00\x71" + b"\x01\x00\x00", "zstd")[:2] == (400, "encoding")


def test_countless_empty_members_are_refused() -> None:
    assert refused(gzip.compress(b"") * (MAX_MEMBERS + 1), "gzip")[:2] == (400, "encoding")


def test_room_is_asked_for_before_anything_is_kept() -> None:
    sizes: list[int] = []
    decompress(gzip.compress(bytes(3 << 20)), "gzip", 4 << 20, sizes.append)
    assert sum(sizes) == 3 << 20
    assert max(sizes) <= 1 << 20
