"""The commands, thin over `milkrun.control`.

May start the server; nothing imports it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with its exit code."""
    from milkrun.cli.app import run

    sys.exit(run(sys.argv[1:] if arguments is None else arguments))
