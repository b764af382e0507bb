"""Report: the insight of one experiment, put together. It must not know Ray, MLflow or the service."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping

from pydantic import TypeAdapter

from search_spaces.experiment import ExperimentSpec
from search_spaces.insight import Choice, Finding, Importance, Insight, NextSpec, Sureness, TrainedStep, TrialFindings
from search_spaces.phrases import counted
from search_spaces.protocol import TrialState
from search_spaces.replicates import run_name
from search_spaces.sampling import NOT_APPLICABLE, count_distinct, draw_from, resolve
from search_spaces.schedulers import Scheduler, SchedulerSpec
from search_spaces.searched import searched_parameters
from search_spaces.searchers.drawn import DrawnSearcherSpec
from search_spaces.storage.base import ExperimentStorage
from workers.insight.curves import findings
from workers.insight.evidence import Evidence, gather
from workers.insight.fading import last_learning_epoch
from workers.insight.hyperparameters import important
from workers.insight.next_spec import next_spec
from workers.insight.parts import Parts
from workers.insight.path import winning_path
from workers.insight.replication import replication
from workers.insight.space import space_findings
from workers.insight.sureness import sureness
from workers.insight.trained import trained_path
from workers.state.trial_table import Trial

SCHEDULERS: TypeAdapter[SchedulerSpec] = TypeAdapter(Scheduler)
MOST_SHOWN = 100  # trials whose findings are listed; those of the others are counted
#: How long each part may take, in seconds.
LIMITS_S = {
    "sureness": 15.0,
    "replication": 5.0,
    "importance": 20.0,
    "path": 5.0,
    "trained": 5.0,
    "curves": 5.0,
    "space": 5.0,
    "next": 5.0,
}
#: All of it, from the first read: the driver waits for a little longer (`workers.attempt`).
WITHIN_S = 50.0


def make_insight(spec: ExperimentSpec, storage: ExperimentStorage) -> Insight:
    """Read an experiment whose search has ended. Raises JournalDamagedError, OSError, and ValueError where no trial has
    a value."""
    began = time.monotonic()
    evidence = gather(spec, storage)
    return insight_of(evidence, within_s=WITHIN_S - (time.monotonic() - began))


def insight_of(evidence: Evidence, limits_s: Mapping[str, float] = LIMITS_S, within_s: float = WITHIN_S) -> Insight:
    """The insight that follows from the evidence, after at most `within_s` seconds. A part that fails, or takes too
    long, costs only itself: it is empty, and `notes` say why."""
    parts = Parts(limits_s, within_s)
    curves: list[TrialFindings] = parts.compute("curves", lambda: _curves(evidence), [])
    space: dict[str, Finding] = parts.compute("space", lambda: space_findings(evidence), {})
    winner = curves[0].findings if curves else []
    trained: list[TrainedStep] = parts.compute("trained", lambda: trained_path(evidence), [])
    replicated = parts.compute("replication", lambda: replication(evidence), None)
    warning = evidence.scores.warning() if evidence.scores else ""
    return Insight(
        metric=evidence.spec.objective.metric,
        choice=_choice(evidence),
        next=parts.compute(
            "next", lambda: next_spec(evidence.spec, space, winner, hides_classes=warning != ""), NextSpec()
        ),
        sureness=parts.compute("sureness", lambda: sureness(evidence, replicated), Sureness()),
        replication=replicated,
        importance=parts.compute("importance", lambda: important(evidence), Importance(note="it was not computed")),
        path=parts.compute("path", lambda: winning_path(evidence), None),
        trained=trained,
        curves=curves[:MOST_SHOWN],
        counts=_counts(evidence, curves),
        scores=evidence.scores,
        warning=warning,
        space=list(space.values()),
        notes=[*_exhausted(evidence), *parts.notes],
    )


def _choice(evidence: Evidence) -> Choice:
    won = evidence.won
    if won.run.best_value is None or won.run.best_epoch is None:
        raise ValueError(f"the winner must have a value (got {run_name(won.run.number)} without one)")
    return Choice(
        trial=won.trial.number,
        run=won.run.number,
        best_of_search=evidence.best,
        value=won.run.best_value,
        epoch=won.run.best_epoch,
        trials=len(evidence.trials),
        without_value=len(evidence.every) - len(evidence.trials),
        parameters=_searched(evidence),
    )


def _exhausted(evidence: Evidence) -> Iterator[str]:
    """That there are fewer trials than were asked for, because the search space has no more configurations."""
    searcher, space = evidence.spec.searcher, evidence.spec.search_space
    if not isinstance(searcher, DrawnSearcherSpec) or searcher.repeats(space):
        return
    asked, trials = evidence.spec.num_samples, len(evidence.every)
    if count_distinct(space) <= trials < asked:
        yield f"every configuration of the search space was tried: {counted(trials, 'trial')} of num_samples={asked}"


def _searched(evidence: Evidence) -> dict[str, str | float | int | bool]:
    """The winner's values of the searched hyperparameters that apply to it."""
    names = searched_parameters(evidence.spec.search_space.model_dump(mode="json"))
    values = evidence.won.trial.parameters
    return {name: values[name] for name in sorted(names) if values.get(name, NOT_APPLICABLE) != NOT_APPLICABLE}


def _counts(evidence: Evidence, curves: list[TrialFindings]) -> dict[str, int]:
    """How many trials have a finding of each kind. All that diverged count: most of them have no value."""
    counts = Counter(finding.kind for trial in curves for finding in trial.findings)
    diverged = sum(trial.state is TrialState.DIVERGED for trial in evidence.every.values())
    return {**counts, "diverged": diverged} if diverged else dict(counts)


def _curves(evidence: Evidence) -> list[TrialFindings]:
    """Of the winner, those of the run whose weights are registered."""
    runs = {evidence.won.trial.number: evidence.won.run}
    return [
        _findings(evidence, trial.number, runs.get(trial.number, trial))
        for trial in evidence.trials
        if trial.number in evidence.metrics
    ]


def _findings(evidence: Evidence, number: int, run: Trial) -> TrialFindings:
    """What the curves of `run` show, as a finding about trial `number`."""
    classes = len(evidence.data.classes) if evidence.data else None
    kind = str(run.parameters.get("scheduler.kind", ""))
    spec, epochs = evidence.spec, evidence.metrics[run.number]
    # As long as a trial is now: an imported one may have been shorter.
    last = last_learning_epoch(_scheduler(spec, run), spec.max_epochs, epochs)
    return TrialFindings(trial=number, findings=findings(epochs, run.state, kind, classes, last))


def _scheduler(spec: ExperimentSpec, run: Trial) -> SchedulerSpec:
    values = resolve(spec.search_space.scheduler, draw_from(run.sample), "scheduler")
    return SCHEDULERS.validate_python(values)
