"""Files in an archive's place that no manifest has: what a crash left behind, old versions of files, and those of deleted topics.

Nobody reads them. Who holds the archive's lease removes them.
"""

from __future__ import annotations

import structlog

from milkrun.log.archive.files import is_archive_file
from milkrun.log.archive.manifest import Manifest
from milkrun.log.archive.site import Site
from milkrun.model.faults import reach

_log = structlog.get_logger()


class Orphans:
    """The files of one archive that may be removed. `suspected`: there may be some."""

    def __init__(self, manifest: Manifest, site: Site) -> None:
        self._manifest = manifest
        self._site = site
        self.suspected = True

    def remove(self) -> None:
        """Remove all. Refused where they can't be."""
        # Listed before the manifest is read: what is entered meanwhile must be known.
        found = [name for name in self._site.store.names() if is_archive_file(name)]
        known = {file.name for files in self._manifest.all().values() for file in files}
        for name in found:
            if name not in known:
                reach("archive.cleaning")
                self._site.store.delete(name)
                _log.info("archive.orphan_removed", file=name)
        self.suspected = False

    def drop(self, name: str) -> None:
        """Remove a file that the manifest doesn't have, or not any more. Refused where it can't be."""
        try:
            self._site.store.delete(name)
        except BaseException:
            self.suspected = True
            raise
