"""Webhook events: what a team can be notified of.

It imports nothing heavy, because the command line needs it at once.
"""

from __future__ import annotations

from enum import StrEnum


class Event(StrEnum):
    """What a notification is about. The values are part of the interface: receivers compare them."""

    STARTED = "experiment.started"
    GOAL_REACHED = "experiment.goal_reached"
    COMPLETED = "experiment.completed"
    FAILED = "experiment.failed"
    PREEMPTED = "experiment.preempted"
    BUDGET = "team.budget"


#: In the place of an event: a notification that somebody asked for. Every webhook gets it.
TEST = "webhook.test"
