"""Installation: where the parts of an installation are that are backed up together, and whether they stand still.

Owns these checks: a set is consistent only if nobody writes meanwhile. It must not know how a set looks.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import select

from search_spaces.phrases import listed
from service.backup.errors import BackupError
from service.contract.home_files import RESTORING
from service.contract.states import DRIVEN
from service.environment import read_settings
from service.settings import Settings
from service.stack.home import locked
from service.store.database import Database
from service.store.leases import HeldLease, acquire, assert_held, release
from service.store.models import Experiment

LEASE = "queue"  # of `service.scheduling`: who holds it may act on experiments
LEASE_S = 15.0
RENEW_S = 3.0
BEGUN = ".restoring-databases"
#: Settings that `rung up` makes itself: an installation for which one of them is given is another one.
PLACES = ("RUNG_DATABASE_URL", "RUNG_STORAGE_ROOT")


@dataclass(frozen=True)
class Installation:
    """`is_home`: it is that of `rung up`, whose lock shows whether it runs."""

    home: Path
    database_url: str
    storage: Path
    mlflow_database_url: str
    mlflow_artifacts: Path
    is_home: bool

    @property
    def restoring(self) -> Path:
        """A folder that is there until a restore has ended."""
        return unfinished(self.storage)

    @property
    def begun(self) -> Path:
        """A file that says which databases a restore writes. It counts only while `restoring` is there."""
        return self.restoring.with_suffix(BEGUN)


def unfinished(folder: Path) -> Path:
    """Where a folder is until all is restored."""
    return folder.with_name(folder.name + RESTORING)


def find(
    environment: Mapping[str, str], home: Path, mlflow_database: str | None, mlflow_artifacts: Path | None
) -> Installation:
    """What the settings in the environment say, and MLflow's two places; what `rung up` has in its home, if nothing
    says where the database, the storage or a place of MLflow's is. Raises BackupError and SettingsError.
    """
    options = {"--mlflow-database": mlflow_database, "--mlflow-artifacts": mlflow_artifacts}
    given = [name for name in PLACES if environment.get(name)] + [name for name, value in options.items() if value]
    is_home = not given
    settings = read_settings({**({} if is_home else environment), "RUNG_HOME": str(home)})
    if "://" in settings.storage_root:
        raise BackupError(
            f"RUNG_STORAGE_ROOT must be a folder (got {settings.storage_root}); copy another storage with its own tools"
        )
    if is_home:
        mlflow_database, mlflow_artifacts = f"sqlite:///{home / 'mlflow.db'}", home / "artifacts"
    if not mlflow_database or not mlflow_artifacts:
        missing = [name for name, value in options.items() if not value]
        raise BackupError(
            f"{listed(missing)} must be given beside {listed(given)}, or none of them for that of `rung up`"
        )
    return Installation(
        home=home,
        database_url=settings.sqlalchemy_url,
        storage=Path(settings.storage_root),
        mlflow_database_url=Settings(home=home, database_url=mlflow_database).sqlalchemy_url,
        mlflow_artifacts=mlflow_artifacts,
        is_home=is_home,
    )


@contextlib.contextmanager
def standing_still(installation: Installation, database: Database) -> Iterator[Callable[[], None]]:
    """In the block, nobody starts or changes an experiment; what is given raises BackupError if somebody did.

    Drivers of `rung up` end with it; those of a cluster do not end with the service. Raises BackupError if one may
    run, or a service schedules, and StackError if `rung up` runs.
    """

    if installation.restoring.exists():
        raise BackupError(f"a restore was interrupted: repeat `rung restore`, or remove {installation.restoring}")

    def check_drivers() -> None:
        if not installation.is_home:
            _check_no_drivers(database)

    with locked(installation.home) if installation.is_home else contextlib.nullcontext():
        check_drivers()
        with _lease(database) as check_lease:

            def check() -> None:
                check_lease()
                check_drivers()

            yield check


@contextlib.contextmanager
def _lease(database: Database) -> Iterator[Callable[[], None]]:
    """Holds the lease of the queue in the block. What is given raises LeaseLostError if it was lost."""
    held = _take_lease(database)
    ended = threading.Event()
    keeping = threading.Thread(target=_keep, args=(database, held, ended), daemon=True)
    keeping.start()

    def check() -> None:
        with database.write() as session:
            assert_held(session, held, datetime.now(UTC))

    try:
        yield check
    finally:
        ended.set()
        keeping.join()
        release(database, held, datetime.now(UTC))


def _check_no_drivers(database: Database) -> None:
    with database.read() as session:
        driven = session.scalars(select(Experiment.id).where(Experiment.state.in_(DRIVEN))).all()
    if driven:
        raise BackupError(
            f"experiments run: {listed(driven)}; let the service run, `rung pool change stop=drain` in each pool, and "
            "wait until `rung cluster` lists no experiment; then stop the service and repeat this; `rung pool change "
            "stop=none` once the service runs again"
        )


def _take_lease(database: Database) -> HeldLease:
    """Raises BackupError if another holder renews it."""
    owner, deadline = (
        f"backup-{socket.gethostname()[:24]}-{os.getpid()}-{secrets.token_hex(4)}",
        time.monotonic() + 2 * LEASE_S,
    )
    while (held := acquire(database, LEASE, owner, LEASE_S, datetime.now(UTC))) is None:
        if time.monotonic() > deadline:
            raise BackupError(
                "a service schedules experiments on this database: stop it, or start it with RUNG_RECONCILE=false"
            )
        time.sleep(1)
    return held


def _keep(database: Database, held: HeldLease, ended: threading.Event) -> None:
    while not ended.wait(RENEW_S):
        acquire(database, LEASE, held.owner, LEASE_S, datetime.now(UTC))
