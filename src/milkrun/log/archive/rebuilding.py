"""Makes the manifest anew from the archive's files, where the log that had it is lost.

Each file is read whole: its metadata say which offsets it stands for, and its checksum is computed. Of versions of a file the newest counts.
What doesn't fit together is refused, by the files' names: nobody can tell which of two is right.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from milkrun.log.archive.files import described, file_name, is_archive_file
from milkrun.log.archive.manifest import ArchivedFile, Place
from milkrun.log.archive.site import Site
from milkrun.model.batch import BATCH_SCHEMA
from milkrun.model.errors import NotFound, Refused

PARALLEL = 4
_READ_BYTES = 8 << 20

Report = Callable[[int, int], None]
"""Told how many files have been read, and how many there are."""


def read_files(site: Site, report: Report) -> dict[Place, tuple[ArchivedFile, ...]]:
    """All files of the archive by partition, in the order of offsets, as the manifest had them.

    NotFound where there are none. Refused where one is damaged or isn't what its name says, where offsets are missing or there twice, and
    where a topic was deleted and created anew.
    """
    names = sorted(name for name in site.store.names() if is_archive_file(name))
    if not names:
        raise NotFound(f"{site.place} holds no archive files; check the archive's url")
    found: dict[Place, list[ArchivedFile]] = defaultdict(list)
    with ThreadPoolExecutor(PARALLEL) as pool:
        for number, (place, file) in enumerate(pool.map(lambda name: _read(site, name), names), 1):
            found[place].append(file)
            report(number, len(names))
    _check_incarnations(found)
    return {place: _ordered(place, _newest(files)) for place, files in sorted(found.items())}


def _read(site: Site, name: str) -> tuple[Place, ArchivedFile]:
    with tempfile.TemporaryDirectory(prefix="milkrun-") as folder:
        path = Path(folder) / "file.parquet"
        try:
            checksum = _fetch(site, name, path)
        except FileNotFoundError:
            raise Refused(f"{site.place}/{name} was removed just now; another log archives there") from None
        try:
            return _describe(name, path, checksum)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise Refused(
                f"{site.place}/{name} is no whole file of an archive ({str(error).splitlines()[0][:200]}); restore it from a copy, or move it "
                "away if its events are in another file"
            ) from error


def _fetch(site: Site, name: str, path: Path) -> str:
    """Bring the file to a path of this machine; its SHA-256."""
    checksum = hashlib.sha256()
    with site.store.reader(name) as source, path.open("wb") as target:
        while part := source.read(_READ_BYTES):
            checksum.update(part)
            target.write(part)
    return checksum.hexdigest()


def _describe(name: str, path: Path, checksum: str) -> tuple[Place, ArchivedFile]:
    with pa.OSFile(str(path)) as source:
        parquet = pq.ParquetFile(source, page_checksum_verification=True)
        metadata = parquet.metadata
        place, start, end, version = described(metadata)
        # The nonce is the name's own.
        nonce = name.removesuffix(".parquet").rpartition("-")[2]
        if file_name(place, start, end, nonce) != name:
            raise ValueError(f"it says of itself that it has {place} from {start} to {end}")
        if parquet.schema_arrow.remove_metadata() != BATCH_SCHEMA:
            raise ValueError(f"it has the columns {parquet.schema_arrow.names}")
        table = parquet.read(columns=["offset", "timestamp"], use_threads=False)
    offsets = table.column("offset").to_numpy()
    stamps = table.column("timestamp").cast(pa.int64()).to_numpy()
    if not len(offsets) or (np.diff(offsets) <= 0).any() or offsets[0] < start or offsets[-1] >= end:
        raise ValueError(f"its offsets aren't those from {start} to {end}")
    raw = sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
    file = ArchivedFile(
        name=name,
        start=start,
        end=end,
        rows=len(offsets),
        raw_bytes=raw,
        size=path.stat().st_size,
        sha256=checksum,
        oldest=int(stamps.min()),
        newest=int(stamps.max()),
        version=version,
    )
    return place, file


def _check_incarnations(found: Mapping[Place, Sequence[ArchivedFile]]) -> None:
    by_topic: dict[str, set[str]] = defaultdict(set)
    for place in found:
        by_topic[place.topic].add(place.incarnation)
    for topic, incarnations in sorted(by_topic.items()):
        if len(incarnations) > 1:
            newest = {
                incarnation: max(
                    (each.newest, each.name)
                    for place, files in found.items()
                    if (place.topic, place.incarnation) == (topic, incarnation)
                    for each in files
                )
                for incarnation in incarnations
            }
            examples = ", ".join(name for _, name in sorted(newest.values()))
            raise Refused(
                f"there are files of {len(incarnations)} topics {topic}, one created anew after the other was deleted, for example {examples}; "
                "names of one topic's files have the same eight digits after the offsets: move those of the deleted one away"
            )


def _newest(files: Iterable[ArchivedFile]) -> list[ArchivedFile]:
    """Of files of the same offsets those of the newest version, and of these one of each content."""
    chosen: dict[tuple[int, int], dict[str, ArchivedFile]] = {}
    for file in sorted(files, key=lambda file: -file.version):
        there = chosen.setdefault((file.start, file.end), {})
        if not there or file.version == next(iter(there.values())).version:
            there.setdefault(file.sha256, file)
    return [file for there in chosen.values() for file in there.values()]


def _ordered(place: Place, files: Iterable[ArchivedFile]) -> tuple[ArchivedFile, ...]:
    ordered = tuple(sorted(files, key=lambda file: (file.start, file.end)))
    for one, two in pairwise(ordered):
        if two.start > one.end:
            raise Refused(
                f"{place}: the offsets from {one.end} to {two.start} are in no file, between {one.name} and {two.name}; restore what is "
                "missing from a copy"
            )
        if two.start < one.end:
            raise Refused(
                f"{place}: {one.name} and {two.name} both have offsets from {two.start} on; one was left behind when its archiving was cut "
                "short: move that away which leaves the others without a gap"
            )
    return ordered
