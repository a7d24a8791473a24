"""The files source: `FilesSource` and its options, `FilesConfig`.

`source` ties together `catalog` (which files there are), `reader` (one file) and the formats (`records`, `rows`, `delimited`).
"""

from milkrun.connectors.files.config import FilesConfig
from milkrun.connectors.files.source import FilesSource

__all__ = ["FilesConfig", "FilesSource"]
