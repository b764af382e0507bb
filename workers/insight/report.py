"""Report: the insight of one experiment, put together. It must not know Ray, MLflow or the service."""

from __future__ import annotations

from collections import Counter

from search_spaces.experiment import ExperimentSpec
from search_spaces.insight import Choice, Insight, TrialFindings
from search_spaces.protocol import TrialState
from search_spaces.sampling import NOT_APPLICABLE
from search_spaces.searched import searched_parameters
from search_spaces.storage.base import ExperimentStorage
from workers.insight.curves import findings
from workers.insight.evidence import Evidence, gather
from workers.insight.hyperparameters import important
from workers.insight.next_spec import next_spec
from workers.insight.space import space_findings
from workers.insight.sureness import sureness

MOST_SHOWN = 100  # trials whose findings are listed; those of the others are counted


def make_insight(spec: ExperimentSpec, storage: ExperimentStorage) -> Insight:
    """Read an experiment whose search has ended. Raises JournalDamagedError, OSError, and ValueError where no trial has
    a value."""
    return insight_of(gather(spec, storage))


def insight_of(evidence: Evidence) -> Insight:
    """The insight that follows from the evidence."""
    curves = _curves(evidence)
    space = space_findings(evidence)
    return Insight(
        metric=evidence.spec.objective.metric,
        choice=_choice(evidence),
        sureness=sureness(evidence),
        importance=important(evidence),
        curves=curves[:MOST_SHOWN],
        counts=_counts(evidence, curves),
        space=list(space.values()),
        next=next_spec(evidence.spec, space, curves[0].findings if curves else []),
    )


def _choice(evidence: Evidence) -> Choice:
    best = evidence.trials[0]
    assert best.best_value is not None
    assert best.best_epoch is not None
    return Choice(
        trial=best.number,
        value=best.best_value,
        epoch=best.best_epoch,
        trials=len(evidence.trials),
        parameters=_searched(evidence),
    )


def _searched(evidence: Evidence) -> dict[str, str | float | int | bool]:
    """The winner's values of the searched hyperparameters that apply to it."""
    names = searched_parameters(evidence.spec.search_space.model_dump(mode="json"))
    values = evidence.trials[0].parameters
    return {name: values[name] for name in sorted(names) if values.get(name, NOT_APPLICABLE) != NOT_APPLICABLE}


def _counts(evidence: Evidence, curves: list[TrialFindings]) -> dict[str, int]:
    """How many trials have a finding of each kind. All that diverged count: most of them have no value."""
    counts = Counter(finding.kind for trial in curves for finding in trial.findings)
    diverged = sum(trial.state is TrialState.DIVERGED for trial in evidence.every.values())
    return {**counts, "diverged": diverged} if diverged else dict(counts)


def _curves(evidence: Evidence) -> list[TrialFindings]:
    classes = len(evidence.data.classes) if evidence.data else None
    return [
        TrialFindings(
            trial=trial.number,
            findings=findings(
                evidence.metrics[trial.number], trial.state, str(trial.parameters.get("scheduler.kind", "")), classes
            ),
        )
        for trial in evidence.trials
        if trial.number in evidence.metrics
    ]
