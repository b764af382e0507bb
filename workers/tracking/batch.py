"""Batch: what the run of a trial is sent for some of its events.

Owns what each event becomes in MLflow: metrics, params, tags and statuses. It must not know MLflow's client, nor what
was sent before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from mlflow.entities import Metric

from search_spaces.protocol import TRIAL_RUN_STATUS, Tag, TrialState
from search_spaces.upgrade import upgrade_sample
from workers.state.events import (
    EpochFinished,
    Event,
    SlotReleased,
    TrialEnded,
    TrialEvent,
    TrialRetried,
    TrialSuggested,
)
from workers.tracking.description import Description
from workers.tracking.progress import Best, state_after
from workers.tracking.summary import BEST_EPOCH, best_name


@dataclass
class Batch:
    """All that one run is sent at once. `name` is that of a run that must be created. Times are Unix milliseconds."""

    began_ms: int
    name: str
    points: list[Metric] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    ended: tuple[str, int] | None = None

    def best_points(self, best: Best, metric: str) -> list[Metric]:
        """The best value of the objective `metric`, at its epoch."""
        values = {best_name(metric): best.value, BEST_EPOCH: float(best.epoch)}
        return [Metric(name, value, _ms(best.at), best.epoch) for name, value in values.items()]


def by_trial(events: Iterable[Event]) -> dict[int, list[TrialEvent]]:
    """The events of each trial."""
    found: dict[int, list[TrialEvent]] = {}
    for event in events:
        if isinstance(event, TrialEvent):
            found.setdefault(event.trial, []).append(event)
    return found


def batch_of(events: Sequence[TrialEvent], description: Description, state: TrialState | None) -> Batch:
    """What the run of a trial is sent for some of its events, before which it had `state`; None at its first."""
    batch = Batch(_ms(events[0].at), description.trial_name(events[0].trial, {}))
    for event in events:
        match event:
            case TrialSuggested():
                batch.params = description.trial_parameters(upgrade_sample(event.parameters))
                batch.name = description.trial_name(event.trial, batch.params)
                if event.source is not None:
                    batch.tags[Tag.CONTINUED_FROM] = event.source
            case EpochFinished():
                batch.points += [
                    Metric(name, float(value), _ms(event.at), event.epoch) for name, value in event.metrics.items()
                ]
            case TrialRetried():
                batch.tags[Tag.RESTARTS] = str(event.restarts)
        before, state = state, state_after(event)
        if state != before or state is not TrialState.RUNNING:  # a running trial's run says so already
            batch.tags[Tag.TRIAL_STATE] = state
        if isinstance(event, TrialRetried | SlotReleased):  # it may be tried again after its end
            batch.ended = None
        if isinstance(event, TrialEnded | TrialRetried) and event.kind is not None:
            batch.tags[Tag.ERROR_KIND] = event.kind
        if isinstance(event, TrialEnded | EpochFinished) and event.state is not None:
            batch.tags[Tag.STOP_REASON] = event.reason
            batch.ended = TRIAL_RUN_STATUS[event.state], _ms(event.at)
    return batch


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
