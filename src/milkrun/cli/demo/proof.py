"""The demo's own account, which trusts no counter of Milkrun: the ids that were sent against the ids that the targets hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Proof:
    """Counts of events. `lost` were sent and are missing in a target; `doubled` are rows too many, `strange` rows nobody sent."""

    sent: int
    warehouse: int
    lake: int
    lost: int
    doubled: int
    strange: int
    dead: int
    dead_expected: int

    @property
    def even(self) -> bool:
        """Whether both targets hold exactly what was sent, and the dead letters exactly what was bad."""
        return not (self.lost or self.doubled or self.strange) and self.dead == self.dead_expected

    def text(self) -> str:
        """In a sentence."""
        found = (
            f"{self.sent:,} events sent, {self.warehouse:,} in DuckDB, {self.lake:,} in Parquet, "
            f"{self.lost:,} lost, {self.doubled:,} doubled, {self.dead} dead letters"
        )
        if self.strange:
            found += f", {self.strange:,} that nobody sent"
        if self.dead != self.dead_expected:
            found += f" (should be {self.dead_expected})"
        return found


def prove(
    sent: Iterable[str], warehouse: Iterable[str], lake: Iterable[str], *, dead: int, dead_expected: int
) -> Proof:
    """Compare ids. Losses, doubles and strange rows are added up over both targets."""
    wanted = set(sent)
    lost = doubled = strange = 0
    sizes = []
    for target in (warehouse, lake):
        found = Counter(target)
        sizes.append(found.total())
        lost += len(wanted - found.keys())
        doubled += found.total() - len(found)
        strange += len(found.keys() - wanted)
    return Proof(len(wanted), sizes[0], sizes[1], lost, doubled, strange, dead, dead_expected)
