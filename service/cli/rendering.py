"""Watch: an experiment as it goes on, in a terminal as a live leaderboard, elsewhere as plain lines.

Owns how experiments and trials look as text. It knows the SDK alone, and must not know the command line.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from search_spaces.protocol import ENDED_TRIAL_STATES
from search_spaces.sampling import NOT_APPLICABLE
from service.client import Client
from service.contract.errors import RungError
from service.contract.schemas import Curves, DiskUse, ExperimentSummary, ExperimentView, TrialView
from service.contract.states import State

ROWS = 10
#: Columns of text that a leaderboard takes before its parameters.
FIXED_WIDTH = len("trial  EARLY_STOPPED  epoch  accuracy  at")
REASON = "reason"
COLORS = {
    "RUNNING": "cyan",
    "COMPLETED": "green",
    "EARLY_STOPPED": "yellow",
    "DIVERGED": "red",
    "ERROR": "red",
    "CANCELED": "magenta",
    "PAUSED": "blue",
}


def watch(client: Client, experiment_id: str, console: Console, interval_s: float = 0.5) -> ExperimentView:
    """Show an experiment until it has ended or is paused, and give its last view. Ctrl-C leaves it running."""
    show = _live if console.is_terminal else _lines
    return show(client, experiment_id, console, interval_s)


def leaderboard(trials: Sequence[TrialView], metric: str, width: int) -> Table:
    """Trials in the order given; `at` is the epoch of the best value.

    What is left of `width` columns is shared by the parameters in which they differ, as many as fit, and by why each
    trial stopped, cut where it is too long.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    reasons = [_reason(trial, metric) for trial in trials]
    left = width - FIXED_WIDTH
    names, left = _fitting(differing(trials), trials, left, min(left // 2, max(map(_cell, reasons), default=0)))
    for heading in ("trial", "state", "epoch", metric.removeprefix("validation_"), "at"):
        table.add_column(heading, justify="left" if heading == "state" else "right", no_wrap=True)
    for name in names:
        table.add_column(_short(name, names), no_wrap=True)
    if any(reasons) and left > _cell(REASON):
        table.add_column(REASON, no_wrap=True, max_width=left - _cell(""))
    for trial, reason in zip(trials, reasons, strict=True):
        values = [_figure(trial.parameters.get(name, NOT_APPLICABLE)) for name in names]
        state = Text(trial.state, style=COLORS.get(trial.state, ""))
        figures = [str(trial.epoch), _figure(trial.best_value), _figure(trial.best_epoch)]
        cells = [Text(str(trial.trial)), state, *map(Text, [*figures, *values, reason])]
        table.add_row(*cells[: len(table.columns)])
    return table


def listing(experiments: Iterable[ExperimentSummary]) -> Table:
    """One line for each experiment."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("id", "name", "project", "state", "trials", "best", "created"):
        table.add_column(heading, justify="right" if heading in {"trials", "best"} else "left", no_wrap=True)
    for one in experiments:
        best = _figure(one.best.value) if one.best else ""
        state = Text(one.state, style=COLORS.get(one.state, ""))
        created = one.created_at.astimezone().strftime("%Y-%m-%d %H:%M")
        table.add_row(one.id, one.name, one.project, state, f"{ended(one)}/{one.num_samples}", best, created)
    return table


def summary(view: ExperimentView) -> list[str]:
    """What came of an experiment, in a few lines."""
    lines = [f"{view.name} ({view.id}) {view.state}{': ' + view.reason if view.reason else ''}"]
    counts = ", ".join(f"{count} {state}" for state, count in view.trials.items() if count)
    lines.append(f"  trials    {ended(view)} of {view.num_samples} ended{' (' + counts + ')' if counts else ''}")
    if view.source_id:
        lines.append(f"  continues {view.source_id}")
    if view.best:
        lines.append(f"  best      trial {view.best.trial}, {view.metric} {_figure(view.best.value)}")
    if view.winner and view.winner.get("test_accuracy") is not None:
        lines.append(f"  test      accuracy {_figure(view.winner['test_accuracy'])}")
    if view.mlflow_url:
        lines.append(f"  MLflow    {view.mlflow_url}")
    lines += [f"  warning   {warning}" for warning in view.warnings]
    return lines


def end_of(trial: TrialView) -> str:
    """A line on how far a trial came, and all of why it stopped."""
    best = f", its best at epoch {trial.best_epoch}" if trial.best_epoch else ""
    reason = f": {_one_line(trial.stop_reason)}" if trial.stop_reason else ""
    return f"  {f'trial {trial.trial}':<9} {trial.state} after epoch {trial.epoch}{best}{reason}"


def disk_use(use: DiskUse) -> str:
    """A line on what an experiment holds on its storage, the largest kind first."""
    kinds = sorted(use.bytes_by_kind.items(), key=lambda item: -item[1])
    said = ", ".join(f"{kind} {_size(size)}" for kind, size in kinds if size)
    return f"  disk      {_size(use.total_bytes)}{f' ({said})' if said else ''}"


def epochs(curves: Curves) -> Table:
    """A line for each epoch, a column for each metric."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("epoch", *curves.metrics):
        table.add_column(heading.replace("_", "\n"), justify="right", no_wrap=True)
    points = {name: {point.step: point.value for point in line} for name, line in curves.metrics.items()}
    for step in sorted({step for line in points.values() for step in line}):
        table.add_row(str(step), *(_figure(line.get(step)) for line in points.values()))
    return table


def ended(one: ExperimentSummary) -> int:
    """Trials that will not go on."""
    return sum(count for state, count in one.trials.items() if state in ENDED_TRIAL_STATES)


def ranked(view: ExperimentSummary) -> str:
    """The sort key that puts the best trial first."""
    return "-best_value" if view.mode == "max" else "best_value"


def differing(trials: Sequence[TrialView]) -> list[str]:
    """Names of the parameters that are not the same in all trials: the optimizer and its rate, then other kinds.

    One that has but one value wherever it applies tells no more than the kind that it belongs to.
    """
    names = {name for trial in trials for name in trial.parameters}
    values = {name: {trial.parameters.get(name, NOT_APPLICABLE) for trial in trials} for name in names}

    def implied(name: str) -> bool:
        family, _, last = name.rpartition(".")
        return (
            last != "kind" and len(values[name] - {NOT_APPLICABLE}) == 1 and len(values.get(f"{family}.kind", ())) > 1
        )

    varied = [name for name in names if len(values[name]) > 1 and not implied(name)]
    first = ("optimizer.kind", "optimizer.lr")
    return sorted(varied, key=lambda name: (name not in first, not name.endswith(".kind"), name))


def _lines(client: Client, experiment_id: str, console: Console, interval_s: float) -> ExperimentView:
    said = ""
    for view in client.watch(experiment_id, interval_s):
        line = _line(view)
        if line != said:
            console.print(line, soft_wrap=True, markup=False, highlight=False)
            said = line
    return view


def _line(view: ExperimentView) -> str:
    words = [view.state, view.phase if view.state == State.RUNNING else ""]
    words.append(f"{ended(view)}/{view.num_samples} trials")
    if view.best:
        words.append(f"best {_figure(view.best.value)} (trial {view.best.trial})")
    words.append(_one_line(view.reason))
    return "  ".join(word for word in words if word)


def _live(client: Client, experiment_id: str, console: Console, interval_s: float) -> ExperimentView:
    with Live(console=console, refresh_per_second=4, transient=False) as live:
        for view in client.watch(experiment_id, interval_s):
            live.update(_picture(view, _best(client, view), console.width))
    return view


def _best(client: Client, view: ExperimentView) -> list[TrialView]:
    with contextlib.suppress(RungError):  # the next picture has them again
        return list(client.trials(view.id, sort=ranked(view), limit=ROWS))
    return []


def _picture(view: ExperimentView, trials: Sequence[TrialView], width: int) -> RenderableType:
    parts: list[RenderableType] = [
        Text(f"{view.name}  {_line(view)}", style="bold", no_wrap=True, overflow="ellipsis"),
        ProgressBar(total=view.num_samples, completed=ended(view), width=min(width, 80)),
    ]
    if trials:
        parts += [Text(), leaderboard(trials, view.metric, width)]
    return Group(*parts)


def _fitting(names: Sequence[str], trials: Sequence[TrialView], width: int, spared: int) -> tuple[list[str], int]:
    """The first names whose columns fit side by side, with `spared` beside them; and what is left of `width`."""
    fitting: list[str] = []
    for name in names:
        cells = [_figure(trial.parameters.get(name, NOT_APPLICABLE)) for trial in trials]
        taken = max(map(_cell, [_short(name, names), *cells]))
        if width - taken < spared:
            break
        fitting.append(name)
        width -= taken
    return fitting, width


def _short(name: str, names: Sequence[str]) -> str:
    """`lr` for `optimizer.lr`, and the family for its kind, unless two would be the same."""
    family, _, last = name.rpartition(".")
    if last == "kind":
        return family
    same = sum(other.rpartition(".")[2] == last for other in names)
    return name if same > 1 else last


def _reason(trial: TrialView, metric: str) -> str:
    """Why a trial stopped, without the name of the metric, which is a heading."""
    return _one_line(trial.stop_reason).replace(f": {metric} ", ": ")


def _one_line(text: str) -> str:
    """What a library said, without what would move a terminal's cursor."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def _cell(text: str) -> int:
    """Columns that a cell takes, with the gap before it."""
    return 2 + cell_len(text)


def _figure(value: object) -> str:
    if value is None or value == NOT_APPLICABLE:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _size(size: float) -> str:
    """Bytes in the unit that suits them."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
