"""The place where an archive's files are: opened when first needed, and one log's alone.

The object `_milkrun/archive.json` says whose archive it is. A place that holds another log's is refused: whoever archives removes what its
manifest doesn't have.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from milkrun.log.archive.files import is_archive_file
from milkrun.model.errors import MilkrunError, Refused, Transient
from milkrun.model.spec import ArchiveSpec
from milkrun.plugin.config import parse
from milkrun.storage.opening import store_at
from milkrun.storage.store import OWN_FOLDER, Store
from milkrun.storage.target import S3Options, parse_target

OWNER = f"{OWN_FOLDER}/archive.json"

SCRATCH = Path(".milkrun") / "archive"
"""Where files grow before they go to the archive, below the project's folder."""


class Vanished(Exception):
    """There is no file of that name."""


class Site:
    """The store of an archive. Every method may be called from any thread."""

    def __init__(self, spec: ArchiveSpec) -> None:
        options = None if spec.s3 is None else parse(S3Options, spec.s3)
        self._store = store_at(parse_target(spec.url), options, spec.folder)
        self._lock = threading.Lock()
        self._open = False
        self.place = self._store.place
        self.scratch = spec.folder / SCRATCH

    @property
    def store(self) -> Store:
        """The store, opened. Refused, Transient or Fatal as it demands."""
        with self._lock:
            if not self._open:
                self._store.open()
                self._open = True
            return self._store

    @contextmanager
    def opened(self, name: str) -> Iterator[pa.NativeFile]:
        """A file to be read. Vanished where there is none; Refused where what is read of it is damaged."""
        try:
            with self.store.input(name) as source:
                yield source
        except MilkrunError:
            raise
        except FileNotFoundError:
            raise Vanished(name) from None
        except (pa.ArrowException, OSError) as error:
            # Arrow reports damage as an OSError without a number; the system's have one.
            if isinstance(error, OSError) and error.errno:
                raise Transient(f"{self.place}/{name} can't be read: {error.strerror}") from error
            raise Refused(
                f"{self.place}/{name} is damaged ({str(error).splitlines()[0][:200]}); restore it from a copy"
            ) from error

    def owner(self) -> str | None:
        """The identity of the archive that is here; None where there is none yet. Refused where it can't be told."""
        held = self.store.read(OWNER)
        if held is None:
            return None
        try:
            return str(json.loads(held)["archive"])
        except (ValueError, KeyError, TypeError):
            raise Refused(
                f"{self.place}/{OWNER} says not whose archive this is; give the archive another url"
            ) from None

    def claim(self, identity: str) -> None:
        """Make the place this archive's. Refused where it is another's, or holds files and doesn't say whose they are."""
        if self.owner() is None:
            stray = next((name for name in self.store.names() if is_archive_file(name)), None)
            if stray is not None:
                raise Refused(
                    f"{self.place} holds archived events ({stray} is one file), and {OWNER}, which says whose they are, is missing; restore "
                    "that object, run `milkrun archive rebuild` where the log is lost, or give this archive a url of its own"
                )
            self.store.create(OWNER, json.dumps({"archive": identity}).encode())
        found = self.owner()
        if found != identity:
            raise Refused(
                f"{self.place} holds the archive of another log ({found}, not {identity}); give this one a url of its own"
            )

    def take_over(self, identity: str) -> None:
        """Make the place this archive's, whosever it was: that one's log is lost."""
        self.store.replace(OWNER, json.dumps({"archive": identity}).encode())

    def close(self) -> None:
        """Let go of the store."""
        with self._lock:
            self._store.close()
            self._open = False
