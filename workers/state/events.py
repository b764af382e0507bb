"""Events: what happens to the trials of an experiment, as the journal stores it.

Owns the typed events and their JSON form, which never changes its keys: journals of every version can be replayed. An
older version can read those of a newer one as long as they have no new state and no new kind of error: it skips events
and fields that it does not know. It must not know what follows from an event, nor where it is stored.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from search_spaces.protocol import ErrorKind, Packing, TrialState, Winner
from search_spaces.storage.base import Entry

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class AttemptStarted:
    """A driver started. The first event of each driver. `at` is in Unix seconds, by its wall clock.

    `experiment` is its id; None in journals of version 0.1.
    """

    name: ClassVar[str] = "attempt"
    at: float
    number: int
    experiment: str | None = None


@dataclass(frozen=True, kw_only=True)
class SearchWarmStarted:
    """The search takes these from earlier experiments; each has `source`, as an imported trial, and `parameters`."""

    name: ClassVar[str] = "warm_start"
    at: float
    configurations: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class DataAgreed:
    """What the data of the first epoch were: `digests` by part. Journals of earlier versions do not have it."""

    name: ClassVar[str] = "data"
    at: float
    digests: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class PackingMeasured:
    """It was measured how many trials share a GPU, which all trials do from now on. Earlier versions have none."""

    name: ClassVar[str] = "packing"
    at: float
    packing: Packing


@dataclass(frozen=True, kw_only=True)
class TrialEvent:
    """Something happened to trial number `trial` (from 0).

    `held_s`: seconds for which the trial has held a slot so far; None if it holds none. `source`: where an imported
    trial was trained, as `<experiment>/<number>`.
    """

    name: ClassVar[str]
    at: float
    trial: int
    held_s: float | None = None
    source: str | None = None


@dataclass(frozen=True, kw_only=True)
class TrialSuggested(TrialEvent):
    """A configuration was proposed."""

    name: ClassVar[str] = "suggested"
    sample: Mapping[str, float]
    parameters: Mapping[str, str | float]


@dataclass(frozen=True, kw_only=True)
class EpochFinished(TrialEvent):
    """An epoch (from 1) was finished; `state` and `reason` are set if the trial ended with it."""

    name: ClassVar[str] = "epoch"
    epoch: int
    metrics: Mapping[str, float]
    state: TrialState | None = None
    reason: str = ""

    def value_of(self, metric: str) -> float:
        """The objective; NaN where the trial diverged in this epoch: whatever the value, its weights are lost."""
        return math.nan if self.state is TrialState.DIVERGED else self.metrics.get(metric, math.nan)


@dataclass(frozen=True, kw_only=True)
class TrialEnded(TrialEvent):
    """A trial ended between epochs; `kind` is set if it failed."""

    name: ClassVar[str] = "ended"
    state: TrialState
    reason: str
    kind: ErrorKind | None = None


@dataclass(frozen=True, kw_only=True)
class TrialRetried(TrialEvent):
    """A trial failed and will be restarted, for the `restarts`-th time.

    `slots`: it exceeded its share of a GPU, and takes so many slots from now on, which are a whole one; None if it
    takes as many as before.
    """

    name: ClassVar[str] = "retried"
    kind: ErrorKind
    reason: str
    restarts: int
    slots: int | None = None


@dataclass(frozen=True, kw_only=True)
class SlotReleased(TrialEvent):
    """A trial released its slot without ending: it is PAUSED until it is resumed.

    `reason` is why the stopping rule paused it; None for a trial that was interrupted.
    """

    name: ClassVar[str] = "released"
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class SlotsReturned:
    """The search had no slot, and gets one again. Of the time since the event before, `counted_s` had passed before it
    had none."""

    name: ClassVar[str] = "returned"
    at: float
    counted_s: float


@dataclass(frozen=True, kw_only=True)
class WinnerEvaluated:
    """The best trial was evaluated on the test set and registered."""

    name: ClassVar[str] = "winner"
    at: float
    winner: Winner


Event = (
    AttemptStarted
    | SearchWarmStarted
    | DataAgreed
    | PackingMeasured
    | TrialSuggested
    | EpochFinished
    | TrialEnded
    | TrialRetried
    | SlotReleased
    | SlotsReturned
    | WinnerEvaluated
)

#: What version 0.1 stored of a winner, also where it is not known. What came later is left out then.
WINNER_0_1 = frozenset({"trial", "value", "test_accuracy", "test_loss", "model_uri"})
_BY_NAME: dict[str, type[Any]] = {kind.name: kind for kind in Event.__args__}
_ENUMS = {"state": TrialState, "kind": ErrorKind}


def encode(event: Event) -> Entry:
    """The event as a JSON object. Optional fields that are not set are left out."""
    entry: Entry = {"at": event.at, "event": event.name}
    if isinstance(event, WinnerEvaluated):
        winner = event.winner.model_dump(mode="json")
        return entry | {name: value for name, value in winner.items() if value is not None or name in WINNER_0_1}
    if isinstance(event, PackingMeasured):
        return entry | event.packing.model_dump(mode="json")
    values = ((field.name, getattr(event, field.name)) for field in fields(event))
    return entry | {name: _plain(value) for name, value in values if value is not None and _is_stored(event, name)}


def decode(entry: Entry) -> Event | None:
    """The event that `encode` stored; None for one of a newer version, which this one does not know."""
    kind = _BY_NAME.get(entry["event"])
    if kind is None:
        log.warning("an event %r of a newer version is ignored", entry["event"])
        return None
    if kind is WinnerEvaluated:
        return WinnerEvaluated(at=entry["at"], winner=Winner.model_validate(entry))
    if kind is PackingMeasured:
        return PackingMeasured(at=entry["at"], packing=Packing.model_validate(entry))
    known = {field.name for field in fields(kind)} & entry.keys()
    event: Event = kind(**{name: _ENUMS[name](entry[name]) if name in _ENUMS else entry[name] for name in known})
    return event


def decode_all(entries: Iterable[Entry]) -> Iterator[Event]:
    return (event for entry in entries if (event := decode(entry)) is not None)


def _is_stored(event: Event, name: str) -> bool:
    return not (isinstance(event, EpochFinished) and name == "reason" and event.state is None)


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value
