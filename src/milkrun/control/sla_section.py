"""Makes a `SlaSpec` of a pipeline's `sla:`, and finds what nobody could promise."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from milkrun.control.documents import DocumentPath
from milkrun.control.mistakes import Mistakes
from milkrun.control.sections import SlaSection
from milkrun.model.errors import ConfigError
from milkrun.model.spec import SlaSpec

DAY = 86_400.0
LONGEST_DAYS = 90
"""What `milkrun.runtime.freshness` keeps reaches back further than this."""

_PERCENT = re.compile(r"(\d{1,2}(?:\.\d{1,6})?)\s*%")


def read_sla(section: SlaSection, mistakes: Mistakes, path: DocumentPath) -> SlaSpec | None:
    """What the section promises; None where it has mistakes, which are gathered."""
    before = len(mistakes.found)
    complete = mistakes.attempt(lambda: _share(section.complete), (*path, "complete"))
    if not 1.0 <= section.fresh_within <= 7 * DAY:
        mistakes.add(
            f"{section.fresh_within:g} s is no freshness to promise",
            "write from 1s to 7d: fresh_within: 5m",
            (*path, "fresh_within"),
        )
    if not DAY <= section.over <= LONGEST_DAYS * DAY:
        mistakes.add(
            f"a share can't be told over {section.over:g} s",
            f"write from 1d to {LONGEST_DAYS}d: over: 30d",
            (*path, "over"),
        )
    if complete is None or len(mistakes.found) > before:
        return None
    return SlaSpec(section.fresh_within, complete, section.over)


def _share(value: Any) -> float:
    match = _PERCENT.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or Decimal(match[1]) <= 0:
        hint = "100% would leave nothing that may ever go wrong" if value == "100%" else None
        raise ConfigError(
            f"{value!r} is no share to promise" + (f": {hint}" if hint else ""),
            "write a percentage below 100%: complete: 99.9%",
        )
    return float(Decimal(match[1]) / 100)
