"""What connectors can promise, as data that code, docs and the CLI read."""

from __future__ import annotations

from enum import StrEnum


class Delivery(StrEnum):
    """How often an event arrives across crashes of either side."""

    EXACTLY_ONCE = "exactly once"
    IDEMPOTENT = "idempotent"
    """Written again after a crash, to the same place with the same content: readers see it once."""
    AT_LEAST_ONCE = "at least once"
