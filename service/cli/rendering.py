"""Rendering: experiments and trials in a terminal, as a live leaderboard or as plain lines.

Owns widths, colors and refreshing; what is shown is in `service.presentation`. It must not know the commands.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Sequence

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from search_spaces.datasets.report import DataReport
from search_spaces.insight import Insight
from search_spaces.searched import searched_parameters
from service import explanation
from service.cli.printable import one_line
from service.client import Client
from service.contract.comparison import Comparison
from service.contract.errors import RungError
from service.contract.forecast import Forecast
from service.contract.queue import Queue
from service.contract.schemas import ClusterStatus, Curves, DiskUse, ExperimentSummary, ExperimentView, TrialView
from service.presentation import cluster, comparisons, data_sets, experiments, forecasts, trials
from service.presentation import text as texts

#: Trials in the live leaderboard: as many as fit in a small terminal.
ROWS = 10
#: Columns of text that a leaderboard takes before its parameters.
FIXED_WIDTH = len("trial  EARLY_STOPPED  epoch  accuracy  at")
REASON = "reason"
WIDEST_CLASS = 40  # columns; a class name of 255 bytes would leave no room for the counts
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
    """Show an experiment until it has ended or is paused, and return its last view. Ctrl-C leaves it running."""
    show = _watch_live if console.is_terminal else _watch_lines
    return show(client, experiment_id, console, interval_s)


class OutageReporter:
    """Says when the service stops answering: once for each outage, not for each try."""

    def __init__(self, say: Callable[[str], object]) -> None:
        self._say = say
        self._left_s = 0.0

    def __call__(self, error: RungError, left_s: float) -> None:
        if left_s >= self._left_s:  # the time to try for has begun again
            self._say(_outage(error, left_s))
        self._left_s = left_s


def leaderboard(
    ordered: Sequence[TrialView], metric: str, width: int, searched: Collection[str] = ()
) -> RenderableType:
    """Trials in the order given, in `width` columns.

    The space beside the fixed columns is shared by the `searched` parameters, as many as fit, and by the reason why
    each stopped, cut where it is too long. A line below names the parameters that do not fit.
    """
    board = trials.leaderboard(ordered, metric, searched)
    left = width - FIXED_WIDTH
    reserved = min(left // 2, max(map(_cell_width, board.reasons), default=0))
    fitting, left = _fitting(board.parameters, left, reserved)
    table = _start_table(board.trials)
    for heading in board.parameters.headings[:fitting]:
        table.add_column(heading, no_wrap=True)
    has_reasons = any(board.reasons) and left > _cell_width(REASON)
    if has_reasons:
        table.add_column(REASON, no_wrap=True, max_width=left - _cell_width(""))
    for row, values, reason in zip(board.trials.rows, board.parameters.rows, board.reasons, strict=True):
        cells = [*_cells(board.trials, row), *map(Text, values[:fitting])]
        table.add_row(*cells, *([Text(reason)] if has_reasons else []))
    if not (missing := board.parameters.headings[fitting:]):
        return table
    return Group(table, Text(f"left out, because the terminal is too narrow: {', '.join(missing)}"))


def listing(items: Iterable[ExperimentSummary]) -> Table:
    """One line for each experiment."""
    return draw(experiments.listing(items))


def waiting(queue: Queue) -> Table:
    """One line for each experiment that waits."""
    return draw(cluster.waiting(queue))


def queue_lines(queue: Queue) -> list[str]:
    """Why the experiments wait, and what the estimates rest on."""
    return [_line(fact) for fact in cluster.queue_facts(queue)]


def nodes(status: ClusterStatus) -> Table:
    """One line for each node."""
    return draw(cluster.nodes(status))


def shares(status: ClusterStatus) -> Table:
    """One line for each experiment with slots."""
    return draw(cluster.shares(status))


def compared(comparison: Comparison) -> Iterable[RenderableType]:
    """The results of experiments, and in what their specs differ, each as a table whose long cells are folded."""
    for shown in (comparisons.compared_results(comparison), comparisons.compared_specs(comparison)):
        if shown.rows:
            table = draw(shown)
            for column in table.columns[1:]:
                column.no_wrap, column.overflow = False, "fold"
            yield table
            yield Text()


def comparison_links(comparison: Comparison) -> list[str]:
    """Where MLflow shows experiments side by side, a line each."""
    return [_line(fact) for fact in comparisons.comparison_links(comparison)]


def epochs(curves: Curves) -> Table:
    """One line for each epoch, one column for each metric."""
    return draw(trials.curves(curves))


def summary(view: ExperimentView) -> list[str]:
    """What came of an experiment, in a few lines."""
    return [experiments.headline(view), *map(_line, experiments.facts(view))]


def outcome(trial: TrialView) -> str:
    """A line on how far a trial came and why it stopped."""
    return _line(trials.trial_outcome(trial))


def forecast_lines(forecast: Forecast) -> list[str]:
    """What a search will probably take, a line each."""
    return [_line(fact) for fact in forecasts.forecast(forecast)]


def disk_use(use: DiskUse) -> str:
    """A line on the disk space that an experiment uses."""
    return _line(data_sets.disk_use(use))


def classes(report: DataReport) -> Table:
    """One line for each class of a data set."""
    table = draw(data_sets.classes(report))
    table.columns[0].max_width = WIDEST_CLASS
    return table


def data_lines(report: DataReport, warnings: Sequence[str] = ()) -> list[str]:
    """What is known of a data set, a line each, without the notes that are shown as layout or warning."""
    return [_line(fact) for fact in data_sets.data(report, warnings)]


def insight_lines(insight: Insight, experiment_id: str, warnings: Sequence[str] = ()) -> list[str]:
    """Why the winner won, how sure that is and what to try next, a line each."""
    return [_line(fact) for fact in explanation.explain(insight, experiment_id, warnings)]


def insight_in_short(insight: Insight, experiment_id: str) -> str:
    """A line on how sure the result is."""
    return _line(explanation.in_short(insight, experiment_id))


def cache_use(folder: str, size: float) -> str:
    """A line on the disk space that decoded data sets take."""
    return _line(data_sets.cache_use(folder, size))


def draw(shown: texts.Table) -> Table:
    """A table of any texts."""
    table = _start_table(shown)
    for row in shown.rows:
        table.add_row(*_cells(shown, row))
    return table


def _watch_lines(client: Client, experiment_id: str, console: Console, interval_s: float) -> ExperimentView:
    printed = ""

    def say(line: str) -> None:
        console.print(line, soft_wrap=True, markup=False, highlight=False)

    reporter = OutageReporter(say)
    for view in client.watch(experiment_id, interval_s, waiting=reporter):
        line = experiments.progress(view)
        if line != printed:
            say(line)
            printed = line
    return view


def _watch_live(client: Client, experiment_id: str, console: Console, interval_s: float) -> ExperimentView:
    screen: RenderableType = Text()

    def report_outage(error: RungError, left_s: float) -> None:
        live.update(Group(screen, Text(_outage(error, left_s), style="red")))

    with Live(console=console, refresh_per_second=4, transient=False) as live:
        for view in client.watch(experiment_id, interval_s, waiting=report_outage):
            screen = _screen(view, _best_trials(client, view), console.width)
            live.update(screen)
    return view


def _outage(error: RungError, left_s: float) -> str:
    return f"{texts.one_line(str(error))}; trying again for up to {left_s:.0f} s"


def _best_trials(client: Client, view: ExperimentView) -> list[TrialView]:
    with contextlib.suppress(RungError):  # the next refresh has them again
        return list(client.trials(view.id, sort=experiments.best_first(view), limit=ROWS))
    return []


def _screen(view: ExperimentView, trials: Sequence[TrialView], width: int) -> RenderableType:
    ended = experiments.ended_trials(view)
    parts: list[RenderableType] = [
        Text(f"{view.name}  {experiments.progress(view)}", style="bold", no_wrap=True, overflow="ellipsis"),
        ProgressBar(total=view.num_samples, completed=ended, width=min(width, 80)),
    ]
    if trials:
        searched = searched_parameters(view.spec.get("search_space"))
        parts += [Text(), leaderboard(trials, view.metric, width, searched)]
    return Group(*parts)


def _start_table(shown: texts.Table) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, heading in enumerate(shown.headings):
        # Names of metrics are longer than their values: a line for each word keeps the columns narrow.
        table.add_column(
            heading.replace("_", "\n"), justify="right" if number in shown.numeric else "left", no_wrap=True
        )
    return table


def _cells(shown: texts.Table, row: Sequence[str]) -> list[Text]:
    styles = [COLORS.get(text, "") if n in shown.states else "" for n, text in enumerate(row)]
    return [Text(one_line(text), style=style) for text, style in zip(row, styles, strict=True)]


def _line(fact: texts.Fact) -> str:
    return f"  {fact.label:<9} {fact.text}"


def _fitting(parameters: texts.Table, width: int, reserved: int) -> tuple[int, int]:
    """How many of the first columns fit side by side with `reserved` beside them, and what is left of `width`."""
    columns = zip(parameters.headings, *parameters.rows, strict=True) if parameters.headings else ()
    fitting = 0
    for column in columns:
        taken = max(map(_cell_width, column))
        if width - taken < reserved:
            break
        fitting += 1
        width -= taken
    return fitting, width


def _cell_width(text: str) -> int:
    """Columns that a cell takes, with the gap before it."""
    return 2 + cell_len(text)
