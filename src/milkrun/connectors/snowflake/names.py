"""Identifiers as Snowflake stores them, and as SQL names them.

Snowflake folds names without quotes to upper case (https://docs.snowflake.com/en/sql-reference/identifiers-syntax). Names that
could be written so are stored in upper case, for then nobody needs quotes to query them; all others are stored as they are. SQL
always quotes the stored name, so nothing that is in a name can end it.
"""

from __future__ import annotations

import re

from milkrun.model.errors import ConfigError
from milkrun.tables import names
from milkrun.tables.names import GENERATIONS, POSITIONS, REPAIRS, quoted

LONGEST = 255
"""Bytes that a name may have."""
LONGEST_TABLE = LONGEST - len("__g999999")
"""Bytes of a table's plain name, which leave room for a generation's."""

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*")
_QUOTED = re.compile(r'"((?:[^"\0]|"")+)"')


def stored(name: str) -> str:
    """The name under which Snowflake keeps what Milkrun calls `name`."""
    return name.upper() if _PLAIN.fullmatch(name) else name


def given(text: str, option: str) -> str:
    """The stored name that a user means by `text`: as in SQL, quotes keep the case. ConfigError where it is no name."""
    match = _QUOTED.fullmatch(text)
    name = match[1].replace('""', '"') if match else stored(text)
    if not name or len(name) > LONGEST or "\0" in name or (match is None and '"' in name):
        raise ConfigError(
            f"{text[:80]!r} is no name of Snowflake's",
            "give a name, such as RAW, or one in double quotes to keep its case: '\"raw\"'",
            path=(option,),
        )
    return name


def given_stage(text: str) -> str:
    """The stage as SQL names it. ConfigError unless it is a plain name, perhaps with schema and database before it."""
    parts = text.removeprefix("@").split(".")
    if len(parts) > 3 or not all(_PLAIN.fullmatch(part) for part in parts):
        raise ConfigError(
            f"{text[:80]!r} is no stage that can be used",
            "give its name, such as LOADS or RAW.PUBLIC.LOADS, of letters, digits, '_' and '$'",
            path=("stage",),
        )
    return ".".join(part.upper() for part in parts)


OWN_STAGE = "_MILKRUN_STAGE"
REPLACED = "_MILKRUN_REPLACED"
LOCK = "_MILKRUN_LOCK"
POSITIONS_TABLE = stored(POSITIONS)
REPAIRS_TABLE = stored(REPAIRS)
GENERATIONS_TABLE = stored(GENERATIONS)


def beside(table: str, generation: int) -> str:
    """The stored name of a table in a generation that readers don't find under its plain name."""
    return stored(names.beside(table, generation))


def interim(table: str, number: int) -> str:
    """The stored name that a table has while the switch `number` is carried out."""
    return stored(f"{table}__s{number}")


def qualified(*names: str) -> str:
    """Stored names, outermost first, as SQL."""
    return ".".join(quoted(name) for name in names)
