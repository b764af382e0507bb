"""Presentation: what to show of an experiment, a trial and a leaderboard, as labels, rows and cells of text.

Pure functions over the schemas, for the terminal and for pages. It must not know how text is drawn: no widths, no
colors, no markup.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from search_spaces.datasets.report import DataReport
from search_spaces.phrases import counted, listed, quoted, rounded
from search_spaces.protocol import DEFAULT_TEAM, ENDED_TRIAL_STATES
from search_spaces.replicates import is_replicate, replicated, trial_of
from search_spaces.sampling import NOT_APPLICABLE
from search_spaces.scores import hides
from search_spaces.searched import importance_order, short_name
from service.contract.comparison import ComparedExperiment, Comparison
from service.contract.forecast import Forecast, Range
from service.contract.queue import Queue
from service.contract.schemas import ClusterStatus, Curves, DiskUse, ExperimentSummary, ExperimentView, TrialView
from service.contract.states import State

#: Names of kinds of files where they differ from the words that are shown.
KIND_NAMES = {"pictures": "plots"}
#: Significant digits of a value: more would be noise.
DIGITS = 4


@dataclass(frozen=True)
class Table:
    """Headings and rows of text. Columns in `numeric` hold numbers, those in `states` hold states."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[int] = frozenset()
    states: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Leaderboard:
    """Trials in the order given: what every trial has, its parameters, and why each stopped."""

    trials: Table
    parameters: Table
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Fact:
    """One labeled line about an experiment or a trial."""

    label: str
    text: str


def leaderboard(trials: Sequence[TrialView], metric: str, searched: Collection[str] = ()) -> Leaderboard:
    """`at` is the epoch of the best value. Of the parameters, the `searched` ones have a column where the trials have
    any; without them, those in which the trials differ."""
    names = shown_parameters(trials, searched) or differing_parameters(trials)
    fixed = tuple(
        (str(trial.trial), str(trial.state), str(trial.epoch), figure(trial.best_value), figure(trial.best_epoch))
        for trial in trials
    )
    values = tuple(tuple(figure(trial.parameters.get(name, NOT_APPLICABLE)) for name in names) for trial in trials)
    return Leaderboard(
        Table(
            ("trial", "state", "epoch", metric.removeprefix("validation_"), "at"),
            fixed,
            numeric=frozenset({0, 2, 3, 4}),
            states=frozenset({1}),
        ),
        Table(tuple(short_name(name, names) for name in names), values),
        tuple(_reason(trial, metric) for trial in trials),
    )


def experiments(items: Iterable[ExperimentSummary], now: datetime | None = None) -> Table:
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


def waiting(queue: Queue) -> Table:
    """One row for each experiment that waits. Pools, teams and owners are shown only where they say something."""
    has_teams, has_owners = len({item.team for item in queue.items}) > 1, any(item.owner for item in queue.items)
    has_pools = len({item.pool for item in queue.items}) > 1
    rows = tuple(
        (
            str(item.position),
            item.experiment_id,
            item.name,
            str(item.priority),
            str(item.waits_for).replace("_", " "),
            "" if item.estimate.seconds is None else f"{duration(item.estimate.seconds)}",
            *((item.pool,) if has_pools else ()),
            *((item.team,) if has_teams else ()),
            *((item.owner or "",) if has_owners else ()),
        )
        for item in queue.items
    )
    shown = (("pool", has_pools), ("team", has_teams), ("owner", has_owners))
    more = (heading for heading, is_shown in shown if is_shown)
    headings = ("place", "id", "name", "priority", "waits for", "starts in", *more)
    return Table(headings, rows, numeric=frozenset({0, 3, 5}))


def queue_facts(queue: Queue) -> list[Fact]:
    """Each reason once, and what the estimates rest on."""
    reasons = dict.fromkeys((str(item.waits_for).replace("_", " "), item.reason) for item in queue.items if item.reason)
    facts = [Fact(label, one_line(reason)) for label, reason in reasons]
    bases = dict.fromkeys(item.estimate.basis for item in queue.items if item.estimate.seconds is not None)
    return [*facts, *(Fact("starts in", f"estimated: {basis}") for basis in bases)]


def nodes(status: ClusterStatus) -> Table:
    """One row for each node; pools are shown where there are several."""
    has_pools = len({one.pool for one in status.nodes}) > 1
    pools = [(one.pool,) if has_pools else () for one in status.nodes]
    nodes = zip(status.nodes, pools, strict=True)
    rows = tuple((one.name, f"{one.cpus:g}", f"{one.gpus:g}", *pool) for one, pool in nodes)
    return Table(("node", "CPUs", "GPUs", *(("pool",) if has_pools else ())), rows, numeric=frozenset({1, 2}))


def shares(status: ClusterStatus) -> Table:
    """One row for each experiment that has slots or a driver; pools are shown where there are several."""
    has_pools = len({*(one.pool for one in status.nodes), *(one.pool for one in status.shares)}) > 1
    rows = tuple(
        (
            one.experiment_id,
            one.name,
            str(one.state),
            str(one.priority),
            str(one.slots),
            f"{one.slots * one.cpus_per_trial:g}",
            f"{one.slots * one.gpus_per_trial:g}",
            *((one.pool,) if has_pools else ()),
        )
        for one in status.shares
        if one.state != State.QUEUED
    )
    headings = ("id", "name", "state", "priority", "slots", "CPUs", "GPUs", *(("pool",) if has_pools else ()))
    return Table(headings, rows, numeric=frozenset({3, 4, 5, 6}), states=frozenset({2}))


def duration(seconds: float) -> str:
    """Seconds in the largest unit in which there are at least two."""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def curves(of: Curves) -> Table:
    """One row for each epoch, one column for each metric."""
    points = {name: {point.step: point.value for point in line} for name, line in of.metrics.items()}
    steps = sorted({step for line in points.values() for step in line})
    rows = tuple((str(step), *(figure(line.get(step)) for line in points.values())) for step in steps)
    headings = ("epoch", *of.metrics)
    return Table(headings, rows, numeric=frozenset(range(len(headings))))


def compared_results(comparison: Comparison) -> Table:
    """One column for each experiment: how far it is, and its winner with that trial's hyperparameters; as long as there
    is no winner, the best trial."""
    found = comparison.experiments
    shown = [_shown(one) for one in found]
    values = [(one.metric, trial.value) for one, trial in zip(found, shown, strict=True)]
    rows = [
        ("name", *(one.name for one in found)),
        ("state", *(one.state for one in found)),
        ("trials", *(", ".join(f"{count} {state}" for state, count in one.trials.items()) for one in found)),
    ]
    rows += [
        (metric, *(figure(value if own == metric else None) for own, value in values))
        for metric in dict.fromkeys(one.metric for one in found)
    ]
    rows += [
        ("test accuracy", *(figure(one.test_accuracy) for one in found)),
        ("winner", *(figure(one.winner_trial) for one in found)),
        ("best epoch", *(figure(trial.epoch) for trial in shown)),
    ]
    names = sorted({name for trial in shown for name in trial.parameters}, key=importance_order)
    rows += [(name, *(figure(trial.parameters.get(name)) for trial in shown)) for name in names]
    rows.append(("best trial of the search", *(_best_of_search(one) for one in found)))
    return Table(("result", *(one.id for one in found)), tuple(rows))


@dataclass(frozen=True)
class _Shown:
    """The trial that the column of an experiment is about."""

    value: float | None
    epoch: int | None
    parameters: Mapping[str, str | float | int | bool]


def _shown(one: ComparedExperiment) -> _Shown:
    if one.winner_trial is None:
        return _Shown(one.best_value, one.best_epoch, one.best_parameters)
    return _Shown(one.winner_value, one.winner_epoch, one.winner_parameters)


def _best_of_search(one: ComparedExperiment) -> str:
    return "-" if one.best_trial is None else f"{one.best_trial} ({figure(one.best_value)})"


def compared_specs(comparison: Comparison) -> Table:
    """One row for each field in which the specs differ, one column for each experiment."""
    rows = tuple((one.name, *(figure(value) for value in one.values)) for one in comparison.differences)
    return Table(("spec", *(one.id for one in comparison.experiments)), rows)


def comparison_links(comparison: Comparison) -> list[Fact]:
    """Where MLflow shows the experiments side by side."""
    links = {"MLflow": comparison.mlflow_url, "charts": comparison.mlflow_charts_url}
    return [Fact(label, url) for label, url in links.items() if url]


def headline(view: ExperimentView) -> str:
    """Name, id, state and the reason for it."""
    archived = ", archived" if view.archived_at else ""
    return f"{view.name} ({view.id}) {view.state}{archived}{': ' + one_line(view.reason) if view.reason else ''}"


def facts(view: ExperimentView, now: datetime | None = None) -> list[Fact]:
    """The results of an experiment so far."""
    counts = ", ".join(f"{count} {state}" for state, count in view.trials.items() if count)
    lines = [Fact("trials", f"{ended_trials(view)} of {view.num_samples} ended{f' ({counts})' if counts else ''}")]
    if view.owner:
        lines.append(Fact("owner", f"{view.owner}, team {view.team}"))
    elif view.team != DEFAULT_TEAM:
        lines.append(Fact("team", view.team))
    lines.append(Fact("slots", f"{view.slots} now, priority {_priority(view)}"))
    if time := _elapsed(view, now or datetime.now(UTC)):
        lines.append(Fact("time", f"{time}, from the start of its first driver"))
    if view.used:
        lines.append(Fact("used", f"{view.used.slot_hours:.3f} slot hours, {view.used.gpu_hours:.3f} GPU hours"))
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


def controls(view: ExperimentView) -> str:
    """What `rung change` can change, as it is written there; null where there is no limit."""
    budget = {f"budget.{name}": value for name, value in view.controls["budget"].items() if value is not None}
    plain = {name: value for name, value in view.controls.items() if name != "budget"}
    values = {**plain, **(budget or {"budget": None})}
    return " ".join(
        f"{name}={'null' if value is None else str(value).removesuffix('.0')}" for name, value in values.items()
    )


def trial_outcome(trial: TrialView) -> Fact:
    """How far a trial came, and why it stopped."""
    best = f", best at epoch {trial.best_epoch}" if trial.best_epoch else ""
    reason = f": {one_line(trial.stop_reason)}" if trial.stop_reason else ""
    return Fact(f"trial {trial.trial}", f"{trial.state} after epoch {trial.epoch}{best}{reason}")


def forecast(of: Forecast) -> list[Fact]:
    """What a search will probably take, and what the hours rest on."""
    facts = [Fact("epochs", f"{_probably(of.trial_epochs)} in {counted(of.trials, 'trial')}")]
    if of.slot_hours is not None:
        facts.append(Fact("hours", f"{_probably(of.slot_hours)} of slots"))
    if of.gpu_hours is not None and of.gpu_hours.high:
        facts.append(Fact("hours", f"{_probably(of.gpu_hours)} of GPUs"))
    return [*facts, Fact("basis", one_line(of.basis))]


def disk_use(use: DiskUse) -> Fact:
    """The disk space that an experiment uses, the largest kind of file first."""
    kinds = sorted(use.bytes_by_kind.items(), key=lambda item: -item[1])
    parts = ", ".join(f"{KIND_NAMES.get(kind, kind)} {size_text(size)}" for kind, size in kinds if size)
    return Fact("disk", f"{size_text(use.total_bytes)}{f' ({parts})' if parts else ''}")


def classes(report: DataReport) -> Table:
    """One row for each class, one column for each split, and the sums."""
    splits = tuple(report.counts)
    rows = [
        (quoted(name), *(str(report.counts[split][label]) for split in splits))
        for label, name in enumerate(report.classes)
    ]
    sums = (f"{len(rows)} classes", *(str(report.images(split)) for split in splits))
    return Table(("class", *splits), (*rows, sums), numeric=frozenset(range(1, len(splits) + 1)))


def data(report: DataReport, warnings: Sequence[str] = (), most_classes: int = 10) -> list[Fact]:
    """What is known of a data set, without the notes that are shown as layout or warning."""
    images = ", ".join(f"{report.images(split)} {split}" for split in report.counts)
    where = f"{report.name} {report.path}" if report.path else report.name
    lines = [Fact("data", f"{where}: {images}; images of {'x'.join(map(str, report.shape))}")]
    lines.append(Fact("classes", f"{len(report.classes)}: {listed(map(quoted, report.classes), most_classes)}"))
    if report.layout:
        lines.append(Fact("layout", report.layout))
    if report.sizes:
        others = [f"{report.other_sizes} of other sizes"] if report.other_sizes else []
        lines.append(Fact("sizes", ", ".join([f"{count} of {size}" for size, count in report.sizes.items()] + others)))
    if report.modes:
        lines.append(Fact("modes", ", ".join(f"{count} {mode}" for mode, count in report.modes.items())))
    if report.values:
        low, high = map(figure, report.values)
        used = f"; {' and '.join(map(figure, report.value_range))} are black and white" if report.value_range else ""
        lines.append(Fact("values", f"{low} to {high}{used}"))
    lines.append(Fact("test set", f"sha256 {report.test_sha256}"))
    shown = {report.layout, *(warning.removeprefix("dataset: ") for warning in warnings)}
    return lines + [Fact("note", note) for note in report.notes if note not in shown]


def cache_use(folder: str, size: float) -> Fact:
    """The disk space that decoded data sets take on this machine."""
    return Fact("cache", f"{size_text(size)} of decoded data sets in {folder}")


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


def differing_parameters(trials: Sequence[TrialView]) -> list[str]:
    """Names of the parameters in which trials differ: the optimizer and its rate first, then other kinds.

    A parameter that has only one value wherever it applies is left out: the kind that it belongs to says as much.
    """
    names = {name for trial in trials for name in trial.parameters}
    values = {name: {trial.parameters.get(name, NOT_APPLICABLE) for trial in trials} for name in names}

    def is_implied(name: str) -> bool:
        family, _, last = name.rpartition(".")
        has_one_value = len(values[name] - {NOT_APPLICABLE}) == 1
        return last != "kind" and has_one_value and len(values.get(f"{family}.kind", ())) > 1

    varied = [name for name in names if len(values[name]) > 1 and not is_implied(name)]
    return sorted(varied, key=importance_order)


def shown_parameters(trials: Sequence[TrialView], searched: Collection[str]) -> list[str]:
    """Names of the searched parameters that any of the trials has."""
    names = {name for trial in trials for name, value in trial.parameters.items() if value != NOT_APPLICABLE}
    return sorted(names & set(searched), key=importance_order)


def _probably(found: Range) -> str:
    if found.low == found.high:
        return rounded(found.expected)
    return f"about {rounded(found.expected)} ({rounded(found.low)} to {rounded(found.high)})"


def one_line(text: str) -> str:
    """Text of a library without line breaks and control characters."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def figure(value: object) -> str:
    """A number or a name, or `-` if there is no value."""
    if value is None or value == NOT_APPLICABLE:
        return "-"
    return f"{value:.{DIGITS}g}" if isinstance(value, float) else str(value)


def size_text(size: float) -> str:
    """A number of bytes in the largest unit in which it is at least 1."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{rounded(size)} {unit}"
        size /= 1000
    return f"{rounded(size)} TB"


def _tested(winner: Mapping[str, Any]) -> str:
    """The accuracy on the test set, and the balanced one where it is known and much lower."""
    text = f"accuracy {figure(winner['test_accuracy'])}"
    balanced = winner.get("test_balanced_accuracy")
    if hides(winner["test_accuracy"], balanced):
        text += f", which hides a balanced accuracy of {figure(balanced)}: some classes are seldom recognized"
    return text


def _reason(trial: TrialView, metric: str) -> str:
    """Why a trial stopped, without the name of the metric, which is in the heading."""
    return one_line(trial.stop_reason).replace(f": {metric} ", ": ")
