"""Reads archived files back and compares them with the manifest: their bytes by checksum, their events by number and offsets."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from milkrun.log.archive.manifest import ArchivedFile, Place
from milkrun.log.archive.staging import digest, fetch
from milkrun.log.archive.tiered import TieredLog

PARALLEL = 4


@dataclass(frozen=True, slots=True)
class FileCheck:
    """What became of one file's check. `problem` says what is wrong; None if nothing is."""

    topic: str
    partition: int
    start: int
    end: int
    events: int
    bytes: int
    name: str
    problem: str | None

    @property
    def ok(self) -> bool:
        """Whether the file is as the manifest says."""
        return self.problem is None


def verify(log: TieredLog, wanted: Sequence[Place]) -> Iterator[FileCheck]:
    """A check of each file of these partitions, in order. Transient where the store can't be asked."""
    pairs = [(place, file) for place in wanted for file in log.manifest.files(place)]
    with ThreadPoolExecutor(PARALLEL) as pool:
        yield from pool.map(lambda pair: _check(log, *pair), pairs)


def _check(log: TieredLog, place: Place, file: ArchivedFile) -> FileCheck:
    problem = _problem(log, file)
    if problem is not None:
        # A newer version may have taken its place just now.
        current = next((each for each in log.manifest.files(place) if each.start == file.start), file)
        if current != file:
            file, problem = current, _problem(log, current)
    return FileCheck(
        place.topic, place.partition, file.start, file.end, file.rows, file.size, file.name, problem
    )


def _problem(log: TieredLog, file: ArchivedFile) -> str | None:
    with tempfile.TemporaryDirectory(prefix="milkrun-") as folder:
        path = Path(folder) / "file.parquet"
        try:
            fetch(log.site, file, path)
        except FileNotFoundError:
            return "it is missing"
        if path.stat().st_size != file.size:
            return f"it has {path.stat().st_size} bytes, not {file.size}"
        if digest(path) != file.sha256:
            return "its checksum is another"
        return _contents_problem(path, file)


def _contents_problem(path: Path, file: ArchivedFile) -> str | None:
    try:
        with pa.OSFile(str(path)) as source:
            parquet = pq.ParquetFile(source, page_checksum_verification=True)
            offsets = parquet.read(columns=["offset"], use_threads=False).column("offset").to_numpy()
    except (pa.ArrowException, OSError) as error:
        return f"it can't be read: {str(error).splitlines()[0][:200]}"
    if len(offsets) != file.rows:
        return f"it has {len(offsets)} events, not {file.rows}"
    if not (np.diff(offsets) > 0).all() or offsets[0] < file.start or offsets[-1] >= file.end:
        return f"its offsets aren't those from {file.start} to {file.end}"
    return None
