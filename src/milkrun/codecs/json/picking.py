"""A few scalars from each body, for routing, without keeping the rest; every body is still checked to be a sound JSON object.

msgspec reads the wanted fields and skips the others. What it lets through in what it skips (invalid UTF-8) or refuses with little to
say goes row by row through the strict parser, which has the last word.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from milkrun.codecs.json.errors import RowError, Undecodable, error_batch
from milkrun.codecs.json.parsing import MAX_DEPTH, Parser

_BOM = b"\xef\xbb\xbf"
_TEXT = msgspec.json.Decoder(str)
Tree = dict[str, "Tree"]


@dataclass(frozen=True, slots=True)
class Picked:
    """One column of strings a path: texts as they are, numbers and booleans as the body writes them, null for anything else.
    Rows in `errors` (`ERROR_SCHEMA`) are null in all columns."""

    columns: list[pa.StringArray]
    errors: pa.RecordBatch


def pick(values: pa.BinaryArray, paths: Sequence[tuple[str, ...]], *, max_depth: int = MAX_DEPTH) -> Picked:
    """The scalars at these paths of each body (null bodies give nulls)."""
    suspects = _suspects(values, max_depth)
    parser = Parser(max_depth=max_depth)
    decode = _decoder(paths)
    errors: dict[int, RowError] = {}
    found: list[tuple[str | None, ...]] = []
    nothing = (None,) * len(paths)
    for row, body in enumerate(values.to_pylist()):
        if body is None:
            found.append(nothing)
            continue
        try:
            if row in suspects:
                parser.parse(body)
            found.append(decode(body))
        except (msgspec.DecodeError, Undecodable, RecursionError):
            try:
                parser.parse(body)
                found.append(decode(body.removeprefix(_BOM)))
            except Undecodable as error:
                errors[row] = error.row_error()
                found.append(nothing)
    columns = zip(*found, strict=True) if found and paths else [()] * len(paths)
    return Picked([pa.array(column, pa.string()) for column in columns], error_batch(errors))


def _suspects(values: pa.BinaryArray, max_depth: int) -> frozenset[int]:
    """Rows that need the strict parser's word: no UTF-8, an escape that may be a surrogate, perhaps too deep."""
    try:
        values.cast(pa.string())
    except pa.ArrowInvalid:
        return frozenset(range(len(values)))
    opened = pc.add(pc.count_substring(values, "["), pc.count_substring(values, "{"))
    odd = pc.or_(pc.greater(opened, max_depth), pc.match_substring(values, "\\ud", ignore_case=True))
    return frozenset(np.flatnonzero(odd.fill_null(False).to_numpy(zero_copy_only=False)).tolist())


def _decoder(paths: Sequence[tuple[str, ...]]) -> Callable[[bytes], tuple[str | None, ...]]:
    """A function from a body to the texts at the paths; msgspec.DecodeError where msgspec refuses the body."""
    tree: Tree = {}
    for path in paths:
        node = tree
        for step in path:
            node = node.setdefault(step, {})
    decode = msgspec.json.Decoder(_struct(tree)).decode
    places = [_places(tree, path) for path in paths]

    def texts(body: bytes) -> tuple[str | None, ...]:
        root = decode(body)
        return tuple([_follow(root, place) for place in places])

    return texts


def _struct(tree: Tree) -> type[msgspec.Struct]:
    """A struct with the tree's steps as fields f0, f1, ...: leaves are raw JSON, inner nodes structs or whatever else stands there."""
    fields: list[tuple[str, Any, Any]] = []
    for index, (_, inner) in enumerate(tree.items()):
        kind: Any = (
            _struct(inner) | str | int | float | bool | list[msgspec.Raw] | None if inner else msgspec.Raw
        )
        fields.append((f"f{index}", kind, None))
    return msgspec.defstruct(
        "Node", fields, rename={f"f{index}": step for index, step in enumerate(tree)}, gc=False
    )


def _places(tree: Tree, path: tuple[str, ...]) -> tuple[str, ...]:
    """The struct attributes that lead to the path's end."""
    places, node = [], tree
    for step in path:
        places.append(f"f{list(node).index(step)}")
        node = node[step]
    return tuple(places)


def _follow(node: Any, place: tuple[str, ...]) -> str | None:
    for attribute in place:
        node = getattr(node, attribute, None)
    if isinstance(node, msgspec.Raw):
        return _scalar(bytes(node))
    # A path that ends where another goes on: the value is decoded already.
    if isinstance(node, str):
        return node
    if isinstance(node, bool | int | float):
        return msgspec.json.encode(node).decode()
    return None


def _scalar(raw: bytes) -> str | None:
    first = raw[0]
    if first == 0x22:
        return raw[1:-1].decode() if b"\\" not in raw else _TEXT.decode(raw)
    return raw.decode() if first not in b"[{n" else None
