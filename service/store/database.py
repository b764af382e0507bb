"""Database: one engine, short transactions, and the upgrade of the schema at startup.

Owns the differences between SQLite and PostgreSQL; no other module may ask which one it is. Readers and writers are
separate because SQLite must take its write lock at BEGIN: it refuses a reader that begins to write, without waiting.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, ExceptionContext, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from search_spaces.storage.atomic import PRIVATE

BUSY_TIMEOUT_S = 30  # to wait for SQLite's write lock: transactions are short, so a longer wait has another cause
ENCODING = "UTF8"  # of PostgreSQL's databases: names and labels may have any character
#: libpq's options, unless the URL has them: a connection that was cut off ends within half a minute. The system's own
#: limits are two minutes to connect and hours for an answer.
POSTGRESQL_DEADLINES = {
    "connect_timeout": 10,  # seconds, as the keepalives
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,  # milliseconds
}
#: Errors of a database that takes no writes, by PostgreSQL's SQLSTATE and SQLite's name.
READ_ONLY = frozenset({"25006", "SQLITE_READONLY"})
#: For a lock that somebody holds in PostgreSQL: Rung's own are held for milliseconds.
LOCK_TIMEOUT_S = 10.0
#: How long a write that found no space counts. One that succeeds meanwhile says little: a small one fits into pages
#: that the database has.
FULL_S = 20.0
#: Arbitrary numbers that identify PostgreSQL's advisory locks.
MIGRATION_LOCK, RIGHTS_LOCK = 7_468_103, 7_468_104


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DatabaseFacts:
    """What a database says of itself. `revision` is that of its schema, `newest` the one of this version of Rung."""

    product: str
    revision: str
    newest: str
    is_unicode: bool
    now: datetime


class DatabaseUnusableError(Exception):
    """The database cannot be opened or upgraded. The message says why in one line, without a password."""


class DatabaseFileLostError(OperationalError):
    """SQLite's file is not the one that was opened: what is written now would be lost with the process."""

    def __init__(self, path: Path) -> None:
        why = f"{path} was deleted or replaced while the service ran; put back the same file or restart the service"
        super().__init__("BEGIN", None, FileNotFoundError(why))


class DatabaseReadOnlyError(OperationalError):
    """The database answers, but takes no writes: for example, it became a standby or its disk is read-only."""


class Database:
    """Sessions over one URL. Close it when done."""

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        self._sqlite = parsed.get_backend_name() == "sqlite"
        if self._sqlite:
            if parsed.database in {None, "", ":memory:"}:
                raise ValueError("must name a SQLite file: a database in memory is lost with its connection")
            path = Path(str(parsed.database))
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _refuse_to_lose_writes(path)
            _make_private(path)
        limits: dict[str, Any] = {"timeout": BUSY_TIMEOUT_S}
        if not self._sqlite:
            given = {**POSTGRESQL_DEADLINES, "client_encoding": ENCODING}
            limits = {name: value for name, value in given.items() if name not in parsed.query}
        self.engine = create_engine(
            parsed, pool_size=10, max_overflow=30, pool_pre_ping=not self._sqlite, connect_args=limits
        )
        self._file: _OpenedFile | None = None
        self._full_at = -math.inf
        self._read_only = False
        _recognize_read_only(self.engine)
        if not self._sqlite:
            _limit_waits_for_locks(self.engine)
        if self._sqlite:
            _make_sqlite_strict(self.engine)
            self._file = _OpenedFile(self.engine, path)
        self._writer = self.engine.execution_options(rung_writer=True)

    @classmethod
    def open(cls, url: str) -> Database:
        """Connect and bring the schema up to date. Raises DatabaseUnusableError."""
        try:
            database = cls(url)
        except (ArgumentError, ImportError, ValueError, OSError) as error:
            raise DatabaseUnusableError(_shorten(error)) from error
        try:
            database._check_encoding()
            database.migrate()
        except (SQLAlchemyError, CommandError, OSError, ValueError) as error:
            database.close()
            shown = database.engine.url.render_as_string(hide_password=True)
            raise DatabaseUnusableError(f"cannot use the database {shown}: {_shorten(error)}") from error
        return database

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session that sees one snapshot and must not write."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction: committed at the end of the block, rolled back on an exception. No network calls inside."""
        self._check_file()
        try:
            with Session(self._writer, expire_on_commit=False) as session, session.begin():
                yield session
            self._read_only = False
        except OperationalError as error:
            if is_full(error):
                self._full_at = time.monotonic()
            self._read_only = self._read_only or isinstance(error, DatabaseReadOnlyError)
            raise

    def hold_rights(self, session: Session, *, exclusive: bool) -> None:
        """Until the transaction of `write` ends, no other one that is `exclusive` here begins; an `exclusive` one waits
        for all others that called this. SQLite has one writer at a time anyway."""
        if not self._sqlite:
            lock = "pg_advisory_xact_lock" if exclusive else "pg_advisory_xact_lock_shared"
            session.execute(text(f"SELECT {lock}(:key)"), {"key": RIGHTS_LOCK})

    @property
    def is_full(self) -> bool:
        """Whether a write of the last FULL_S found no space."""
        return time.monotonic() - self._full_at < FULL_S

    @staticmethod
    def _newest_revision() -> str:
        with as_file(files("service.store") / "migrations") as folder:
            return str(ScriptDirectory(str(folder)).get_current_head())

    def migrate(self, revision: str = "head", *, down: bool = False) -> None:
        """Upgrade (or downgrade) the schema to a revision. Replicas that start together wait for each other."""
        with as_file(files("service.store") / "migrations") as folder, self._migrating() as connection:
            config = Config()
            config.set_main_option("script_location", str(folder).replace("%", "%%"))
            config.attributes["connection"] = connection
            (command.downgrade if down else command.upgrade)(config, revision)

    @contextmanager
    def _migrating(self) -> Iterator[Connection]:
        """A transaction that may replace tables.

        SQLite cannot alter most of a table, so the table is copied and dropped. With foreign keys enforced, the drop
        would delete every row that refers to it.
        """
        with self._writer.connect() as connection:
            if self._sqlite:
                _enforce_foreign_keys(connection.connection, False)
            try:
                with connection.begin():
                    if not self._sqlite:
                        connection.execute(text("SET LOCAL lock_timeout = 0"))
                        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
                    yield connection
                    if self._sqlite and (broken := connection.execute(text("PRAGMA foreign_key_check")).first()):
                        raise ValueError(f"a migration left a row of {broken[0]} with an invalid reference")
            finally:
                if self._sqlite:
                    _enforce_foreign_keys(connection.connection, True)

    def ping(self) -> None:
        """Raise SQLAlchemyError if the database does not answer, takes no writes, or its file is lost."""
        self._check_file()
        with self.engine.connect() as connection:
            if self._sqlite:
                connection.execute(text("SELECT 1"))
                read_only = self._read_only  # as the newest write found
            else:
                read_only = connection.execute(text("SHOW transaction_read_only")).scalar_one() == "on"
        if read_only:
            self.engine.dispose()  # what makes it writable again may hold for new connections only
            raise DatabaseReadOnlyError("BEGIN", None, PermissionError("the database is read-only"))

    def facts(self) -> DatabaseFacts:
        """Raises SQLAlchemyError."""
        with self.engine.connect() as connection:
            revision = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
            if self._sqlite:
                product = f"SQLite {connection.execute(text('SELECT sqlite_version()')).scalar_one()}"
                encoding, now = ENCODING, datetime.now(UTC)
            else:
                number = connection.execute(text("SHOW server_version")).scalar_one()
                product = f"PostgreSQL {str(number).split()[0]}"
                encoding = connection.execute(text("SHOW server_encoding")).scalar_one()
                now = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
        return DatabaseFacts(product, revision, self._newest_revision(), encoding == ENCODING, now)

    def size_bytes(self) -> int:
        """The size of the database on its disk. Raises SQLAlchemyError, and OSError for a file that is lost."""
        if self._file is not None:
            logged = self._file.path.with_name(f"{self._file.path.name}-wal")
            return self._file.path.stat().st_size + (logged.stat().st_size if logged.exists() else 0)
        with self.engine.connect() as connection:
            return int(connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one())

    def free_bytes(self) -> int | None:
        """The free space of the disk with the database's file; None for a server, which does not say. Raises
        OSError."""
        return None if self._file is None else shutil.disk_usage(self._file.path.parent).free

    def close(self) -> None:
        self.engine.dispose()

    def _check_encoding(self) -> None:
        """Raise ValueError for a new database that cannot store every character. One with experiments is
        used as it is."""
        if self._sqlite:
            return
        with self.engine.connect() as connection:
            encoding = connection.execute(text("SHOW server_encoding")).scalar_one()
            if encoding == ENCODING:
                return
            wanted = f"must have the encoding {ENCODING} (got {encoding})"
            if inspect(connection).has_table("alembic_version"):
                log.warning("the database %s: requests with characters that it lacks fail", wanted)
                return
        raise ValueError(f"{wanted}; create it with CREATE DATABASE name ENCODING '{ENCODING}' TEMPLATE template0")

    def _check_file(self) -> None:
        if self._file is not None and self._file.is_lost():
            raise DatabaseFileLostError(self._file.path)


class _OpenedFile:
    """SQLite's file, as the first connection of an engine found or made it.

    No later connection makes a file, or opens another one: SQLite would empty the write-ahead log of the lost file,
    with what was committed since its last checkpoint.
    """

    def __init__(self, engine: Engine, path: Path) -> None:
        self.path = path
        self._opened: tuple[int, int] | None = None

        @event.listens_for(engine, "connect")
        def _connected(_connection: Any, _record: Any) -> None:
            self._opened = self._opened or self._found()

        @event.listens_for(engine, "do_connect")
        def _connecting(_dialect: Any, _record: Any, arguments: list[Any], options: dict[str, Any]) -> None:
            if self._opened is not None:
                if self.is_lost():
                    raise DatabaseFileLostError(path)
                arguments[:] = [f"{path.absolute().as_uri()}?mode=rw"]
                options["uri"] = True

    def is_lost(self) -> bool:
        return self._opened is not None and self._found() != self._opened

    def _found(self) -> tuple[int, int] | None:
        try:
            status = self.path.stat()
        except OSError:  # also of a folder that is a file now, or that nobody may enter
            return None
        return status.st_dev, status.st_ino


def _refuse_to_lose_writes(path: Path) -> None:
    """Raise FileNotFoundError for a write-ahead log without its database, which SQLite would empty."""
    log = path.with_name(f"{path.name}-wal")
    if not path.exists() and log.exists() and log.stat().st_size:
        raise FileNotFoundError(
            f"{log} has writes of a database that is missing; put {path.name} back beside it, or delete {log.name}"
        )


def _make_private(path: Path) -> None:
    """Have only the owner read SQLite's file, which has people, hashes of passwords and the audit log. SQLite gives the
    files beside it the same permissions."""
    if not path.exists():
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, PRIVATE))
    for file in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
        with contextlib.suppress(OSError):  # it is missing, belongs to another user, or its disk takes no writes
            if file.stat().st_mode & 0o077:
                file.chmod(PRIVATE)


def is_full(error: OperationalError) -> bool:
    """Whether the database failed because its disk is full. The whole transaction was rolled back."""
    codes = {getattr(error.orig, "sqlite_errorname", None), getattr(error.orig, "sqlstate", None)}
    return bool(codes & {"SQLITE_FULL", "53100"})


def _shorten(error: Exception) -> str:
    """The first line of what went wrong, without SQLAlchemy's additions."""
    if isinstance(error, ArgumentError):  # it may quote the whole URL
        return "must be a SQLAlchemy URL such as sqlite:////path/rung.db or postgresql://user:password@host/name"
    if isinstance(error, CommandError):
        return f"its schema is unknown to this version of Rung; a newer version may have written it ({error})"
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0]


def _recognize_read_only(engine: Engine) -> None:
    """Raise DatabaseReadOnlyError for what the drivers report under several types, and drop all connections: new
    ones may reach a database that takes writes."""

    @event.listens_for(engine, "handle_error", retval=True)
    def _failed(context: ExceptionContext) -> DatabaseReadOnlyError | None:
        error = context.original_exception
        name = getattr(error, "sqlstate", None) or getattr(error, "sqlite_errorname", None) or ""
        if name not in READ_ONLY and not name.startswith("SQLITE_READONLY_"):
            return None
        context.is_disconnect = True
        return DatabaseReadOnlyError(context.statement, None, error)


def _limit_waits_for_locks(engine: Engine) -> None:
    """Not by libpq's `options`, which a connection pooler may refuse."""

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SET lock_timeout = {round(LOCK_TIMEOUT_S * 1000)}")
        connection.commit()


def _make_sqlite_strict(engine: Engine) -> None:
    """Set up WAL (readers do not wait for a writer), foreign keys, and explicit transactions."""

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.close()
        _enforce_foreign_keys(connection, True)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writer = connection.get_execution_options().get("rung_writer", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writer else "BEGIN")


def _enforce_foreign_keys(connection: Any, on: bool) -> None:
    """Works on a connection of the DBAPI driver. Has no effect inside a transaction."""
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA foreign_keys={'ON' if on else 'OFF'}")
    cursor.close()
