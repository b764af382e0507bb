"""Observations: what a scrape of the metrics looks at besides memory, each in a thread of its own.

Owns these looks: what hangs delays no other one, and nobody who does not want to wait. It must not know who asks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from service.adapters.experiment_files import free_bytes_of_root
from service.adapters.single_flight import SingleFlight
from service.domain import census
from service.domain.census import Census
from service.store import leases
from service.store.database import Database


@dataclass(frozen=True)
class DatabaseReport:
    """What the database says, and how large it is. `free_bytes` is None for a server, which does not say."""

    census: Census
    is_full: bool
    size_bytes: int
    free_bytes: int | None


class Observations:
    """`database` raises SQLAlchemyError and OSError, `storage_free` OSError. Close them when done."""

    def __init__(self, database: Database, lease: str, storage_root: str, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._lease = lease
        self._clock = clock
        self.database = SingleFlight("census", self._look_at_database)
        self.storage_free = SingleFlight("storage-free", lambda: free_bytes_of_root(storage_root))

    def close(self) -> None:
        self.database.close()
        self.storage_free.close()

    def look_at_lease(self) -> float | None:
        """Seconds until the lease of the queue ends, negative since it has; None if nobody ever held it.

        Raises SQLAlchemyError, and waits for the database.
        """
        with self._database.read() as session:
            end = leases.ends_at(session, self._lease)
        return None if end is None else (end - self._clock()).total_seconds()

    def _look_at_database(self) -> DatabaseReport:
        self._database.ping()
        with self._database.read() as session:
            found = census.take(session, leases.ends_at(session, self._lease), self._clock())
        return DatabaseReport(found, self._database.is_full, self._database.size_bytes(), self._database.free_bytes())
