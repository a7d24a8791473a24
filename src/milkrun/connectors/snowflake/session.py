"""One session with Snowflake: statements, transactions, and files brought to and taken from a stage.

It is used by one thread. After a failure of which the outcome is unknown it is worth nothing more, which `Reopen` says.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from milkrun.connectors.snowflake.config import SnowflakeConfig
from milkrun.connectors.snowflake.failures import LOGIN, translated
from milkrun.connectors.snowflake.files import StagedFile
from milkrun.connectors.snowflake.login import arguments
from milkrun.connectors.snowflake.names import given, qualified
from milkrun.model.errors import MilkrunError, Refused, Reopen

if TYPE_CHECKING:
    from snowflake.connector import SnowflakeConnection

_logger = structlog.get_logger(__name__)

Row = tuple[Any, ...]
Parameter = str | int


class Session:
    """A session; `place` says in errors which account and schema it is about."""

    def __init__(self, connection: SnowflakeConnection, place: str) -> None:
        self._connection = connection
        self.place = place

    def run(self, statement: str, parameters: Sequence[Parameter] = (), *, doing: str) -> list[Row]:
        """Execute a statement and fetch all it returns. `doing` says in errors what it is about."""
        with translated(self.place, doing), self._connection.cursor() as cursor:
            cursor.execute(statement, tuple(parameters) or None)
            # Without a dict cursor, rows are tuples.
            return [tuple(row) for row in cursor.fetchall()]

    @contextmanager
    def transaction(self, doing: str) -> Iterator[None]:
        """All statements within become true together, or none. Reopen where that isn't known."""
        self.run("BEGIN TRANSACTION", doing=doing)
        try:
            yield
        except BaseException:
            self._roll_back(doing)
            raise
        try:
            self.run("COMMIT", doing=doing)
        except MilkrunError as error:
            # Whether it is durable only the target can tell: the position is read anew.
            raise Reopen(str(error)) from None

    def _roll_back(self, doing: str) -> None:
        try:
            self.run("ROLLBACK", doing=doing)
        except MilkrunError as error:
            raise Reopen(str(error)) from None

    def put(self, file: StagedFile, stage: str, *, doing: str) -> None:
        """Bring a file to the stage, in place of one of the same name."""
        statement = (
            f"PUT file://{file.name} @{stage}/{file.folder.rstrip('/')} "
            "AUTO_COMPRESS = FALSE SOURCE_COMPRESSION = NONE OVERWRITE = TRUE"
        )
        with translated(self.place, doing), self._connection.cursor() as cursor:
            cursor.execute(statement, file_stream=io.BytesIO(file.content))
            # The client reports failures of the upload in its result, not as an error.
            outcome = cursor.fetchall()
        if [row[6] for row in outcome] != ["UPLOADED"]:
            raise Reopen(f"{self.place}: {doing}: the file {file.path} did not come to the stage")

    def remove(self, stage: str, folder: str) -> None:
        """Remove the folder's files from the stage. What can't be removed now is removed with the folder's next files."""
        doing = f"removing staged files of {folder}"
        try:
            self.run(f"REMOVE @{stage}/{folder}", doing=doing)
        except MilkrunError as error:
            _logger.warning("snowflake.remove_failed", folder=folder, error=str(error))

    def close(self) -> None:
        """End the session; a transaction that is open is rolled back by Snowflake."""
        with suppress(Exception):
            self._connection.close()


def place_of(config: SnowflakeConfig) -> str:
    """How errors name the target."""
    return f"{config.account} {given(config.database, 'database')}.{given(config.schema, 'schema')}"


def login(config: SnowflakeConfig, folder: Path, tag: str) -> Session:
    """A new session with role, warehouse and database in use. Refused without the client library, or where one of them is missing."""
    try:
        import snowflake.connector as client
    except ImportError as error:
        raise Refused(
            f"the Snowflake sink needs its client library ({error}); install it with pip install 'milkrun[snowflake]'"
        ) from error
    place = place_of(config)
    with translated(place, LOGIN):
        session = Session(client.connect(**arguments(config, folder, tag)), place)
    try:
        _use(session, config)
    except BaseException:
        session.close()
        raise
    return session


def _use(session: Session, config: SnowflakeConfig) -> None:
    # The login takes a name that doesn't exist without complaint.
    if config.role is not None:
        session.run(f"USE ROLE {qualified(given(config.role, 'role'))}", doing="using the role (option role)")
    warehouse = qualified(given(config.warehouse, "warehouse"))
    session.run(f"USE WAREHOUSE {warehouse}", doing="using the warehouse (option warehouse)")
    database = qualified(given(config.database, "database"))
    session.run(f"USE DATABASE {database}", doing="using the database (option database)")


def use_schema(session: Session, config: SnowflakeConfig) -> None:
    """Make the schema the session's own; create it where it is missing."""
    schema = qualified(given(config.database, "database"), given(config.schema, "schema"))
    doing = "using the schema (option schema)"
    try:
        session.run(f"USE SCHEMA {schema}", doing=doing)
    except Refused:
        # Only now: the right to create schemas is not needed where this one exists.
        session.run(f"CREATE SCHEMA IF NOT EXISTS {schema}", doing="creating the schema (option schema)")
        session.run(f"USE SCHEMA {schema}", doing=doing)
