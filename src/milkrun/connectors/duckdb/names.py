"""How topics and fields are named in DuckDB: quoting, table names, and columns that don't collide.

DuckDB compares identifiers without regard to case. Of names that are equal to it the first keeps its name and each later one gets
a number (`Id`, `id_2`); as schemas only grow at their end, a field keeps its column.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from milkrun.model.errors import ConfigError, Refused

TOPIC_PLACEHOLDER = "{topic}"
OWN_PREFIX = "_milkrun_"
POSITIONS = OWN_PREFIX + "positions"


def quoted(name: str) -> str:
    """`name` as an identifier in SQL, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'


def folded(name: str) -> str:
    """What two names share that DuckDB takes for the same."""
    return name.lower()


def check_template(template: str) -> None:
    """ConfigError where `template` can't name tables."""
    rest = template.replace(TOPIC_PLACEHOLDER, "")
    if not template.strip() or "{" in rest or "}" in rest or "\0" in rest:
        raise ConfigError(
            f"{template[:80]!r} can't name tables",
            f"give a name, with {TOPIC_PLACEHOLDER} where the topic's name goes",
            path=("table",),
        )


def table_name(template: str, topic: str) -> str:
    """The table of a topic: `{topic}` becomes its name with `.` and `-` as `_`. Refused where that is a table of Milkrun's own."""
    name = template.replace(TOPIC_PLACEHOLDER, re.sub(r"[.-]", "_", topic))
    if folded(name).startswith(OWN_PREFIX):
        raise Refused(
            f"the topic {topic} can't go to the table {name}: names that begin with {OWN_PREFIX} are Milkrun's own; "
            "set the sink's option table, for example to events_{topic}"
        )
    return name


def column_names(names: Iterable[str], taken: Iterable[str] = ()) -> list[str]:
    """A column name for each field name of one level, unlike each other and unlike `taken`.

    NUL, which no identifier may hold, becomes `␀`; the empty name `_empty`.
    """
    used = {folded(name) for name in taken}
    result = []
    for name in names:
        base = name.replace("\0", "␀") or "_empty"
        chosen, number = base, 2
        while folded(chosen) in used:
            chosen, number = f"{base}_{number}", number + 1
        used.add(folded(chosen))
        result.append(chosen)
    return result
