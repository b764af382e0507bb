"""Sets: a backup as a folder: two databases as SQLite files, two trees of files, and a manifest that is written last.

Owns the names in it, and what a complete set is. Databases have one form whatever they are restored to, so that a set
of `rung up` can become an installation on PostgreSQL. It must not know an installation.
"""

from __future__ import annotations

import hashlib
import os
from datetime import datetime
from io import BufferedReader
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from search_spaces.storage.atomic import PRIVATE, atomic_write
from search_spaces.storage.regular_file import open_regular
from service.backup import trees
from service.backup.errors import BackupError

MANIFEST = "manifest.json"
DATABASE, MLFLOW = "rung.db", "mlflow.db"
STORAGE, ARTIFACTS = "storage", "artifacts"
MOST_MANIFEST_BYTES = 2**20  # it has a few lines


class Manifest(BaseModel):
    """What a set has. Digests are SHA-256 of the databases, and of the two folders (`trees.digest`), which sets of
    earlier versions lack."""

    model_config = ConfigDict(frozen=True)

    made_at: datetime
    version: str
    digests: dict[str, str]
    files: dict[str, int]
    size_bytes: dict[str, int]


def write_manifest(folder: Path, made_at: datetime, version: str) -> Manifest:
    """Complete a set."""
    found = {name: trees.measure(folder / name) for name in (STORAGE, ARTIFACTS)}
    manifest = Manifest(
        made_at=made_at,
        version=version,
        digests={name: digest(folder / name) for name in (DATABASE, MLFLOW)}
        | {name: trees.digest(folder / name) for name in (STORAGE, ARTIFACTS)},
        files={name: tree.files for name, tree in found.items()},
        size_bytes={name: tree.size_bytes for name, tree in found.items()},
    )
    atomic_write(folder / MANIFEST, manifest.model_dump_json(indent=2).encode(), PRIVATE)
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """Check a set. Raises BackupError for one that is not complete, or was changed."""
    try:
        with _opened(folder / MANIFEST) as file:
            manifest = Manifest.model_validate_json(file.read(MOST_MANIFEST_BYTES))
        sized = manifest.files.keys() & manifest.size_bytes.keys()
        if not {DATABASE, MLFLOW} <= manifest.digests.keys() or not {STORAGE, ARTIFACTS} <= sized:
            raise BackupError(f"{folder / MANIFEST} lacks the digest of a database, or the size of a folder")
        for name in (STORAGE, ARTIFACTS):
            known = trees.Tree(manifest.files[name], manifest.size_bytes[name])
            if (folder / name).is_symlink():
                raise BackupError(f"{folder / name} must be a folder (got a link)")
            if (found := trees.measure(folder / name)) != known:
                raise BackupError(
                    f"{folder / name} must have {known.files} files of {known.size_bytes} bytes "
                    f"(got {found.files} of {found.size_bytes})"
                )
        for name in (DATABASE, MLFLOW, STORAGE, ARTIFACTS):
            digest_of = trees.digest if name in {STORAGE, ARTIFACTS} else digest
            if name in manifest.digests and digest_of(folder / name) != manifest.digests[name]:
                raise BackupError(f"{folder / name} is not what was backed up: it was changed or is damaged")
    except OSError as error:
        raise BackupError(f"{folder} is not a complete backup: {error}") from None
    except ValidationError:
        raise BackupError(f"{folder / MANIFEST} is not the manifest of a backup") from None
    return manifest


def digest(path: Path) -> str:
    with _opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _opened(path: Path) -> BufferedReader:
    """A file of a set, whose folder may be reached by a link. Raises OSError, also for a named pipe in its place."""
    folder = path.parent.resolve()
    return open(open_regular(folder, folder / path.name, os.O_RDONLY), "rb")
