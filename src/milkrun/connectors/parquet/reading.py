"""What the files of a topic hold, read back from them.

Names only say which files to read; partition and offset of each event come from the columns, and must agree with the name.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from milkrun.connectors.parquet import layout
from milkrun.connectors.parquet.columns import OFFSET, PARTITION
from milkrun.connectors.parquet.layout import FileName
from milkrun.connectors.parquet.progress import Progress
from milkrun.model.batch import TopicPartition
from milkrun.model.errors import MilkrunError, Refused
from milkrun.model.stacking import stacked
from milkrun.storage.store import Store

AUDIT_SCHEMA = pa.schema([("partition", pa.int32()), ("offset", pa.int64())])

_SHOWN = 10


class Unreadable(Exception):
    """A file is damaged, or isn't what its name says; the message says how."""


def audit(store: Store, place: str, progress: Progress, topic: str, parallel: int) -> pa.Table:
    """Partition and offset of each event of a topic, of the topic's newest incarnation where it is known.

    Refused where a file can't be read or holds what its name doesn't say; the message names such files.
    """
    names = _files(store, progress, topic)
    if not names:
        return AUDIT_SCHEMA.empty_table()
    with ThreadPoolExecutor(min(parallel, len(names))) as pool:
        results = list(pool.map(lambda named: _outcome(store, *named), names))
    damaged = [result for result in results if isinstance(result, str)]
    if damaged:
        more = f"\nand {len(damaged) - _SHOWN} more" if len(damaged) > _SHOWN else ""
        raise Refused(
            f"{place}: {len(damaged)} of {len(names)} files of {topic} are damaged; restore them from a backup, or deliver the topic "
            "anew to another url:\n" + "\n".join(damaged[:_SHOWN]) + more
        )
    return pa.concat_tables(result for result in results if not isinstance(result, str))


def locate(store: Store, progress: Progress, partition: TopicPartition, offset: int) -> str | None:
    """The name of the file that holds an event; None where none does. Refused where a file that should can't be read."""
    for name, parsed in _files(store, progress, partition.topic):
        if parsed.partition != partition.partition:
            continue
        if not parsed.repairs and not parsed.start <= offset < parsed.end:
            continue
        found = _outcome(store, name, parsed)
        if isinstance(found, str):
            raise Refused(found)
        if pc.index(found.column("offset"), offset).as_py() >= 0:
            return name
    return None


def held(store: Store, progress: Progress, partition: TopicPartition, start: int, end: int) -> pa.Table:
    """The rows of the offsets `[start, end)` that the files hold, of the topic's newest incarnation; columns that some files lack are
    null there. Refused where a file that should hold some can't be read."""
    found = []
    for name, parsed in _files(store, progress, partition.topic):
        if parsed.partition != partition.partition or parsed.end <= start or end <= parsed.start:
            continue
        try:
            with store.reader(name) as file:
                rows = rows_in(file)
        except MilkrunError:
            raise
        except (pa.ArrowException, OSError) as error:
            raise Refused(f"{name}: {reason(error)}") from None
        offsets = rows.column(OFFSET)
        inside = pc.and_(pc.greater_equal(offsets, start), pc.less(offsets, end))
        found.append(rows.filter(inside))
    return stacked(found)


def rows_in(file: IO[bytes] | pa.NativeFile) -> pa.Table:
    """All rows of a Parquet file, without the file's metadata."""
    # Not by Arrow's threads, here and wherever Python holds the bytes: they let go of them a little later, and at the process's end that aborts it.
    table = pq.ParquetFile(file, page_checksum_verification=True).read(use_threads=False)
    return table.replace_schema_metadata(None)


def _files(store: Store, progress: Progress, topic: str) -> list[tuple[str, FileName]]:
    stem = layout.stem(topic)
    found = []
    for name in store.names():
        parsed = layout.parse_file_name(name)
        if parsed is not None and parsed.topic == stem:
            found.append((name, parsed))
    current = _current(progress, topic, [parsed for _, parsed in found])
    return sorted(
        (name, parsed)
        for name, parsed in found
        if current[parsed.partition, parsed.generation] in (None, parsed.incarnation)
    )


def _current(progress: Progress, topic: str, names: Sequence[FileName]) -> dict[tuple[int, int], str | None]:
    """The newest incarnation of each partition and generation; None where no note tells."""
    current: dict[tuple[int, int], str | None] = {}
    for partition, generation in {(name.partition, name.generation) for name in names}:
        note = progress.newest(TopicPartition(topic, partition), generation)
        current[partition, generation] = layout.short_incarnation(note.incarnation) if note else None
    return current


def _outcome(store: Store, name: str, parsed: FileName) -> pa.Table | str:
    """The file's events, or what is wrong with it."""
    try:
        return _read(store, name, parsed)
    except Unreadable as error:
        return f"{name}: {error}"


def _read(store: Store, name: str, parsed: FileName) -> pa.Table:
    try:
        with store.reader(name) as file:
            parquet = pq.ParquetFile(file, page_checksum_verification=True)
            table = parquet.read(columns=[PARTITION, OFFSET], use_threads=False)
    except MilkrunError:
        raise
    except FileNotFoundError:
        raise Unreadable("it vanished while it was read") from None
    except (pa.ArrowException, OSError) as error:
        raise Unreadable(reason(error)) from None
    if set(table.column_names) != {PARTITION, OFFSET}:
        raise Unreadable(f"it lacks the columns {PARTITION} and {OFFSET}")
    table = pa.table({"partition": table.column(PARTITION), "offset": table.column(OFFSET)}).cast(
        AUDIT_SCHEMA
    )
    if table.num_rows == 0 or not _as_named(table, parsed):
        raise Unreadable("it holds other events than its name says")
    return table


def reason(error: pa.ArrowException | OSError) -> str:
    """What is wrong with a file whose reading gave this error."""
    # Arrow reports damage as an OSError without a number; the system's have one.
    reason = error.strerror if isinstance(error, OSError) and error.errno else None
    return f"it can't be read: {reason}" if reason else "it is no whole Parquet file"


def _as_named(table: pa.Table, parsed: FileName) -> bool:
    partitions, offsets = (
        pc.min_max(table.column("partition")).as_py(),
        pc.min_max(table.column("offset")).as_py(),
    )
    return bool(
        table.column("offset").null_count == 0
        and partitions["min"] == partitions["max"] == parsed.partition
        and (parsed.repairs or parsed.start <= offsets["min"] <= offsets["max"] < parsed.end)
    )
