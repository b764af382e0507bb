"""Tables: the rows of one database copied to another one, of the same schema and of any product.

Owns the order of the tables, and that the source is read at one moment. It must not know what the rows mean.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy import JSON, Connection, Engine, MetaData, Table, func, insert, select, text
from sqlalchemy.exc import SAWarning

#: Rows that are read and written at once.
BATCH = 500
#: Alembic's own table: both databases have it, with the same content.
REVISION = "alembic_version"


class SchemaDiffersError(Exception):
    """The two databases do not have the same schema, or the target has rows."""


def revision_of(connection: Connection) -> str:
    """What Alembic calls the schema of a database."""
    return str(connection.execute(text(f"SELECT version_num FROM {REVISION}")).scalar_one())


def copy(source: Engine, target: Engine) -> int:
    """Copy all rows to a database whose tables have none, except those that a new one has, or of a copy that was made
    before. Returns their number.

    Raises SchemaDiffersError and SQLAlchemyError; then the target is as it was.
    """
    with source.connect() as reading, target.begin() as writing:
        _prepare(reading, writing)
        if (found := revision_of(reading)) != (wanted := revision_of(writing)):
            raise SchemaDiffersError(f"the schema of the source is {found}, that of the target {wanted}")
        from_tables, to_tables = _reflect(reading), _reflect(writing)
        if missing := from_tables.tables.keys() - to_tables.tables.keys():
            raise SchemaDiffersError(f"the target has no table {', '.join(sorted(missing))}")
        ordered = [table for table in to_tables.sorted_tables if table.name in from_tables.tables]
        ordered = [table for table in ordered if table.name != REVISION]
        with _triggers_off(writing, ordered):
            for table in reversed(ordered):
                writing.execute(table.delete())
            return sum(_copy_table(reading, from_tables.tables[table.name], writing, table) for table in ordered)


def count(engine: Engine, *tables: str) -> int:
    """The rows of these tables, as far as they exist."""
    with engine.connect() as connection:
        found = _reflect(connection)
        return sum(
            connection.execute(select(func.count()).select_from(found.tables[name])).scalar_one()
            for name in tables
            if name in found.tables
        )


def keys(engine: Engine, *tables: str) -> set[tuple[object, ...]]:
    """What identifies the rows of these tables, as far as they exist."""
    with engine.connect() as connection:
        found = _reflect(connection)
        known = [found.tables[name] for name in tables if name in found.tables]
        return {(table.name, *row) for table in known for row in connection.execute(select(*table.primary_key.columns))}


def _copy_table(reading: Connection, source: Table, writing: Connection, target: Table) -> int:
    names = [column.name for column in target.columns if column.name in source.columns and column.computed is None]
    rows = reading.execution_options(yield_per=BATCH).execute(select(*(source.columns[name] for name in names)))
    copied = 0
    for batch in rows.mappings().partitions():
        writing.execute(insert(target), [dict(row) for row in batch])
        copied += len(batch)
    _continue_numbering(writing, target)
    return copied


@contextmanager
def _triggers_off(connection: Connection, tables: Sequence[Table]) -> Iterator[None]:
    """In the block, rows are what they were in the source: those of the audit log, which refuses changes, too."""
    if connection.dialect.supports_sequences:
        names = [connection.dialect.identifier_preparer.format_table(table) for table in tables]
        for name in names:
            connection.execute(text(f"ALTER TABLE {name} DISABLE TRIGGER USER"))
        yield
        for name in names:
            connection.execute(text(f"ALTER TABLE {name} ENABLE TRIGGER USER"))
        return
    found = connection.execute(text("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")).all()
    for name, _ in found:
        connection.execute(text(f"DROP TRIGGER {connection.dialect.identifier_preparer.quote(name)}"))
    yield
    for _, statement in found:
        connection.exec_driver_sql(statement)


def _continue_numbering(connection: Connection, table: Table) -> None:
    """Let the database number new rows after those that were copied with their numbers."""
    column = table.autoincrement_column
    if column is None or not connection.dialect.supports_sequences:
        return
    sequence = connection.execute(
        text("SELECT pg_get_serial_sequence(:table, :column)"), {"table": table.name, "column": column.name}
    ).scalar_one()
    largest = connection.execute(select(func.max(column))).scalar_one()
    if sequence is not None and largest is not None:
        connection.execute(text("SELECT setval(:sequence, :largest)"), {"sequence": sequence, "largest": largest})


def _prepare(reading: Connection, writing: Connection) -> None:
    """Read at one moment, and take times without a zone, which SQLite has, for UTC."""
    if reading.dialect.supports_sequences:
        reading.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
    for connection in (reading, writing):
        if connection.dialect.supports_sequences:
            connection.execute(text("SET TIME ZONE 'UTC'"))


def _reflect(connection: Connection) -> MetaData:
    """The tables as the database describes them. What is absent stays so: it does not become JSON's null."""
    found = MetaData()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SAWarning)  # of indexes, which are not needed
        found.reflect(connection)
    for table in found.tables.values():
        for column in table.columns:
            if isinstance(column.type, JSON):
                column.type.none_as_null = True
    return found
