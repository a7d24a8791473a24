"""An event schema made ready for decoding: a tree of nodes, each knowing what values it takes and how its column is built.

Plans are immutable and kept for the schemas used last, since making one costs about as much as decoding a hundred events.
"""

from __future__ import annotations

import decimal
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum, auto
from functools import cached_property, lru_cache
from typing import Any

import msgspec
import pyarrow as pa

from milkrun.codecs.json.leaves import Leaf, leaf_of
from milkrun.model.schema import EventSchema, Strictness, is_json

Path = tuple[str, ...]
ITEM = "[]"
"""The step of a path that stands for every item of a list."""
VALUE = "{}"
"""The step of a path that stands for every value of a map."""

LENIENT = Strictness()
_ESCAPED = re.compile(r'[\x00-\x1f"\\]')


class Shape(Enum):
    """How a node is decoded."""

    LEAF = auto()
    STRUCT = auto()
    LIST = auto()
    MAP = auto()
    JSON = auto()


@dataclass(frozen=True)
class Node:
    """A field, a list's item, a map's value, or (with an empty path) the event itself."""

    name: str
    path: Path
    shape: Shape
    type: pa.DataType
    required: bool
    leaf: Leaf | None = None
    children: tuple[Node, ...] = ()
    no_null: bool = False
    present: bool = False
    closed: bool = False
    must_be: type | None = None
    """For an open part: dict or list where only that will do."""

    @cached_property
    def names(self) -> frozenset[str]:
        """Names of the fields."""
        return frozenset(child.name for child in self.children)

    @cached_property
    def by_name(self) -> dict[str, Node]:
        """The fields by name."""
        return {child.name: child for child in self.children}

    @cached_property
    def opens(self) -> bool:
        """Whether this is an open part or holds one."""
        return self.shape is Shape.JSON or any(child.opens for child in self.children)

    @cached_property
    def exact(self) -> bool:
        """Whether a number below must not go through a double."""
        own = self.leaf is not None and self.leaf.exact
        return own or any(child.exact for child in self.children)

    @cached_property
    def raw_names(self) -> dict[str, str]:
        """For the fields that are or hold open parts: their attribute in the struct of `Plan.raw`."""
        held = [child.name for child in self.children if child.opens]
        return {name: f"f{index}" for index, name in enumerate(held)}


@dataclass(frozen=True, eq=False)
class Plan:
    """A schema with the decoders that fit it.

    `parse` gives plain values, and numbers with a fraction as Decimal where a column needs them exact. `raw` gives the open
    parts as they are written, in nested structs; None where there are none. `slow` plans have open parts that no struct can
    name, and every row goes the slow way. A plan is equal to itself alone.
    """

    root: Node
    fields: tuple[pa.Field, ...]
    parse: Callable[[bytes], Any]
    raw: Callable[[bytes], Any] | None
    slow: bool

    @property
    def schema(self) -> pa.Schema:
        """What decoding gives: the schema's fields, each nullable, since a failed row is null."""
        return pa.schema(self.fields)


@lru_cache(maxsize=256)
def plan_for(schema: EventSchema) -> Plan:
    """The plan of a schema as topics use it."""
    return make_plan(schema, LENIENT)


def make_plan(schema: EventSchema, strictness: Strictness) -> Plan:
    """The plan of a schema with what its document demands beyond types."""
    children = tuple(_node(field, (field.name,), strictness) for field in schema.fields)
    root = Node("", (), Shape.STRUCT, pa.struct([]), True, children=children, closed=() in strictness.closed)
    parse = msgspec.json.Decoder(float_hook=_exactly) if root.exact else msgspec.json.Decoder()
    nameable = may_name_member(name for node in _below(root) if node.opens for name in node.raw_names)
    raw = msgspec.json.Decoder(_raw_type(root)) if root.opens and nameable else None
    fields = tuple(field.with_nullable(True) for field in schema.fields)
    return Plan(root, fields, parse.decode, raw.decode if raw is not None else None, not nameable)


def may_name_member(names: Iterable[str]) -> bool:
    """Whether msgspec takes all of these as names in JSON: it refuses those that JSON text would have to escape."""
    return not any(_ESCAPED.search(name) for name in names)


def _below(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from _below(child)


def _exactly(text: str) -> Decimal:
    try:
        return Decimal(text)
    except decimal.InvalidOperation as error:
        # An exponent beyond what Decimal can hold; msgspec's own class of errors leads to the slow path, which decides.
        raise ValueError("exponent out of range") from error


def _node(field: pa.Field, path: Path, strictness: Strictness) -> Node:
    shape, leaf = Shape.LEAF, None
    children: tuple[Node, ...] = ()
    kind = field.type
    if is_json(field):
        shape = Shape.JSON
    elif pa.types.is_struct(kind):
        shape = Shape.STRUCT
        children = tuple(_node(member, (*path, member.name), strictness) for member in kind)
    elif pa.types.is_list(kind):
        shape = Shape.LIST
        children = (_node(kind.value_field, (*path, ITEM), strictness),)
    elif pa.types.is_map(kind):
        shape = Shape.MAP
        children = (_node(kind.item_field, (*path, VALUE), strictness),)
    else:
        leaf = leaf_of(field)
    return Node(
        field.name,
        path,
        shape,
        kind,
        not field.nullable,
        leaf,
        children,
        no_null=path in strictness.no_null,
        present=path in strictness.present,
        closed=path in strictness.closed,
        must_be={"object": dict, "array": list}.get(strictness.shapes.get(path, "")),
    )


def _raw_type(node: Node) -> Any:
    """The type by which msgspec gives the open parts of `node` as bytes and skips all else."""
    if node.shape is Shape.JSON:
        return msgspec.Raw
    if node.shape is Shape.LIST:
        item = _raw_type(node.children[0])
        return list[item] | None if item is msgspec.Raw else list[item | None] | None  # type: ignore[valid-type]
    if node.shape is Shape.MAP:
        value = _raw_type(node.children[0])
        value = value if value is msgspec.Raw else value | None
        return dict[str, value] | None  # type: ignore[valid-type]
    members: list[tuple[str, Any, Any]] = []
    for name, attribute in node.raw_names.items():
        kind = _raw_type(node.by_name[name])
        if kind is msgspec.Raw:
            members.append((attribute, kind, msgspec.Raw()))
        else:
            members.append((attribute, kind | None, None))
    rename = {attribute: name for name, attribute in node.raw_names.items()}
    return msgspec.defstruct("Open", members, rename=rename, gc=False)
