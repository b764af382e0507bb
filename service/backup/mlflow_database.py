"""MLflow's database: kept as a SQLite file, and put back as one, or into a server's database.

The service imports no MLflow: where tables are missing, MLflow makes them in a process of its own. Owns that process,
and what differs here between SQLite and a server. Rows are copied by `tables`.
"""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from sqlalchemy import create_engine, make_url
from sqlalchemy.exc import SQLAlchemyError

from search_spaces.storage.atomic import PRIVATE
from service.backup import tables
from service.backup.errors import BackupError

#: What `mlflow server` does first. The URL is read from standard input: it may hold a password.
MAKE = """
import sys
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
SqlAlchemyStore(sys.stdin.read(), "mlflow-artifacts:/")
"""
MAKE_S = 300.0
#: Of these tables a new database has at most one row: the default experiment.
CONTENT = ("experiments", "runs", "registered_models")


def save(url: str, file: Path) -> None:
    """Write the database, which exists, to a new file. Raises BackupError."""
    path = file_of(url)
    if path is None:
        _make(f"sqlite:///{file}")
        _copy(url, f"sqlite:///{file}")
        return
    try:
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(file)) as target:
            source.backup(target)
            target.execute("PRAGMA journal_mode=DELETE")  # one file, without a log beside it
        file.chmod(PRIVATE)
    except sqlite3.Error as error:
        raise BackupError(f"MLflow's database {path} cannot be read: {error}") from None


def load(file: Path, url: str) -> None:
    """Put a file that `save` wrote where nothing is yet. It may be changed. Raises BackupError and OSError."""
    path = file_of(url)
    if path is None:
        _make(url)
        _copy(f"sqlite:///{file}", url)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(path)) as target:
        source.backup(target)
    path.chmod(PRIVATE)


def file_of(url: str) -> Path | None:
    """The file of a SQLite database; None for a server's."""
    parsed = make_url(url)
    return Path(str(parsed.database)) if parsed.get_backend_name() == "sqlite" else None


def _make(url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", MAKE], input=url, capture_output=True, text=True, timeout=MAKE_S, check=False
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise BackupError(f"MLflow's tables could not be created (is MLflow installed here?): {last}")


def _copy(source: str, target: str) -> None:
    reading, writing = create_engine(source), create_engine(target)
    try:
        tables.copy(reading, writing)
    except tables.SchemaDiffersError as error:
        raise BackupError(f"install here the version of MLflow that wrote its database: {error}") from None
    except SQLAlchemyError as error:
        raise BackupError(f"MLflow's database could not be copied: {str(error).splitlines()[0]}") from None
    finally:
        reading.dispose()
        writing.dispose()
