"""Driver liveness: which drivers should be running, and whether each is healthy, stopping or lost.

`diagnose` is a pure function of what is stored, what Ray reports and how long a driver has been silent. Nothing here
calls Ray or changes what is stored.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session, load_only

from service.adapters.launcher import ALIVE, JobStatus
from service.contract.states import DRIVEN, OPEN, LossCause
from service.scheduling.silence import SilenceTimer
from service.settings import Settings
from service.store.models import Attempt, Experiment

QUIET_HEARTBEATS = 3  # after so many missed heartbeats, Ray is asked for the state of the driver


@dataclass(frozen=True)
class Driver:
    """An attempt that has not ended, as it was read from the database."""

    experiment_id: str
    attempt_id: str
    number: int
    submitted_at: datetime | None
    heard_at: datetime | None
    stop_asked_at: datetime | None


@dataclass(frozen=True)
class DriverSilence:
    """For how many seconds a driver has sent no heartbeat, and how long a requested stop has been pending."""

    quiet_s: float
    stop_pending_s: float


@dataclass(frozen=True)
class Loss:
    """Why a driver is considered lost.

    `counted`: the loss counts against the attempts of its experiment. `cleared_by_heartbeat`: a heartbeat that arrives
    in the meantime proves that the driver is not lost.
    """

    cause: LossCause
    why: str
    counted: bool = True
    cleared_by_heartbeat: bool = True


def active_drivers(session: Session) -> list[Driver]:
    """The newest attempt of each experiment that needs a driver, if it has not ended."""
    rows = session.execute(
        select(Experiment, Attempt)
        .join(Attempt, (Attempt.experiment_id == Experiment.id) & (Attempt.number == Experiment.attempt))
        .where(Experiment.state.in_(DRIVEN), Attempt.state.in_(OPEN))
        .options(load_only(Experiment.id, Experiment.stop_asked_at))
    )
    return [snapshot(experiment, attempt) for experiment, attempt in rows]


def snapshot(experiment: Experiment, attempt: Attempt) -> Driver:
    """What the database holds about a driver."""
    return Driver(
        experiment_id=experiment.id,
        attempt_id=attempt.id,
        number=attempt.number,
        submitted_at=attempt.submitted_at,
        heard_at=attempt.last_heartbeat_at,
        stop_asked_at=experiment.stop_asked_at,
    )


def measure_silence(silence: SilenceTimer, drivers: Iterable[Driver]) -> dict[str, DriverSilence]:
    """How long each driver has been silent, by its attempt's id."""
    drivers = list(drivers)
    tokens: dict[Hashable, Hashable] = {
        ("heartbeat", one.attempt_id): (one.submitted_at, one.heard_at) for one in drivers
    }
    tokens |= {("stop request", one.attempt_id): one.stop_asked_at for one in drivers if one.stop_asked_at}
    seconds = silence.observe(tokens)
    return {
        one.attempt_id: DriverSilence(
            seconds["heartbeat", one.attempt_id], seconds.get(("stop request", one.attempt_id), 0.0)
        )
        for one in drivers
    }


def is_healthy(driver: Driver, silences: DriverSilence, settings: Settings) -> bool:
    """Whether Ray need not be asked: the last heartbeat is recent, and a requested stop still has time."""
    recent = driver.heard_at is not None and silences.quiet_s < QUIET_HEARTBEATS * settings.heartbeat_s
    return recent and silences.stop_pending_s <= settings.stop_grace_s


def diagnose(driver: Driver, status: JobStatus, silences: DriverSilence, settings: Settings) -> Loss | None:
    """Why a driver that is not healthy is lost; None while its next heartbeat may still come."""
    quiet_s = silences.quiet_s
    if status is JobStatus.UNKNOWN and driver.submitted_at is None and driver.heard_at is None:
        # Another replica may be submitting it to Ray: that takes as long as a request, and then its lease.
        if quiet_s <= settings.ray_submit_timeout_s + settings.lease_s:
            return None
        return Loss(LossCause.NOT_SUBMITTED, f"the driver did not reach Ray within {quiet_s:.0f} s", counted=False)
    if status is JobStatus.UNKNOWN:
        return Loss(LossCause.UNKNOWN_TO_RAY, "Ray does not know the driver; Ray was probably restarted")
    if status not in ALIVE:
        return Loss(LossCause.ENDED, f"the driver ended ({status}) without a final heartbeat")
    if silences.stop_pending_s > settings.stop_grace_s:
        why = f"the driver did not stop within {settings.stop_grace_s:g} s and was killed"
        return Loss(LossCause.NOT_STOPPED, why, cleared_by_heartbeat=False)
    if status is JobStatus.PENDING and driver.heard_at is None and quiet_s > settings.driver_start_s:
        why = (
            f"Ray did not start the driver within {quiet_s:.0f} s: no node had what is reserved for it, probably memory"
        )
        return Loss(LossCause.NOT_SUBMITTED, why, counted=False)
    if quiet_s > (settings.driver_lost_s if driver.heard_at else settings.driver_start_s):
        return Loss(LossCause.SILENT, f"the driver was silent for {quiet_s:.0f} s")
    return None
