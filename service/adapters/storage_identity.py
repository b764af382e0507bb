"""StorageIdentity: whether the storage root is the one that has the files of this database's experiments.

Owns the identity that both remember. A root that is not mounted looks like an empty one: Rung would train there, and
take the experiments for deleted. It must not know how a root stores its identity, nor what follows from another one.
"""

from __future__ import annotations

import logging
import secrets

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from search_spaces.storage.base import StorageRoot, open_root
from service.store.database import Database
from service.store.models import Storage, Trial

NAME = "root"  # of the only storage

log = logging.getLogger(__name__)


class StorageLostError(OSError):
    """The storage root is missing, or is another one than before. The message is for the operator."""


class StorageIdentity:
    """May be used from several threads."""

    def __init__(self, database: Database, address: str) -> None:
        self._database = database
        self._address = address
        self._known: str | None = None  # it never changes

    def check(self) -> None:
        """Raise StorageLostError unless the root is the known one; the first one becomes it.

        Raises OSError and SQLAlchemyError too.
        """
        root = open_root(self._address)
        found = root.identity()
        known = self._known = self._known or self._remembered() or self._adopt(root, found)
        if found != known and (found := root.identity()) != known:
            missing = "has no identity: it is missing, or not mounted"
            what = missing if found is None else f"is another storage, of the identity {found!a}"
            raise StorageLostError(
                f"RUNG_STORAGE_ROOT {self._address} {what}; mount the storage of this database again, "
                f"or, if this is it, write {known} to {root.identity_address}"
            )

    def _remembered(self) -> str | None:
        with self._database.read() as session:
            return session.scalar(select(Storage.identity).where(Storage.name == NAME))

    def _adopt(self, root: StorageRoot, found: str | None) -> str:
        """Remember this root. Version 0.1 remembered none, so its root has experiments, but no identity."""
        if found is None:
            if not root.exists() and self._has_trials():
                raise StorageLostError(
                    f"RUNG_STORAGE_ROOT {self._address} is missing, but experiments have files there; "
                    "mount it, or, if they are lost, create it"
                )
            found = root.identify(secrets.token_hex(16))
        try:
            with self._database.write() as session:
                session.add(Storage(name=NAME, identity=found))
        except IntegrityError:  # another replica was faster
            return self._remembered() or found
        log.info("RUNG_STORAGE_ROOT %s has the identity %s from now on", self._address, found)
        return found

    def _has_trials(self) -> bool:
        with self._database.read() as session:
            return session.scalar(select(Trial.trial).limit(1)) is not None
