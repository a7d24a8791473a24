"""The embedded log: one SQLite file, a row a block of events, everything of a commit in one transaction.

Several processes of one machine may read and write it. What `EmbeddedLog` promises is the `Log` protocol; how the file
recovers from a crash is told in docs/decisions/0001-embedded-log.md.
"""

from milkrun.log.embedded.log import EmbeddedLog

__all__ = ["EmbeddedLog"]
