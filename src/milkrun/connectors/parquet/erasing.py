"""Removing events from files for good: a file that holds some is put anew under its own name without them, or removed if it has no others.

Such a file is what its cut gives when it is planned again without these events. A cut of which all files are gone leaves the
same as one whose events were all filtered.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import structlog

from milkrun.connectors.parquet import layout
from milkrun.connectors.parquet.columns import OFFSET
from milkrun.connectors.parquet.encoding import Encoding
from milkrun.connectors.parquet.layout import FileName
from milkrun.connectors.parquet.reading import reason
from milkrun.model.batch import TopicPartition
from milkrun.model.erasing import Offsets
from milkrun.model.errors import MilkrunError, Refused
from milkrun.model.faults import reach
from milkrun.storage.store import Store

REMAINS = (
    "earlier versions and replicas of objects where the bucket keeps such; backups and snapshots of a folder"
)

_log = structlog.get_logger()


def erase(
    store: Store,
    encoding: Encoding,
    partition: TopicPartition,
    incarnation: str,
    offsets: Offsets,
    parallel: int,
) -> int:
    """Remove the events from the files of the store; how many went. Refused where a file that may hold some can't be read."""
    wanted = (layout.stem(partition.topic), partition.partition, layout.short_incarnation(incarnation))
    names = [name for name in store.names() if _may_hold(layout.parse_file_name(name), wanted, offsets)]
    if not names:
        return 0
    with ThreadPoolExecutor(min(parallel, len(names))) as pool:
        return sum(pool.map(lambda name: _without(store, encoding, name, offsets), names))


def _may_hold(parsed: FileName | None, wanted: tuple[str, int, str], offsets: Offsets) -> bool:
    if parsed is None or (parsed.topic, parsed.partition, parsed.incarnation) != wanted:
        return False
    if parsed.repairs:
        # Its name doesn't tell the offsets of its events.
        return len(offsets) > 0
    first, end = np.searchsorted(offsets, [parsed.start, parsed.end])
    return bool(first < end)


def _without(store: Store, encoding: Encoding, name: str, offsets: Offsets) -> int:
    """Leave the file without these events; how many it had."""
    try:
        with store.reader(name) as opened:
            file = pq.ParquetFile(opened, page_checksum_verification=True)
            held = file.read(columns=[OFFSET], use_threads=False).column(OFFSET)
            erased = pc.is_in(held, pa.array(offsets, pa.int64()))
            rows = pc.sum(erased).as_py() or 0
            kept = file.read(use_threads=False).filter(pc.invert(erased)).combine_chunks() if rows else None
    except MilkrunError:
        raise
    except FileNotFoundError:
        # Its generation was dropped, or it had none but such events and another worker has seen to that.
        return 0
    except (pa.ArrowException, OSError) as error:
        raise Refused(
            f"{store.place}/{name} may hold events that are to be erased, and {reason(error)}; restore it from a backup, or remove it"
        ) from None
    if kept is None:
        return 0
    reach("parquet.before_erasure")
    if kept.num_rows:
        store.replace(name, encoding.encode(kept).to_pybytes())
    else:
        store.delete(name)
    reach("parquet.after_erasure")
    _log.info("parquet.erased", file=name, rows=rows, left=kept.num_rows)
    return int(rows)
