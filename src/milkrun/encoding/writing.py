"""How values are written, beyond what their types say: the same for every engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Names = Callable[[Sequence[str]], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Writing:
    """How values are written.

    Without `nulls`, members that are null are left out; items of lists and values of maps that are null stay. With `marks`, timestamps and decimals are
    written as the marks of their fields say (`milkrun.model.schema`), so that decoding by the same schema gives the values back;
    without, as if there were no marks. `names` turns the names of the members of each object into those that are written.

    `ksqldb` writes as ksqlDB's JSON format does: doubles as Java does (`1.0E10`), decimals as its `BigDecimal.toString` (`1E-7`),
    timestamps in milliseconds since 1970, dates in days since 1970, times in milliseconds since midnight, the latter rounded down, and
    bytes in base64. Strings are escaped as ever.

    `rest` names a member of the outermost object that is no member but the rest column of `decode`: what it holds is put where it came
    from, after the members of its object. What stands where its object, list item or value of a map is null or no longer there is left out;
    the keys of a map must be distinct then.
    """

    ksqldb: bool = False
    nulls: bool = True
    marks: bool = True
    names: Names | None = None
    rest: str | None = None


PLAINLY = Writing()
