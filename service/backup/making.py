"""Making: a set of an installation that stands still.

Owns the order, and that a set is there completely or not at all. It must not know the form of a set's parts.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from service.backup import mlflow_database, sets, tables, trees
from service.backup.errors import BackupError
from service.backup.installation import Installation, standing_still
from service.backup.sets import Manifest
from service.store.database import Database
from service.store.leases import LeaseLostError

UNFINISHED = ".part"


def make(installation: Installation, target: Path) -> Manifest:
    """Raises BackupError, StackError, OSError and SQLAlchemyError; then there is no set."""
    if not trees.is_empty(target):
        raise BackupError(f"the backup must be a new or an empty folder (got {target})")
    for source in (installation.storage, installation.mlflow_artifacts):
        if target.resolve().is_relative_to(source.resolve()):
            raise BackupError(f"the backup must not be in what is backed up (got {target} in {source})")
    for url in (installation.database_url, installation.mlflow_database_url):
        file = mlflow_database.file_of(url)
        if file is not None and not file.exists():  # to open it would create it
            raise BackupError(f"there is no installation to back up: {file} does not exist")
    database = Database.open(installation.database_url)
    try:
        with standing_still(installation, database) as check, _new_folder(target) as folder:
            _copy(installation, database, folder)
            check()
            return sets.write_manifest(folder, datetime.now(UTC), version("rung"))
    except LeaseLostError:
        raise BackupError("a service began to schedule experiments meanwhile: keep it stopped") from None
    finally:
        database.close()


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A folder of this backup's own beside the target, which gets its name at the end of the block. After an exception
    it is removed; one that a process left behind when it was killed is not touched."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{target.name}{UNFINISHED}-", dir=target.parent))
    try:
        yield folder
        if target.exists():
            target.rmdir()
        folder.rename(target)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _copy(installation: Installation, database: Database, folder: Path) -> None:
    copied = Database.open(f"sqlite:///{folder / sets.DATABASE}")
    try:
        tables.copy(database.engine, copied.engine)
    finally:
        copied.close()
    with closing(sqlite3.connect(folder / sets.DATABASE)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")  # one file, without a log beside it
    mlflow_database.save(installation.mlflow_database_url, folder / sets.MLFLOW)
    for source, name in ((installation.storage, sets.STORAGE), (installation.mlflow_artifacts, sets.ARTIFACTS)):
        if source.is_dir():
            trees.copy(source, folder / name)
        else:
            (folder / name).mkdir()
