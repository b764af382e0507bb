"""Drivers: those that should be at work, as they are stored, and what is to be thought of each.

`loss` is a pure function of what is stored, what Ray says and for how long nothing was heard. Nothing here speaks
to Ray, and nothing changes what is stored.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.adapters.launcher import ALIVE, JobStatus
from service.contract.states import DRIVEN
from service.domain.attempts import OPEN
from service.scheduling.silence import SilenceTimer
from service.settings import Settings
from service.store.models import Attempt, Experiment

QUIET_HEARTBEATS = 3  # so many missed, and Ray is asked what became of the driver


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
    """For how many seconds a driver has said nothing, and has not obeyed the stop that was asked for."""

    quiet_s: float
    stop_pending_s: float


@dataclass(frozen=True)
class Loss:
    """Why a driver is given up, as a sentence.

    `counted` against its experiment's attempts; `cleared_by_heartbeat` by a word of its own that comes meanwhile.
    """

    why: str
    counted: bool = True
    cleared_by_heartbeat: bool = True


def active_drivers(session: Session) -> list[Driver]:
    """The newest attempt of each experiment that wants a driver, where it has not ended."""
    rows = session.execute(
        select(Experiment, Attempt)
        .join(Attempt, (Attempt.experiment_id == Experiment.id) & (Attempt.number == Experiment.attempt))
        .where(Experiment.state.in_(DRIVEN), Attempt.state.in_(OPEN))
    )
    return [snapshot(experiment, attempt) for experiment, attempt in rows]


def snapshot(experiment: Experiment, attempt: Attempt) -> Driver:
    """What is stored of a driver."""
    return Driver(
        experiment_id=experiment.id,
        attempt_id=attempt.id,
        number=attempt.number,
        submitted_at=attempt.submitted_at,
        heard_at=attempt.last_heartbeat_at,
        stop_asked_at=experiment.stop_asked_at,
    )


def measure_silence(silence: SilenceTimer, drivers: Iterable[Driver]) -> dict[str, DriverSilence]:
    """The silences of each driver, by its attempt's id."""
    drivers = list(drivers)
    words: dict[str, Hashable] = {f"{one.attempt_id} said": (one.submitted_at, one.heard_at) for one in drivers}
    words |= {f"{one.attempt_id} asked": one.stop_asked_at for one in drivers if one.stop_asked_at}
    seconds = silence.observe(words)
    return {
        one.attempt_id: DriverSilence(seconds[f"{one.attempt_id} said"], seconds.get(f"{one.attempt_id} asked", 0.0))
        for one in drivers
    }


def is_healthy(driver: Driver, silences: DriverSilence, settings: Settings) -> bool:
    """Whether Ray need not be asked: it spoke a moment ago, and has time to obey."""
    lively = driver.heard_at is not None and silences.quiet_s < QUIET_HEARTBEATS * settings.heartbeat_s
    return lively and silences.stop_pending_s <= settings.stop_grace_s


def diagnose(driver: Driver, status: JobStatus, silences: DriverSilence, settings: Settings) -> Loss | None:
    """What became of a driver that is not well; None while it may yet speak."""
    quiet_s = silences.quiet_s
    if status is JobStatus.UNKNOWN and driver.submitted_at is None and driver.heard_at is None:
        # Another replica may be about to hand it to Ray: for as long as a request lasts, and its lease after that.
        if quiet_s <= settings.ray_submit_timeout_s + settings.lease_s:
            return None
        return Loss(f"the driver did not reach Ray within {quiet_s:.0f} s", counted=False)
    if status is JobStatus.UNKNOWN:
        return Loss("Ray does not know the driver any more; was Ray started anew?")
    if status not in ALIVE:
        return Loss(f"the driver ended ({status}) without a last word")
    if silences.stop_pending_s > settings.stop_grace_s:
        why = f"the driver did not stop within {settings.stop_grace_s:g} s and was stopped from outside"
        return Loss(why, cleared_by_heartbeat=False)
    if quiet_s > (settings.driver_lost_s if driver.heard_at else settings.driver_start_s):
        return Loss(f"the driver was silent for {quiet_s:.0f} s")
    return None
