"""Experiments: what is shown of one, and of a list of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from search_spaces.phrases import counted, rounded, size_text
from search_spaces.protocol import DEFAULT_TEAM, ENDED_TRIAL_STATES, Packing
from search_spaces.replicates import is_replicate, replicated, trial_of
from search_spaces.scores import hides
from service.contract.schemas import ExperimentSummary, ExperimentView
from service.contract.states import State
from service.presentation.text import Fact, Table, duration, figure, one_line


def listing(items: Iterable[ExperimentSummary], now: datetime | None = None) -> Table:
    """One row for each experiment. Priorities, teams and owners are shown only where they say something."""
    items, now = list(items), now or datetime.now(UTC)
    has_teams, has_owners = len({item.team for item in items}) > 1, any(item.owner for item in items)
    has_priorities = any(item.priority for item in items)
    rows = tuple(
        (
            item.id,
            item.name,
            item.project,
            str(item.state),
            f"{ended_trials(item)}/{item.num_samples}",
            figure(item.best.value) if item.best else "",
            str(item.slots),
            _elapsed(item, now),
            f"{item.used.slot_hours:.3f}" if item.used else "",
            item.created_at.astimezone().strftime("%Y-%m-%d %H:%M"),
            *((str(item.priority),) if has_priorities else ()),
            *((item.team,) if has_teams else ()),
            *((item.owner or "",) if has_owners else ()),
        )
        for item in items
    )
    optional = {"priority": has_priorities, "team": has_teams, "owner": has_owners}
    shown = tuple(name for name, is_shown in optional.items() if is_shown)
    headings = ("id", "name", "project", "state", "trials", "best", "slots", "time", "slot hours", "created", *shown)
    numeric = {4, 5, 6, 7, 8} | ({10} if has_priorities else set())
    return Table(headings, rows, numeric=frozenset(numeric), states=frozenset({3}))


def facts(view: ExperimentView, now: datetime | None = None) -> list[Fact]:
    """The results of an experiment so far."""
    counts = ", ".join(f"{count} {state}" for state, count in view.trials.items() if count)
    lines = [Fact("trials", f"{ended_trials(view)} of {view.num_samples} ended{f' ({counts})' if counts else ''}")]
    if view.owner:
        lines.append(Fact("owner", f"{view.owner}, team {view.team}"))
    elif view.team != DEFAULT_TEAM:
        lines.append(Fact("team", view.team))
    lines.append(Fact("slots", f"{view.slots} now, priority {_priority(view)}"))
    if gpu_types := view.spec.get("resources", {}).get("gpu_type"):
        lines.append(Fact("GPU type", gpu_types if isinstance(gpu_types, str) else " or ".join(gpu_types)))
    if time := _elapsed(view, now or datetime.now(UTC)):
        lines.append(Fact("time", f"{time}, from the start of its first driver"))
    if view.used:
        lines.append(Fact("used", f"{view.used.slot_hours:.3f} slot hours, {view.used.gpu_hours:.3f} GPU hours"))
    if view.packing:
        lines += packing(view.packing)
    if view.source_id:
        lines.append(Fact("continues", view.source_id))
    if view.best:
        lines.append(Fact("best", f"trial {view.best.trial}, {view.metric} {figure(view.best.value)}"))
    if winner := _winner(view):
        lines.append(Fact("winner", winner))
    if view.winner and view.winner.get("test_accuracy") is not None:
        lines.append(Fact("test", _tested(view.winner)))
    lines.append(Fact("controls", controls(view)))
    if view.mlflow_url:
        lines.append(Fact("MLflow", view.mlflow_url))
    if view.mlflow_view_url:
        lines.append(Fact("charts", view.mlflow_view_url))
    if view.mlflow_workspace:
        lines.append(
            Fact("workspace", f"{view.mlflow_workspace}, of MLflow (MLFLOW_WORKSPACE={view.mlflow_workspace})")
        )
    return lines + [Fact("warning", warning) for warning in view.warnings]


def packing(measured: Packing) -> list[Fact]:
    """How many trials share a GPU, and what was measured for it."""
    one_each = "each trial has a GPU for itself"
    lines = [Fact("packing", one_each if measured.trials == 1 else f"{measured.trials} trials share a GPU")]
    if measured.peak_bytes and measured.total_bytes:
        of = f"{size_text(measured.peak_bytes)} of {size_text(measured.total_bytes)}"
        lines.append(Fact("memory", f"{of} of a GPU, for a trial of the largest configuration"))
    speeds = [(one.trials, one.images_per_second) for one in measured.speeds if one.images_per_second is not None]
    if speeds:
        text = ", ".join(f"{trials} at once {rounded(speed)}" for trials, speed in speeds)
        lines.append(Fact("speed", f"images per second together: {text}"))
    return [*lines, Fact("packing", one_line(measured.note))] if measured.note else lines


def headline(view: ExperimentView) -> str:
    """Name, id, state and the reason for it."""
    archived = ", archived" if view.archived_at else ""
    return f"{view.name} ({view.id}) {view.state}{archived}{': ' + one_line(view.reason) if view.reason else ''}"


def controls(view: ExperimentView) -> str:
    """What `rung change` can change, as it is written there; null where there is no limit."""
    budget = {f"budget.{name}": value for name, value in view.controls["budget"].items() if value is not None}
    plain = {name: value for name, value in view.controls.items() if name != "budget"}
    values = {**plain, **(budget or {"budget": None})}
    return " ".join(
        f"{name}={'null' if value is None else str(value).removesuffix('.0')}" for name, value in values.items()
    )


def progress(view: ExperimentView) -> str:
    """State, progress and the best value on one line."""
    words: list[str] = [view.state, view.phase if view.state == State.RUNNING else ""]
    words.append(f"{ended_trials(view)}/{counted(view.num_samples, 'trial')}")
    if view.best:
        words.append(f"best {figure(view.best.value)} (trial {view.best.trial})")
    words.append(one_line(view.reason))
    return "  ".join(word for word in words if word)


def ended_trials(item: ExperimentSummary) -> int:
    """The number of trials that have ended."""
    return sum(count for state, count in item.trials.items() if state in ENDED_TRIAL_STATES)


def best_first(view: ExperimentSummary) -> str:
    """The sort key that puts the best trial first."""
    return "-best_value" if view.mode == "max" else "best_value"


def _elapsed(item: ExperimentSummary, now: datetime) -> str:
    """How long it has taken, from its first driver to its end or until now; empty if it has not started."""
    if item.started_at is None:
        return ""
    return duration(max(0.0, ((item.ended_at or now) - item.started_at).total_seconds()))


def _priority(view: ExperimentView) -> str:
    """Its priority, and what that counts as."""
    ceiling = view.priority_ceiling
    capped = ceiling is not None and view.priority > ceiling
    return f"{view.priority}, which counts as {ceiling}, the highest of its team" if capped else str(view.priority)


def _winner(view: ExperimentView) -> str:
    """The winner, where it is not the best trial: fresh seeds chose it, or a better trial was found after it won."""
    number = (view.winner or {}).get("trial")
    if number is None or (view.best and view.best.trial == number):
        return ""
    how = ""
    if is_replicate(number):
        how = f" by the mean over its fresh seeds; registered is seed {replicated(number)[1]}"
    value = (view.winner or {}).get("value")
    return f"trial {trial_of(number)}{how}" + (f", {view.metric} {figure(value)}" if value is not None else "")


def _tested(winner: Mapping[str, Any]) -> str:
    """The accuracy on the test set, and the balanced one where it is known and much lower."""
    text = f"accuracy {figure(winner['test_accuracy'])}"
    balanced = winner.get("test_balanced_accuracy")
    if hides(winner["test_accuracy"], balanced):
        text += f", which hides a balanced accuracy of {figure(balanced)}: some classes are seldom recognized"
    return text
