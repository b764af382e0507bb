"""Checkup: what an examination of the installation finds, one sentence for each part, and what to do about it."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, Field


class Part(StrEnum):
    """A part of an installation."""

    SERVICE = "service"
    SCHEDULING = "scheduling"
    DATABASE = "database"
    RAY = "ray"
    MLFLOW = "mlflow"
    STORAGE = "storage"
    DATA = "data"
    NODE = "node"
    MACHINE = "machine"


class Verdict(StrEnum):
    """How a part is. With a warning, Rung works, or works for now."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


class Finding(BaseModel):
    """One thing that was looked at."""

    part: Part = Field(description="What was looked at.")
    verdict: Verdict = Field(description="How it is.")
    detail: str = Field(description="What was found, as a sentence.", examples=["MLflow does not answer"])
    remedy: str = Field("", description="What to do about it; empty where nothing needs to be done.")


class Checkup(BaseModel):
    """What an examination found."""

    at: datetime = Field(description="The time of the service's clock.")
    version: str = Field(description="The version of the service.")
    findings: list[Finding] = Field(description="What was looked at.")


def ok(part: Part, detail: str) -> Finding:
    return Finding(part=part, verdict=Verdict.OK, detail=detail)


def warning(part: Part, detail: str, remedy: str) -> Finding:
    return Finding(part=part, verdict=Verdict.WARNING, detail=detail, remedy=remedy)


def problem(part: Part, detail: str, remedy: str) -> Finding:
    return Finding(part=part, verdict=Verdict.PROBLEM, detail=detail, remedy=remedy)


#: Free space below which a disk is a problem, and below which it is a warning: a search writes gigabytes in a night.
FULL_BYTES, LOW_BYTES = 2**30, 10 * 2**30


def free_space(part: Part, disk: str, free: int, remedy: str) -> Finding:
    """What follows from the free space of a disk. `disk` begins a sentence."""
    detail = f"{disk} has {free / 2**30:.1f} GiB free"
    if free >= LOW_BYTES:
        return ok(part, detail)
    return (problem if free < FULL_BYTES else warning)(part, detail, remedy)


#: Clocks that differ by less are no finding: requests take time. Rung itself measures with clocks that do not jump, but
#: times in logs, in MLflow and in leases are those of the machines.
CLOCK_S = 5.0


def clock_difference_s(theirs: float, before: float, after: float) -> float:
    """By how much another clock is ahead at least, negative if behind, read between two times of our own."""
    return max(0.0, theirs - after) or min(0.0, theirs - before)
