"""Forecasts: what a spec will probably take, from what similar trials took that the caller may see.

Owns the sentence about what they rest on. It must not know HTTP.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict

from sqlalchemy.orm import Session

from search_spaces import forecast
from search_spaces.experiment import ExperimentSpec
from search_spaces.phrases import counted, rounded
from service.contract.forecast import Forecast, Range
from service.domain import similar_trials
from service.domain.similar_trials import Similar

NOTHING = "no earlier trial with the same data, resources and kind of network was measured, so hours are not known"
#: Of a spec with `gpus_per_trial: auto`.
UNMEASURED = "; each trial counts as a whole GPU until the first driver has measured how many share one"


def of(session: Session, spec: ExperimentSpec, teams: Collection[str] | None) -> Forecast:
    """The forecast of a complete spec. `teams` are those whose experiments the caller may see (None: of all)."""
    epochs = forecast.trial_epochs(spec)
    similar = similar_trials.find(session, spec, teams)
    hours = None if similar is None else forecast.slot_hours(spec, epochs, similar.measured)
    gpus = spec.resources.gpus or 0.0
    return Forecast(
        trials=forecast.count_trials(spec),
        trial_epochs=Range(**asdict(epochs)),
        slot_hours=None if hours is None else Range(**asdict(hours)),
        gpu_hours=None if hours is None else Range(**{name: gpus * value for name, value in asdict(hours).items()}),
        basis=(NOTHING if similar is None else _basis(similar)) + (UNMEASURED if spec.resources.is_auto else ""),
    )


def _basis(similar: Similar) -> str:
    found = similar.measured
    same, other = (
        "networks and batch sizes that it searches",
        "the same kinds of networks, but other sizes or batch sizes",
    )
    what = same if similar.same_sizes else other
    trials, experiments = counted(similar.trials, "trial"), counted(similar.experiments, "experiment")
    besides = f", and each trial {rounded(found.overhead_s)} s besides" if found.overhead_s else ""
    mean = sum(found.epochs_s) / len(found.epochs_s)
    return f"{trials} of {experiments} with the same data and resources, of {what}: {rounded(mean)} s an epoch{besides}"
