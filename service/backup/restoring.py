"""Restoring: a set put where an installation is to be, which must have nothing there yet.

Owns these checks: nothing is ever replaced. Folders are copied beside their places and get their names last, so that a
restore that was interrupted is known and can be repeated. It must not know the form of a set's parts.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Engine, create_engine, make_url

from service.backup import mlflow_database, sets, tables, trees
from service.backup.errors import BackupError
from service.backup.installation import Installation, unfinished
from service.backup.sets import Manifest
from service.stack.home import locked
from service.store.database import Database

COPIES = ".databases"  # in the unfinished storage, so that nothing of an interrupted restore stays elsewhere


def restore(installation: Installation, folder: Path) -> Manifest:
    """Raises BackupError before anything is written; StackError, OSError and SQLAlchemyError also later."""
    manifest = sets.read_manifest(folder)
    with locked(installation.home) if installation.is_home else nullcontext():
        _check_empty(installation, folder)
        installation.begun.parent.mkdir(parents=True, exist_ok=True)
        installation.begun.write_text(json.dumps(_databases(installation)))
        installation.begun.chmod(0o600)
        places = (  # the storage gets its name last: until then, the databases are not in use
            (folder / sets.ARTIFACTS, installation.mlflow_artifacts),
            (folder / sets.STORAGE, installation.storage),
        )
        for source, target in reversed(places):
            shutil.rmtree(unfinished(target), ignore_errors=True)
            trees.copy(source, unfinished(target))
        copies = unfinished(installation.storage) / COPIES  # SQLite writes beside what it reads
        copies.mkdir(mode=0o700)
        for name in (sets.DATABASE, sets.MLFLOW):
            shutil.copy(folder / name, copies / name)
        _restore_database(installation, f"sqlite:///{copies / sets.DATABASE}")
        mlflow_database.load(copies / sets.MLFLOW, installation.mlflow_database_url)
        shutil.rmtree(copies)
        for _, target in places:
            if target.exists():
                target.rmdir()
            unfinished(target).rename(target)
        installation.begun.unlink()
    return manifest


def _check_empty(installation: Installation, folder: Path) -> None:
    """Raises BackupError for a target that has anything, except databases that an interrupted restore of the same set
    began. Whatever they are called, they have nothing that the set does not have."""
    for place in (installation.storage, installation.mlflow_artifacts):
        if not trees.is_empty(place):
            raise BackupError(f"{place} must be absent or empty: move it elsewhere first")
    begun = _begun(installation)
    for shown, url, name, content, most in zip(
        _databases(installation),
        (installation.database_url, installation.mlflow_database_url),
        (sets.DATABASE, sets.MLFLOW),
        (("experiments",), mlflow_database.CONTENT),
        (0, 1),
        strict=True,
    ):
        file = mlflow_database.file_of(url)
        if file is not None and not file.exists():  # to connect would create it
            continue
        with _connecting(url) as engine:
            if tables.count(engine, *content) <= most:
                continue
            with _connecting(f"sqlite:///file:{quote(str(folder / name))}?mode=ro&immutable=1&uri=true") as of_set:
                if shown in begun and tables.keys(engine, *content) <= tables.keys(of_set, *content):
                    continue
        raise BackupError(f"the database {shown} must be empty: create a new one, or move the file elsewhere")


@contextmanager
def _connecting(url: str) -> Iterator[Engine]:
    engine = create_engine(url)
    try:
        yield engine
    finally:
        engine.dispose()


def _begun(installation: Installation) -> list[str]:
    """The databases that an interrupted restore began to write."""
    if not installation.restoring.exists():
        return []
    try:
        found: list[str] = json.loads(installation.begun.read_text())
    except (OSError, ValueError):
        return []
    return found


def _databases(installation: Installation) -> list[str]:
    """The URLs of Rung's and MLflow's database, as they are shown; files with their whole path."""
    found = []
    for url in (installation.database_url, installation.mlflow_database_url):
        file = mlflow_database.file_of(url)
        found.append(
            make_url(url).render_as_string(hide_password=True) if file is None else f"sqlite:///{file.resolve()}"
        )
    return found


def _restore_database(installation: Installation, copied: str) -> None:
    """The copy is migrated: an earlier version may have made the set."""
    source, target = Database.open(copied), Database.open(installation.database_url)
    try:
        tables.copy(source.engine, target.engine)
    finally:
        source.close()
        target.close()
