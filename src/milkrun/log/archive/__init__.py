"""The archive: a topic's old events as Parquet files in a folder or bucket, in the offset space of the log.

`TieredLog` reads both tiers as one log; `Archiver` moves events from one to the other. In which steps, and why a crash leaves neither hole nor
overlap, is told in docs/decisions/0009-archive.md.
"""

from milkrun.log.archive.tiered import TieredLog

__all__ = ["TieredLog"]
