"""UsageBy: what usage may be summed by. It imports nothing heavy, because the command line needs it at once."""

from __future__ import annotations

from enum import StrEnum


class UsageBy(StrEnum):
    """What usage is summed by, in each team."""

    TEAM = "team"
    PERSON = "person"
    EXPERIMENT = "experiment"
    POOL = "pool"
