"""Which files there are, and which of them is which: finds files again after renames, rotation, copies and restarts.

Every file that was ever begun is found, or known to have ended, or refused with `GapError`: none is left out in silence, and none
is begun twice. A file keeps the name under which it was first seen.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from milkrun.connectors.files.config import FilesConfig
from milkrun.connectors.files.position import Entry, Position, begins_alike, matches, may_copy
from milkrun.connectors.files.reader import Reader
from milkrun.connectors.files.streams import Stream, open_stream
from milkrun.model.errors import GapError, Refused, Transient
from milkrun.plugin import SourceContext

Node = tuple[int, int]

MAX_OPEN = 256
"""Files kept open while nothing comes from them: an open file can be read to its end although it was deleted."""


@dataclass(frozen=True, slots=True)
class Found:
    """A file that is there: its path below the project folder (absolute if it isn't), and how it stands."""

    path: Path
    name: str
    node: Node
    size: int
    changed: int


@dataclass(slots=True, eq=False)
class Tracked:
    """A file being read. `pending`: there may be more to read. `size`, `changed`: as last seen. `grown_at`: when that last changed
    (monotonic seconds). `gone`: deleted, but still open."""

    entry: Entry
    path: Path
    reader: Reader | None = None
    pending: bool = True
    size: int = -1
    changed: int = -1
    grown_at: float = 0.0
    gone: bool = False

    def close(self) -> None:
        """Close the file, if it is open; it can be opened again by its path."""
        if self.reader is not None:
            self.reader.stamp()
            self.reader.close()
            self.reader = None


class Catalog:
    """All files of one source."""

    def __init__(self, config: FilesConfig, context: SourceContext, position: Position) -> None:
        self._config, self._context = config, context
        self._begun = position.begun
        self.files = [Tracked(entry, self._absolute(entry.path)) for entry in position.files]
        self.moved = False
        """Whether the position has changed in more than places reached, since that was last asked for."""
        self._log = structlog.get_logger().bind(pipeline=context.pipeline, source=context.name)
        self._left_out: dict[Node, tuple[int, int, str]] = {}
        self._folders: dict[Path, dict[Node, Found]] = {}

    def position(self) -> Position:
        """How far all files were read."""
        for file in self.files:
            if file.reader is not None:
                file.reader.stamp()
        self.moved = False
        return Position(begun=self._begun, files=[file.entry for file in self.files])

    def scan(self) -> None:
        """Look at the disk. GapError for a file that can't be found again."""
        self._folders = {}
        present = {found.node: found for found in reversed(list(self._look()))}
        claimed: set[Node] = set()
        lost: list[tuple[Tracked, Found | None]] = []
        for file in self.files:
            found = present.get(file.entry.node) or self._beside(file).get(file.entry.node)
            if found is not None and self._is_same(file, found):
                self._claim(file, found)
                claimed.add(found.node)
            else:
                lost.append((file, found))
        for file, found in lost:
            self._explain(file, found, present, claimed)
        for found in sorted(present.values(), key=lambda found: found.name):
            if found.node not in claimed and not self._is_copy(found):
                self._begin(found)
        self._limit_open()

    def open(self, file: Tracked) -> Reader | None:
        """The file's reader; None if the file has just gone elsewhere, as the next scan will show. Refused without permission."""
        if file.reader is None:
            descriptor = self._descriptor(file.path, file.entry.node)
            if descriptor is None:
                return None
            file.reader = Reader(file.entry, descriptor, self._config)
        return file.reader

    def finish(self, file: Tracked) -> None:
        """The file's end was seen."""
        entry = file.entry
        entry.done, entry.size, file.pending = True, file.size, False
        file.close()
        self._log.info(
            "files.read", file=entry.path, lines=entry.lines, bytes=entry.offset, blank=entry.blank
        )
        if file.gone:
            self.files.remove(file)
        self.moved = True

    def missing(self) -> str | None:
        """The first pattern that names no file, if there is one."""
        return next((p for p in self._config.paths if next(self._matching(p), None) is None), None)

    def close(self) -> None:
        """Close all files."""
        for file in self.files:
            file.close()

    # -- looking

    def _look(self) -> Iterator[Found]:
        """The files that the patterns name, in the order of patterns and names."""
        for pattern in self._config.paths:
            yield from self._matching(pattern)

    def _matching(self, pattern: str) -> Iterator[Found]:
        folder = self._context.folder
        if Path(pattern).is_absolute():
            folder = Path(Path(pattern).anchor)
            pattern = str(Path(pattern).relative_to(folder))
        return filter(None, map(self._stat, sorted(folder.glob(pattern))))

    def _stat(self, path: Path) -> Found | None:
        try:
            status = path.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Transient(f"{self._name(path)}: can't be looked at: {error.strerror}") from error
        if not stat.S_ISREG(status.st_mode):
            return None
        node = (status.st_dev, status.st_ino)
        return Found(path, self._name(path), node, status.st_size, status.st_mtime_ns)

    def _absolute(self, name: str) -> Path:
        return self._context.folder / name

    def _name(self, path: Path) -> str:
        """The path as events and messages show it: a name that isn't UTF-8 with escapes."""
        folder = self._context.folder
        name = str(path.relative_to(folder) if path.is_relative_to(folder) else path)
        return name.encode(errors="backslashreplace").decode()

    def _beside(self, file: Tracked) -> dict[Node, Found]:
        """The files of the folder in which a file was last, and where rotation leaves it."""
        folder = file.path.parent
        if folder not in self._folders:
            paths = sorted(folder.iterdir()) if folder.is_dir() else []
            found = filter(None, map(self._stat, paths))
            self._folders[folder] = {item.node: item for item in found}
        return self._folders[folder]

    def _descriptor(self, path: Path, node: Node) -> int | None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except PermissionError as error:
            raise Refused(f"{self._name(path)}: may not be read; give Milkrun's user the right to") from error
        except OSError as error:
            raise Transient(f"{self._name(path)}: can't be opened: {error.strerror}") from error
        status = os.fstat(descriptor)
        if (status.st_dev, status.st_ino) == node:
            return descriptor
        os.close(descriptor)
        return None

    # -- knowing again

    def _is_same(self, file: Tracked, found: Found) -> bool:
        """Whether the file found under the entry's inode has the contents that were read."""
        entry = file.entry
        if not entry.offset or (found.size, found.changed) == (file.size, file.changed):
            return True
        if file.reader is not None:
            file.reader.stamp()
            if file.reader.compressed:
                return found.size >= file.size
            return (
                matches(entry, open_stream(file.reader.descriptor, entry.path, self._config.compression))
                is not None
            )
        if entry.done and found.size == entry.size:
            return self._compare(entry, found, whole=False)
        return self._compare(entry, found, whole=True)

    def _compare(self, entry: Entry, found: Found, *, whole: bool) -> bool:
        """Whether a file has the entry's first bytes; with `whole` also those before the place reached."""
        with self._stream(found) as stream:
            return (matches(entry, stream) if whole else begins_alike(entry, stream)) is not None

    def _may_copy(self, entry: Entry, found: Found) -> bool:
        with self._stream(found) as stream:
            return may_copy(entry, stream)

    @contextmanager
    def _stream(self, found: Found) -> Iterator[Stream]:
        """The file's bytes, within the block. Transient if it has just gone elsewhere."""
        descriptor = self._descriptor(found.path, found.node)
        if descriptor is None:
            raise Transient(f"{found.name}: was moved while being looked at")
        try:
            yield open_stream(descriptor, found.name, self._config.compression)
        finally:
            os.close(descriptor)

    def _claim(self, file: Tracked, found: Found) -> None:
        """The file is where it was found: note what has changed about it."""
        rotated = found.name != file.entry.path
        changed = (found.size, found.changed) != (file.size, file.changed)
        if changed or rotated != file.entry.rotated:
            file.grown_at = self._context.clock.monotonic()
        file.path, file.size, file.changed = found.path, found.size, found.changed
        self.moved |= rotated != file.entry.rotated
        file.entry.rotated = rotated
        if changed and not (file.entry.done and file.entry.size == found.size):
            file.pending, file.entry.done = True, False

    def _explain(
        self, file: Tracked, found: Found | None, present: dict[Node, Found], claimed: set[Node]
    ) -> None:
        """What has become of a file that isn't where it was, or not what it was.

        `found` has its inode. Under another name that is another file, which was given the inode of one that is gone; except while
        ours is open, when nobody else can get it.
        """
        entry = file.entry
        copy = self._copy_of(file, present, claimed) if entry.offset else None
        if copy is not None:
            file.close()
            entry.device, entry.inode = copy.node
            file.gone = False
            self._log.info("files.moved", file=entry.path, to=copy.name)
            self._claim(file, copy)
            claimed.add(copy.node)
            self.moved = True
        elif found is not None and (file.reader is not None or found.name == entry.path):
            self._replaced(file, found)
        elif file.reader is not None:
            if not file.gone:
                file.gone = file.entry.rotated = file.pending = True
                file.grown_at = self._context.clock.monotonic()
        else:
            self._vanished(file)

    def _copy_of(self, file: Tracked, present: dict[Node, Found], claimed: set[Node]) -> Found | None:
        """Where rotation has copied a file to, compressed perhaps: a file named like it with the contents that were read."""
        if file.reader is not None:
            file.reader.stamp()
        for candidate in sorted({**self._beside(file), **present}.values(), key=lambda found: found.name):
            alike = Path(candidate.name).name.startswith(Path(file.entry.path).name)
            if alike and candidate.node not in claimed and self._compare(file.entry, candidate, whole=True):
                return candidate
        return None

    def _replaced(self, file: Tracked, found: Found) -> None:
        """The same inode holds other contents: it was truncated and written anew, which is no riddle, or changed within."""
        entry = file.entry
        if self._compare(entry, found, whole=False):
            raise GapError(
                f"{entry.path}: read up to byte {entry.offset}, but its contents before that have changed or are no longer there; "
                "put the file back as it was, or name the source anew to start afresh"
            )
        if not entry.done:
            self._log.warning("files.truncated", file=entry.path, read=entry.offset)
        self._drop(file)

    def _vanished(self, file: Tracked) -> None:
        entry = file.entry
        if not entry.done and entry.offset and self._config.removed == "refuse":
            raise GapError(
                f"{entry.path}: read up to byte {entry.offset}, and now the file is gone, whatever else it held; "
                "put it back (any name that begins the same will do), or set removed: accept"
            )
        if not entry.done:
            self._log.warning("files.vanished", file=entry.path, read=entry.offset)
        self._drop(file)

    def _drop(self, file: Tracked) -> None:
        file.close()
        self.files.remove(file)
        self.moved = True

    # -- beginning

    def _is_copy(self, found: Found) -> bool:
        """Whether a new file is the copy of one being read, which rotation will put in its place: it must not be read twice."""
        for file in self.files:
            entry = file.entry
            if found.name == entry.path or not found.name.startswith(entry.path) or not entry.offset:
                continue
            state = (found.size, found.changed, entry.mark)
            if self._left_out.get(found.node) == state:
                return True
            if file.reader is not None:
                file.reader.stamp()
            if self._may_copy(entry, found):
                if found.node not in self._left_out:
                    self._log.warning("files.copy_left_out", file=found.name, of=entry.path)
                self._left_out[found.node] = state
                return True
        self._left_out.pop(found.node, None)
        return False

    def _begin(self, found: Found) -> None:
        self._begun += 1
        seed = f"{self._context.name}\0{found.name}\0{self._context.clock.now()}\0{self._begun}"
        mark = hashlib.blake2b(seed.encode(), digest_size=8).hexdigest()
        file = Tracked(Entry(found.name, mark, *found.node), found.path)
        self._claim(file, found)
        self.files.append(file)
        # Stored even if it brings no events yet: after a restart only its inode tells it, should it rotate until then.
        self.moved = True

    def _limit_open(self) -> None:
        """Close those of the open files that have been still for longest."""
        idle = [file for file in self.files if file.reader is not None and not file.pending and not file.gone]
        idle.sort(key=lambda file: file.grown_at)
        for file in idle[: max(0, len(idle) - MAX_OPEN)]:
            file.close()
