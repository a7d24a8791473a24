"""How topics and fields are named in a database: quoting, table names, and columns that don't collide.

Names that differ in case alone count as equal, as some databases have it. Of equal names the first keeps its name and each later
one gets a number (`Id`, `id_2`); as schemas only grow at their end, a field keeps its column.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from milkrun.model.errors import ConfigError, Refused

TOPIC_PLACEHOLDER = "{topic}"
OWN_PREFIX = "_milkrun_"
POSITIONS = OWN_PREFIX + "positions"
REPAIRS = OWN_PREFIX + "repairs"
"""As `POSITIONS`, of cuts with `repairs`."""
GENERATIONS = OWN_PREFIX + "generations"
"""Which generation of a sink has the plain names."""


def quoted(name: str) -> str:
    """`name` as an identifier in SQL, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'


def folded(name: str) -> str:
    """What two names share that are taken for the same."""
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


def table_name(template: str, topic: str, *, longest: int | None = None) -> str:
    """The table of a topic: `{topic}` becomes its name with `.` and `-` as `_`. `longest` is as for `shortened`.

    Refused where that is a table of Milkrun's own.
    """
    name = shortened(template.replace(TOPIC_PLACEHOLDER, re.sub(r"[.-]", "_", topic)), longest)
    if folded(name).startswith(OWN_PREFIX):
        raise Refused(
            f"the topic {topic} can't go to the table {name}: names that begin with {OWN_PREFIX} are Milkrun's own; "
            "set the sink's option table, for example to events_{topic}"
        )
    return name


def beside(table: str, generation: int) -> str:
    """What a table is called in a generation that readers don't find under its plain name."""
    return f"{table}__g{generation}"


def column_names(names: Iterable[str], taken: Iterable[str] = (), *, longest: int | None = None) -> list[str]:
    """A column name for each field name of one level, unlike each other and unlike `taken`.

    NUL, which no identifier may hold, becomes `␀`; the empty name `_empty`. `longest` is as for `shortened`.
    """
    used = {folded(name) for name in taken}
    result = []
    for name in names:
        base = name.replace("\0", "␀") or "_empty"
        chosen, number = shortened(base, longest), 2
        while folded(chosen) in used:
            chosen, number = shortened(f"{base}_{number}", longest), number + 1
        used.add(folded(chosen))
        result.append(chosen)
    return result


def shortened(name: str, longest: int | None) -> str:
    """`name` if it has no more than `longest` bytes of UTF-8; else as much of it as fits before `_` and eight hexadecimal digits
    of its SHA-256, so that long names with the same beginning stay apart in every topic.
    """
    encoded = name.encode()
    if longest is None or len(encoded) <= longest:
        return name
    mark = "_" + hashlib.sha256(encoded).hexdigest()[:8]
    return encoded[: longest - len(mark)].decode(errors="ignore") + mark
