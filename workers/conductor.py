"""Conductor: obeys orders, goal and budget while the search runs, and records what each trial did.

Owns the two places where Ray Tune's loop meets Rung: a look at the orders at each step, and the callbacks
of trials. It must not know MLflow, nor how orders arrive.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ray.tune import Callback

from search_spaces.experiment import ExperimentSpec
from search_spaces.protocol import Orders, TrialState
from workers.asha import Asha
from workers.progress import Progress
from workers.searcher import Searcher
from workers.trial import BEST, LAST

log = logging.getLogger("rung.conductor")


@dataclass(frozen=True)
class Ending:
    """Why the search ended: `phase` is what the experiment becomes."""

    phase: Literal["completed", "canceled", "paused", "failed", "fenced"] = "completed"
    reason: str = ""


class Conductor(Callback):
    """`orders` and `fenced` are asked at each step; `on_change` is called when a trial's line has changed."""

    def __init__(
        self,
        spec: ExperimentSpec,
        progress: Progress,
        orders: Callable[[], Orders],
        fenced: Callable[[], bool],
        on_change: Callable[[], None],
    ) -> None:
        self._spec = spec
        self._progress = progress
        self._orders = orders
        self._fenced = fenced
        self._on_change = on_change
        self.asha = Asha(spec.asha, spec.objective, self.look)
        self.ending: Ending | None = None
        self._finish: Callable[[], None] = lambda: None
        self._with_weights = {trial.number for trial in progress.trials.values() if trial.ended}
        for number, epoch, value in progress.history():
            self.asha.decide(number, epoch, {spec.objective.metric: value})

    def conduct(self, searcher: Searcher) -> None:
        """From now on, an ending stops this searcher's proposals."""
        self._finish = searcher.finish

    def slots(self) -> int:
        """Trials that may run at once now, after a look at the orders: while nothing runs, Tune takes no other."""
        if self._ended():
            return 0
        limit = self._spec.resources.max_concurrent_trials
        granted = self._orders().slots
        return granted if limit is None else min(limit, granted)

    def look(self, controller: Any) -> None:
        """One look at orders, goal and budget; stops the trials that must stop."""
        ending = self._ended()
        if ending:
            for trial in list(controller.get_live_trials()):
                self._stop(controller, trial, ending.reason, ending.phase in {"paused", "fenced"})
            return
        canceled = frozenset(self._orders().cancel_trials)
        for trial in list(controller.get_live_trials()) if canceled else ():
            if trial.config["trial"] in canceled:
                self._stop(controller, trial, "canceled by request")

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        number = trial.config["trial"]
        with self._journaling():
            self._progress.epoch(number, int(result["epoch"]), _metrics(result), self.asha.outcomes.get(number))
        self._on_change()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tidy(Path(trial.config["folder"]), trial.config["trial"])
        self._on_change()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        number = trial.config["trial"]
        why = _cause(trial.error_file)
        log.error("trial %s failed: %s", number, why)
        with self._journaling():
            self._progress.ended(number, TrialState.ERROR, why)
        self._tidy(Path(trial.config["folder"]), number)
        self._on_change()

    def _ended(self) -> Ending | None:
        self.ending = self.ending or self._judge()
        if self.ending:
            self._finish()
        return self.ending

    @contextmanager
    def _journaling(self) -> Iterator[None]:
        """What cannot be written down must not go on; an exception here would take Tune's loop with it."""
        try:
            yield
        except OSError as error:
            log.exception("the journal cannot be written")
            self.ending = self.ending or Ending("paused", f"the journal cannot be written: {error}")

    def _judge(self) -> Ending | None:
        orders = self._orders()
        if self._fenced():
            return Ending("fenced", "another attempt took over")
        if orders.stop:
            return Ending("canceled" if orders.stop == "cancel" else "paused", f"{orders.stop} ordered")
        goal = self._spec.objective.goal
        best = self._progress.best() if goal is not None else None
        if goal is not None and best is not None and best.best_value is not None:
            ahead = best.best_value - goal if self._spec.objective.mode == "max" else goal - best.best_value
            if ahead >= 0:
                return Ending(reason=f"goal {goal:g} reached: trial {best.number} has {best.best_value:.4f}")
        budget, began = self._spec.budget, self._progress.started_at
        if budget.wall_clock and began and time.time() - began >= budget.wall_clock:
            return Ending(reason=f"budget.wall_clock of {budget.wall_clock:g} s is spent")
        gpus = self._spec.resources.gpus_per_trial or 0
        if budget.gpu_hours and self._progress.slot_seconds() / 3600 * gpus >= budget.gpu_hours:
            return Ending(reason=f"budget.gpu_hours of {budget.gpu_hours:g} is spent")
        return None

    def _stop(self, controller: Any, trial: Any, reason: str, keep: bool = False) -> None:
        number = trial.config["trial"]
        if keep:
            self._progress.released(number)
        else:
            with self._journaling():
                self._progress.ended(number, TrialState.CANCELED, reason)
        controller.stop_trial(trial)

    def _tidy(self, folder: Path, number: int) -> None:
        """An ended trial is never taken up again, and only the best trial's weights are of use."""
        if not self._progress.trials[number].ended:
            return
        self._with_weights.add(number)
        best = self._progress.best()
        spare = self._with_weights - {best.number if best else None}
        try:
            (folder / LAST).unlink(missing_ok=True)
            for other in spare:
                (folder.parent / f"{other:05d}" / BEST).unlink(missing_ok=True)
            self._with_weights -= spare
        except OSError as error:
            log.warning("files of ended trials stay: %s", error)


def _metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """The training loop's own figures, without what Tune adds."""
    return {name: float(result[name]) for name in result["reported"]}


def _cause(error_file: str | None) -> str:
    """The last line of a failed trial's traceback."""
    text = Path(error_file).read_text(errors="replace") if error_file and Path(error_file).exists() else ""
    said = [line.strip() for line in text.splitlines() if line.strip()]
    return said[-1][:500] if said else "the trial's process died without a word"
