"""Scalars at a few paths as strings in plain Python, each row fully checked, without decoding the rest.

msgspec skips what isn't asked for and checks its syntax; the one thing it doesn't look at there, UTF-8, Arrow checks for the whole
column. Rows that don't fit the quick way go to `text.parse`, which decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from typing import Any

import msgspec
import pyarrow as pa

from milkrun.codecs.json.decoding import parse_each
from milkrun.codecs.json.faults import RowError, errors_batch
from milkrun.codecs.json.plan import may_name_member
from milkrun.codecs.json.screen import screen
from milkrun.codecs.json.text import Number, is_utf8, parse

Path = tuple[str, ...]
Paths = tuple[Path, ...]

_CHUNK_ROWS = 1_024
_QUOTE = 0x22
_TEXT = msgspec.json.Decoder(str)


@dataclass(frozen=True, slots=True)
class Picked:
    """A column of strings for each path, and the rows that are no JSON objects (`ERRORS_SCHEMA`; null in all columns)."""

    columns: list[pa.StringArray]
    errors: pa.RecordBatch


def pick(values: pa.BinaryArray, paths: Paths, max_depth: int, *, validated: bool = False) -> Picked:
    """See `milkrun.codecs.json.pick`."""
    picker = _picker(paths)
    columns: list[list[str | None]] = [[] for _ in paths]
    errors: dict[int, RowError] = {}
    suspect = [] if validated else _suspects(values, max_depth)
    any_scalar = False
    for start in range(0, len(values), _CHUNK_ROWS):
        items = values.slice(start, _CHUNK_ROWS).to_pylist()
        doubtful = {row - start for row in suspect if start <= row < start + len(items)}
        picked = picker.pick(items, doubtful, max_depth, any_scalar=any_scalar)
        # Where strings are the exception, reading them as such first would be in vain for most rows.
        any_scalar = any_scalar or picked.odd * 8 > len(items)
        for column, more in zip(columns, picked.columns, strict=True):
            column.extend(more)
        errors.update((start + row, error) for row, error in picked.errors.items())
    return Picked([pa.array(column, pa.string()) for column in columns], errors_batch(errors))


def _suspects(values: pa.BinaryArray, max_depth: int) -> list[int]:
    """Rows that msgspec must not see (depth) or would not look at closely enough (UTF-8 in what it skips)."""
    deep = screen(values, max_depth).deep
    suspect = set(deep.nonzero()[0].tolist())
    try:
        values.cast(pa.string())
    except pa.ArrowInvalid:
        suspect.update(row for row, item in enumerate(values.to_pylist()) if item and not is_utf8(item))
    return sorted(suspect)


@dataclass
class _Chunk:
    """Strings by path and row; `odd` rows didn't fit the decoder that was tried first."""

    columns: list[list[str | None]]
    odd: int
    errors: dict[int, RowError]


@dataclass(frozen=True)
class _Picker:
    """Decoders made for a set of paths.

    `quick` takes strings at the paths, `raw` anything; both are None where one path leads through another. `attributes` name a
    path's place in what they give, and `blank` is what stands for a row that isn't there.
    """

    paths: tuple[Path, ...]
    quick: Callable[[bytes], Any] | None
    raw: Callable[[bytes], Any] | None
    attributes: tuple[tuple[str, ...], ...]
    blank: Any

    def pick(
        self, items: list[bytes | None], suspect: set[int], max_depth: int, *, any_scalar: bool
    ) -> _Chunk:
        """The strings of one chunk; `suspect` rows go the slow way. `any_scalar` tries `raw` first."""
        first = self.raw if any_scalar else self.quick
        found: list[Any]
        if first is None:
            found = [None] * len(items)
        else:
            seen = [b"" if row in suspect else item for row, item in enumerate(items)] if suspect else items
            found = parse_each(first, seen)
        left = [row for row, each in enumerate(found) if each is None]
        for row in left:
            found[row] = self.blank
        columns = [_follow(found, attributes) for attributes in self.attributes]
        if any_scalar:
            columns = [list(map(_raw_text, column)) for column in columns]
        chunk = _Chunk(columns, len(left), {})
        for row in left:
            item = items[row]
            if item is not None:
                self._pick_slowly(row, item, row in suspect, max_depth, chunk)
        return chunk

    def _pick_slowly(self, row: int, item: bytes, suspect: bool, max_depth: int, chunk: _Chunk) -> None:
        texts = None if suspect or self.raw is None else self._from_raw(item, self.raw)
        if texts is None:
            try:
                members = parse(item, max_depth).members
            except RowError as error:
                chunk.errors[row] = error
                return
            texts = [_scalar_at(members, path) for path in self.paths]
        for column, text in zip(chunk.columns, texts, strict=True):
            column[row] = text

    def _from_raw(self, item: bytes, raw: Callable[[bytes], Any]) -> list[str | None] | None:
        try:
            found = [raw(item)]
            return [_raw_text(_follow(found, attributes)[0]) for attributes in self.attributes]
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return None


def _follow(found: Iterable[Any], attributes: tuple[str, ...]) -> list[Any]:
    """What stands at a path of attributes; None where the way breaks off."""
    *outer, last = attributes
    each = found
    for name in outer:
        each = [None if one is None else getattr(one, name) for one in each]
    if not outer:
        return list(map(attrgetter(last), each))
    return [None if one is None else getattr(one, last) for one in each]


def _raw_text(raw: msgspec.Raw | None) -> str | None:
    text = bytes(raw) if raw is not None else b""
    if not text or text[0] in b"{[n":
        return None
    if text[0] != _QUOTE:
        return text.decode()
    return _TEXT.decode(text) if b"\\" in text else text[1:-1].decode()


def _scalar_at(members: Any, path: Path) -> str | None:
    value = members
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Number):
        return value.text
    return value if isinstance(value, str) else None


@lru_cache(maxsize=256)
def _picker(paths: tuple[Path, ...]) -> _Picker:
    tree: dict[str, Any] = {}
    for path in paths:
        if not path or not may_name_member(path) or not _grow(tree, path):
            # One path leads through another, or to the event itself, or by a name msgspec doesn't take: no struct says that.
            return _Picker(paths, None, None, tuple(("none",) for _ in paths), _NOTHING)
    quick, attributes = _struct(tree, str | None, None)
    raw, _ = _struct(tree, msgspec.Raw, msgspec.Raw())
    return _Picker(
        paths,
        msgspec.json.Decoder(quick).decode,
        msgspec.json.Decoder(raw).decode,
        tuple(attributes[path] for path in paths),
        quick(),
    )


class _Nothing(msgspec.Struct):
    none: None = None


_NOTHING = _Nothing()


def _grow(tree: dict[str, Any], path: Path) -> bool:
    """Add a path to the tree of names; False where it and another can't both be in it."""
    for step in path[:-1]:
        tree = tree.setdefault(step, {})
        if tree is _LEAF:
            return False
    return tree.setdefault(path[-1], _LEAF) is _LEAF


_LEAF: dict[str, Any] = {}
"""Marks the end of a path by its identity."""


def _struct(tree: dict[str, Any], leaf: Any, default: Any) -> tuple[Any, dict[Path, tuple[str, ...]]]:
    """A struct type that picks the tree's leaves, and each path's attributes in it."""
    members: list[tuple[str, Any, Any]] = []
    attributes: dict[Path, tuple[str, ...]] = {}
    for index, (name, below) in enumerate(tree.items()):
        attribute = f"f{index}"
        if below is _LEAF:
            members.append((attribute, leaf, default))
            attributes[(name,)] = (attribute,)
            continue
        kind, inner = _struct(below, leaf, default)
        members.append((attribute, kind | None, None))
        attributes |= {(name, *path): (attribute, *rest) for path, rest in inner.items()}
    rename = {attribute: name for (attribute, _, _), name in zip(members, tree, strict=True)}
    return msgspec.defstruct("Picked", members, rename=rename, gc=False), attributes
