"""The compiled engine: the package `milkrun-native`, built from `native/`, spoken to in Arrow's C data interface.

Gives the same answers as the plain-Python modules beside this one, without the interpreter's lock. Only `engine` imports it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from types import ModuleType
from typing import Protocol, cast

import pyarrow as pa

from milkrun.codecs.json import decoding
from milkrun.codecs.json.decoding import Decoded
from milkrun.codecs.json.faults import ERRORS_SCHEMA
from milkrun.codecs.json.picking import Paths, Picked
from milkrun.codecs.json.plan import Node, Path, Plan, Shape
from milkrun.codecs.json.reading import Reading
from milkrun.codecs.json.rest import rest_name
from milkrun.codecs.json.splitting import Split, no_array, too_deep
from milkrun.compiled import Exported
from milkrun.model.schema import json_field


class _Plan(Protocol):
    """A plan as the package keeps it."""


class _Paths(Protocol):
    """Paths as the package keeps them."""


class _Module(Protocol):
    """What the package offers; its documentation stands there."""

    def Plan(self, root: object) -> _Plan: ...

    def decode(
        self,
        plan: _Plan,
        values: pa.BinaryArray,
        *,
        rest: bool,
        max_depth: int,
        ignore_case: bool,
        coerce: bool,
    ) -> tuple[object, object, Sequence[tuple[int, str, int]], int]: ...

    def Paths(self, paths: Paths) -> _Paths: ...

    def pick(
        self, paths: _Paths, values: pa.BinaryArray, max_depth: int, *, validated: bool
    ) -> tuple[Sequence[object], object]: ...

    def split(
        self, body: bytes, lines: bool, max_event_bytes: int, max_depth: int
    ) -> tuple[object, list[tuple[int, str, str]], bool]: ...


class NativeEngine:
    """The engine by the package, which `milkrun.compiled` has loaded."""

    name = "native"
    note = ""

    def __init__(self, module: ModuleType) -> None:
        self._module = cast(_Module, module)
        self._compiled = lru_cache(maxsize=256)(self._compile)
        self._paths = lru_cache(maxsize=256)(self._module.Paths)

    def _compile(self, plan: Plan) -> tuple[_Plan, list[Path]]:
        structs: list[Path] = []
        return self._module.Plan(described(plan.root, structs)), structs

    def decode(self, plan: Plan, values: pa.BinaryArray, reading: Reading) -> Decoded:
        """Decode a column of JSON objects."""
        if not _passes(plan.root):
            return decoding.decode(plan, values, reading)
        compiled, structs = self._compiled(plan)
        columns, errors, unknown, duplicates = self._module.decode(
            compiled,
            values,
            rest=reading.rest,
            max_depth=reading.max_depth,
            ignore_case=reading.ignore_case,
            coerce=reading.coerce,
        )
        schema = plan.schema
        if reading.rest:
            schema = schema.append(json_field(rest_name(schema.names)))
        return Decoded(
            _batch(columns, schema),
            _batch(errors, ERRORS_SCHEMA),
            {(*structs[number], name): count for number, name, count in unknown},
            duplicates,
        )

    def check(self, plan: Plan, values: pa.BinaryArray, max_depth: int) -> pa.RecordBatch:
        """The errors that `decode` would give."""
        return self.decode(plan, values, Reading(max_depth=max_depth)).errors

    def pick(
        self, values: pa.BinaryArray, paths: Paths, max_depth: int, *, validated: bool = False
    ) -> Picked:
        """Scalars at paths."""
        columns, errors = self._module.pick(self._paths(paths), values, max_depth, validated=validated)
        strings = [pa.array(Exported(pa.string(), column)) for column in columns]
        return Picked(strings, _batch(errors, ERRORS_SCHEMA))

    def split(self, body: bytes, *, lines: bool, max_event_bytes: int, max_depth: int) -> Split:
        """Cut a body into events."""
        try:
            values, faults, validated = self._module.split(body, lines, max_event_bytes, max_depth)
        except RecursionError:
            raise too_deep(max_depth) from None
        except ValueError:
            raise no_array() from None
        return Split(pa.array(Exported(pa.binary(), values)), faults, validated)


def _batch(capsule: object, schema: pa.Schema) -> pa.RecordBatch:
    return pa.record_batch(Exported(schema, capsule))


def _passes(node: Node) -> bool:
    """Whether the names of fields can go through Arrow's C data interface, in which a NUL ends a name."""
    return "\0" not in node.name and all(map(_passes, node.children))


def described(node: Node, structs: list[Path]) -> dict[str, object]:
    """A node as the package is told of it. Structs are numbered by their place in `structs`."""
    kind, size, scale = (
        (node.shape.name.lower(), 0, 0) if node.leaf is None else (node.leaf.name, *node.leaf.sizes)
    )
    number = len(structs)
    if node.shape is Shape.STRUCT:
        structs.append(node.path)
    return {
        "name": node.name,
        "kind": kind,
        "required": node.required,
        "no_null": node.no_null,
        "present": node.present,
        "closed": node.closed,
        "only": {None: "", dict: "object", list: "array"}[node.must_be],
        "size": size,
        "scale": scale,
        "number": number,
        "children": [described(child, structs) for child in node.children],
    }
