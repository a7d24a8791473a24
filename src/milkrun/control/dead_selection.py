"""Which dead letters a command is about: groups, ids, a condition in SQL, or all that nothing has become of yet."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from milkrun.control.dead import DeadFilter, DeadLetters, Found
from milkrun.control.dead_sql import LetterSql
from milkrun.model.errors import NotFound, Refused
from milkrun.runtime.letters import SETTLED

CHUNK = 1_000
"""Letters looked at, and acted on, at a time."""

_GROUP = re.compile(r"[0-9a-f]{8}")
_RANGE = re.compile(r"((?:[A-Za-z0-9_-]+/)?\d+):(\d+)-(\d+)")


@dataclass(frozen=True)
class Selection:
    """`names` are ids of groups (`3f9a2c1b`), of letters (`shop/0:12`), or ranges of these (`shop/0:12-40`, both ends in it); `everything`
    takes all instead. Of these `where`, a condition in SQL, and `filter` must hold too."""

    names: tuple[str, ...] = ()
    everything: bool = False
    where: str | None = None
    filter: DeadFilter = field(default_factory=DeadFilter)

    def check(self) -> None:
        """Refused where it names nothing, or too much."""
        if self.everything and self.names:
            raise Refused("give --all, or groups and ids, not both")
        if not self.everything and not self.names and self.where is None:
            raise Refused(
                "which dead letters? give groups or ids as `milkrun dead list` shows them, --where CONDITION, or --all"
            )


def select(letters: DeadLetters, selection: Selection) -> Iterator[list[Found]]:
    """The unsettled letters that are meant, by pipeline and oldest first, in chunks. NotFound, before anything else, where a name is that
    of no letter."""
    selection.check()
    named = _Named(letters, selection)
    wanted = replace(selection.filter, state=None)
    if selection.names:
        for each in letters.found(wanted):
            named.takes(each)
        named.check_all_found()
    unsettled = (each for each in letters.found(wanted) if named.takes(each) and each.state not in SETTLED)
    while chunk := list(islice(unsettled, CHUNK)):
        chosen = _where(selection.where, chunk)
        if chosen:
            yield chosen


def _where(condition: str | None, chunk: list[Found]) -> list[Found]:
    if condition is None or not chunk:
        return chunk
    with LetterSql() as sql:
        keep = sql.matching(condition, [each.letter for each in chunk], [each.state for each in chunk])
    return [each for each, kept in zip(chunk, keep, strict=True) if kept]


class _Named:
    """The names of a selection, and which of them some letter had."""

    def __init__(self, letters: DeadLetters, selection: Selection) -> None:
        self._all = not selection.names
        self._groups: set[str] = set()
        self._ranges: list[tuple[str, str, int, int, int]] = []
        self._found: set[str] = set()
        self._names = selection.names
        for name in selection.names:
            if _GROUP.fullmatch(name):
                self._groups.add(name)
                continue
            match = _RANGE.fullmatch(name)
            identity = f"{match[1]}:{match[2]}" if match else name
            pipeline, partition, first = letters.place(identity, selection.filter.pipeline)
            self._ranges.append((name, pipeline, partition, first, int(match[3]) if match else first))

    def takes(self, found: Found) -> bool:
        if self._all:
            return True
        names = self._names_of(found)
        self._found.update(names)
        return bool(names)

    def _names_of(self, found: Found) -> Sequence[str]:
        if found.group in self._groups:
            return [found.group]
        partition, _, offset = found.letter.id.partition(":")
        return [
            name
            for name, pipeline, number, first, last in self._ranges
            if pipeline == found.letter.pipeline and number == int(partition) and first <= int(offset) <= last
        ]

    def check_all_found(self) -> None:
        missing = [name for name in self._names if name not in self._found]
        if missing:
            raise NotFound(
                f"there is no dead letter of {', '.join(missing)}; see `milkrun dead list --state all`"
            )
