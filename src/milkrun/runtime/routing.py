"""Gives received events their topic, key, id and timestamp, whole columns at a time.

Rows that can't be routed come out as faults with a reason; all others are ready to be appended. A pure function of what was
received, the route and the time of receipt.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from milkrun.codecs.json import pick
from milkrun.model.batch import ID_HEADER, RECEIVED_HEADER, TIMESTAMP
from milkrun.model.errors import ConfigError
from milkrun.model.spec import DEAD_LETTER_PREFIX, RouteSpec, check_topic_name
from milkrun.plugin.source import Fault, Received, SourceCapabilities
from milkrun.runtime.columns import header_values, times, with_headers
from milkrun.runtime.paths import EventPath, parse_path, parse_template
from milkrun.runtime.timestamps import parse_timestamps

MAX_KEY_BYTES = 65_536
_FAULTS = {
    "timestamp": "is no time: RFC 3339 with offset, or Unix seconds or milliseconds",
    "topic_missing": "the topic's template needs a value that the event doesn't have",
    "topic_name": "the template gives a name that no topic can have",
    "key_too_large": f"the key is larger than {MAX_KEY_BYTES} bytes",
}


@dataclass(frozen=True, slots=True)
class Routed:
    """Routed events: columns of equal length. `ids` are those by which repetitions are recognised, null where there can't be any. Rows in
    `faults` have no meaning in the other columns but `values`, `headers` and `attributes`, the source's own.
    """

    topics: pa.Array
    keys: pa.BinaryArray
    ids: pa.Array
    timestamps: pa.Array
    values: pa.BinaryArray
    headers: pa.ListArray
    types: pa.Array | None
    faults: dict[int, Fault]
    attributes: Mapping[str, pa.StringArray] = field(default_factory=dict)

    def valid(self) -> npt.NDArray[np.bool_]:
        """True for each row that has no fault."""
        mask = np.ones(len(self.values), np.bool_)
        if self.faults:
            mask[list(self.faults)] = False
        return mask


class Router:
    """Routes by one `RouteSpec`. ConfigError at construction where a path or template is wrong."""

    def __init__(
        self, route: RouteSpec, capabilities: SourceCapabilities, type_path: str | None = None
    ) -> None:
        names = capabilities.attributes
        self._topic = parse_template(route.topic, names)
        if not self._topic.paths:
            check_topic_name(route.topic)
        if route.topic.startswith(DEAD_LETTER_PREFIX):
            raise ConfigError(
                f"topics that begin with {DEAD_LETTER_PREFIX} are Milkrun's own", "choose another name"
            )
        id_path = route.id or capabilities.default_id
        self._key = parse_path(route.key, names) if route.key else None
        self._id = parse_path(id_path, names) if id_path else None
        self._takes_default_id = id_path == capabilities.default_id
        self._timestamp = parse_path(route.timestamp, names) if route.timestamp else None
        self._type = parse_path(type_path, names) if type_path else None
        wanted = [*self._topic.paths, self._key, self._id, self._timestamp, self._type]
        self._paths = list(dict.fromkeys(path for path in wanted if path))

    def route(self, received: Received, now: int | pa.Array) -> Routed:
        """Route what was received at `now` (Unix ms, one for all or one each)."""
        faults = {fault.row: fault for fault in received.faults}
        found = self._look_up(received, faults)
        topics = self._topics(found, len(received), faults)
        keys = self._keys(received, found, faults)
        receipts = now.cast(TIMESTAMP) if isinstance(now, pa.Array) else times(now, len(received))
        timestamps, headers = self._timestamps(received, found, faults, receipts)
        ids = _without_empty(found[self._id]) if self._id else pa.nulls(len(received), pa.string())
        if self._id:
            headers = with_headers(headers, [(ID_HEADER, ids.view(pa.binary()))])
        types = found[self._type] if self._type else None
        return Routed(
            topics,
            keys,
            self._recognised(ids, received),
            timestamps,
            received.values,
            headers,
            types,
            faults,
            received.attributes,
        )

    def _recognised(self, ids: pa.Array, received: Received) -> pa.Array:
        """The ids without those that the source has made."""
        made = received.made_ids
        if made is None or not self._takes_default_id:
            return ids
        if made.all():
            return pa.nulls(len(ids), ids.type)
        return pc.if_else(pa.array(made), pa.scalar(None, ids.type), ids)

    def _look_up(self, received: Received, faults: dict[int, Fault]) -> dict[EventPath, pa.Array]:
        """Each path's column of strings; rows whose body is no JSON object join the faults."""
        body = [path for path in self._paths if path.root == "body"]
        found: dict[EventPath, pa.Array] = {}
        if body or not received.validated:
            bodies = _without(received.values, faults)
            picked = pick(bodies, [path.steps for path in body], validated=received.validated)
            for error in picked.errors.to_pylist():
                faults.setdefault(error["row"], Fault(error["row"], error["code"], error["message"]))
            found.update(zip(body, picked.columns, strict=True))
        for path in self._paths:
            if path.root == "headers":
                found[path] = as_text(header_values(received.headers, path.steps[0]))
            elif path.root == "attribute":
                found[path] = received.attributes.get(path.steps[0], pa.nulls(len(received), pa.string()))
            elif path.root == "key":
                keys = received.keys
                found[path] = as_text(keys) if keys is not None else pa.nulls(len(received), pa.string())
        return found

    def _topics(self, found: dict[EventPath, pa.Array], rows: int, faults: dict[int, Fault]) -> pa.Array:
        if not self._topic.paths:
            return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), [self._topic.text])
        parts = [found[part] if isinstance(part, EventPath) else part for part in self._topic.parts]
        names = pc.binary_join_element_wise(*parts, "").dictionary_encode()
        bad = {index for index, name in enumerate(names.dictionary.to_pylist()) if not _may_name_topic(name)}
        codes = names.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        _add(faults, "topic_missing", np.flatnonzero(codes < 0))
        _add(faults, "topic_name", np.flatnonzero(np.isin(codes, list(bad))))
        return names

    def _keys(
        self, received: Received, found: dict[EventPath, pa.Array], faults: dict[int, Fault]
    ) -> pa.BinaryArray:
        if self._key is None:
            keys = received.keys
        elif self._key.root == "headers":
            keys = header_values(received.headers, self._key.steps[0])
        else:
            keys = found[self._key].cast(pa.binary())
        if keys is None:
            return pa.nulls(len(received), pa.binary())
        lengths = pc.binary_length(keys).fill_null(0).to_numpy(zero_copy_only=False)
        _add(faults, "key_too_large", np.flatnonzero(lengths > MAX_KEY_BYTES))
        return keys

    def _timestamps(
        self,
        received: Received,
        found: dict[EventPath, pa.Array],
        faults: dict[int, Fault],
        receipts: pa.Array,
    ) -> tuple[pa.Array, pa.ListArray]:
        if self._timestamp is None:
            return receipts, received.headers
        own, wrong = parse_timestamps(found[self._timestamp])
        _add(faults, "timestamp", wrong, f"{self._timestamp.text} ")
        stamp = receipts.view(pa.int64()).cast(pa.string()).view(pa.binary())
        return pc.coalesce(own, receipts), with_headers(received.headers, [(RECEIVED_HEADER, stamp)])


def select(
    batch_values: pa.BinaryArray, headers: pa.ListArray, keys: pa.BinaryArray, paths: Sequence[EventPath]
) -> list[pa.Array]:
    """Each path's column of strings over events of the log; bodies that are no JSON give nulls."""
    body = [path for path in paths if path.root == "body"]
    columns = (
        dict(zip(body, pick(batch_values, [path.steps for path in body]).columns, strict=True))
        if body
        else {}
    )
    for path in paths:
        if path.root == "headers":
            columns[path] = as_text(header_values(headers, path.steps[0]))
        elif path.root == "key":
            columns[path] = as_text(keys)
    return [columns[path] for path in paths]


def as_text(column: pa.BinaryArray) -> pa.StringArray:
    """The bytes as strings; a value that is no UTF-8 becomes null."""
    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([_decoded(value) for value in column.to_pylist()], pa.string())


def _without_empty(ids: pa.Array) -> pa.StringArray:
    """The ids as strings, an empty one as none: events that share it are not repetitions of one another."""
    texts = ids if ids.type == pa.string() else ids.cast(pa.string())
    if not (texts.null_count or (pc.binary_length(texts).to_numpy() == 0).any()):
        return texts
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)


def _decoded(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def _without(values: pa.BinaryArray, rows: Collection[int]) -> pa.BinaryArray:
    """The values with those rows null, so that nobody looks at them again."""
    if not rows:
        return values
    mask = np.ones(len(values), np.bool_)
    mask[list(rows)] = False
    return pc.if_else(pa.array(mask), values, pa.scalar(None, pa.binary()))


def _may_name_topic(name: str) -> bool:
    try:
        check_topic_name(name)
    except ConfigError:
        return False
    return not re.match(re.escape(DEAD_LETTER_PREFIX), name)


def _add(faults: dict[int, Fault], code: str, rows: Iterable[int], prefix: str = "") -> None:
    for row in rows:
        faults.setdefault(int(row), Fault(int(row), code, prefix + _FAULTS[code]))
