"""Ids seen, in runs sorted by fingerprint instead of a tree: random ids then cost no more than ascending ones.

`store` is what the log uses; below it `merging`, `scope`, `tables`, `entries`, `filters` and `fingerprints`, each of which knows only
those after it. See docs/decisions/0012.
"""

from milkrun.log.embedded.seen.store import SeenIds, all_ids, seen_until

__all__ = ["SeenIds", "all_ids", "seen_until"]
