"""From a place as the user names it to the store that keeps objects there."""

from __future__ import annotations

from pathlib import Path

from milkrun.storage.folder import FolderStore
from milkrun.storage.store import Store
from milkrun.storage.target import Bucket, S3Options


def store_at(target: Path | Bucket, options: S3Options | None, folder: Path) -> Store:
    """The store at a target, not opened yet; a relative path is below `folder`."""
    if isinstance(target, Bucket):
        # Its client takes time to load, which a project on folders needn't spend.
        from milkrun.storage.bucket import BucketStore

        return BucketStore(target, options or S3Options())
    return FolderStore(folder / target)
