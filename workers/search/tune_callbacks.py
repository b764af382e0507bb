"""TuneCallback: obeys orders and controls while the search runs, and records what each trial did.

Owns the two places where Ray Tune's loop meets Rung: a look at the orders at each step, and the callbacks
of trials. It must not know MLflow, nor how orders arrive.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial

from search_spaces.asha import AshaSpec
from search_spaces.controls import Controls
from search_spaces.early_stopping.asha import Asha as AshaRule
from search_spaces.experiment import ExperimentSpec
from search_spaces.protocol import RETRYABLE, Directives, ErrorKind, TrialState
from search_spaces.sampling import count_combinations
from workers.ray_patches import idle_actors
from workers.search import failures, stop_conditions
from workers.search.asha import Asha
from workers.search.searcher import Searcher
from workers.search.stop_conditions import Outcome
from workers.state import checkpoints
from workers.state.journal import WriterFencedError
from workers.state.recorder import Recorder
from workers.trial.worker import STOP

log = logging.getLogger("rung.search")

CANCELED = "canceled on request"


class TuneCallback(Callback):
    """`orders` and `fenced` are asked at each step; `on_change` is called when a trial's line has changed."""

    def __init__(
        self,
        spec: ExperimentSpec,
        recorder: Recorder,
        orders: Callable[[], Directives],
        fenced: Callable[[], bool],
        on_change: Callable[[], None],
    ) -> None:
        self._spec = spec
        self._asked = Controls.of(spec)
        self._most = count_combinations(spec.search_space) if spec.searcher.exhaustive else None
        self._recorder = recorder
        self._orders = orders
        self._fenced = fenced
        self._on_change = on_change
        self.asha = Asha(_asha_of(spec), spec.objective, self.poll, self._should_yield_slot)
        self.outcome: Outcome | None = None
        self.obeyed = self._controls  # at the last look: an ending is one under these
        self._finish: Callable[[], None] = lambda: None
        self._controller: Any = None  # Tune's, at the last look
        self._yielding: set[int] = set()
        self._with_weights = {trial.number for trial in recorder.table.trials.values() if trial.ended}
        for number, epoch, value in recorder.table.history():
            self.asha.decide(number, epoch, {spec.objective.metric: value})

    def attach(self, searcher: Searcher) -> None:
        """From now on, an ending stops this searcher's proposals."""
        self._finish = searcher.finish

    def num_samples(self) -> int:
        """Trials wanted now, of which a grid has no more than its combinations."""
        wanted = self._controls.num_samples
        return wanted if self._most is None else min(wanted, self._most)

    def slots(self) -> int:
        """Trials that may run at once now, after a look at the orders: while nothing runs, Tune takes no other."""
        if self._ended():
            return 0
        self._cancel_waiting()
        return self._allowed()

    def poll(self, controller: Any) -> None:
        """One look at orders, goal, budget and slots; stops the trials that must stop."""
        self._controller = controller
        over = self._ended()
        canceled = frozenset(self._orders().cancel_trials)
        for trial in list(controller.get_live_trials()) if over or canceled else ():
            if over or trial.config["trial"] in canceled:
                self._stop(controller, trial, over)
        if not over:
            self._withdraw_surplus(controller)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """A process whose trial has ended is kept for the next one, unless there is to be none now."""
        running = self._recorder.table.counts()[TrialState.RUNNING]
        left = len(self._recorder.table.trials) < self.num_samples() or next(self._recorder.table.waiting(), None)
        if running >= self._allowed() or not left:
            idle_actors.release_idle_actors(self._controller)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        log.info("trial %d takes a slot", trial.config["trial"])
        self._recorder.mark_slot_taken(trial.config["trial"])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        number = trial.config["trial"]
        with self._journaling():
            self._recorder.record_epoch(number, int(result["epoch"]), _metrics(result), self.asha.outcomes.get(number))
            if number in self._yielding:
                self._recorder.record_release(number)
        self._yielding.discard(number)
        if self._ended():
            self._request_stop(trial)  # from the epoch that Tune has it begin before the next look
        self._on_change()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        line = self._recorder.table.trials[trial.config["trial"]]
        why = line.stop_reason or "it gave its slot back"
        log.info("trial %d is %s after epoch %d: %s", line.number, line.state, line.epoch, why)
        self.prune_checkpoints(Path(trial.config["folder"]).parent, [line.number])
        self._on_change()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        number, failure = trial.config["trial"], failures.of_trial(trial)
        kind, reason = failure.kind, failure.reason
        log.error("trial %s failed, %s: %s", number, kind, reason)
        restarts = self._recorder.table.trials[number].restarts
        with self._journaling():
            if kind is ErrorKind.DISK_FULL:
                self.outcome = self.outcome or stop_conditions.disk_full(f"trial {number}: {reason}")
                self._recorder.record_release(number)
            elif kind in RETRYABLE and restarts < self._controls.max_restarts:
                self._recorder.record_retry(number, kind, reason)
            else:
                after = f"{kind} after {restarts} restart{'s' * (restarts != 1)}: " if restarts else ""
                self._recorder.record_end(number, TrialState.ERROR, after + reason, kind)
        self.prune_checkpoints(Path(trial.config["folder"]).parent, [number])
        self._on_change()

    def prune_checkpoints(self, trials: Path, numbers: Iterable[int]) -> None:
        """An ended trial is never taken up again: of its weights in the folder `trials`, the policy says what stays."""
        ended = {number for number in numbers if self._recorder.table.trials[number].ended}
        if not ended:
            return
        self._with_weights |= ended
        best, winner = self._recorder.table.best(), self._recorder.table.winner
        first = best.number if best else None
        crowned = winner is not None and winner.trial == first
        try:
            checkpoints.prune(trials, self._with_weights, first, self._spec.checkpoints, winner_registered=crowned)
            self._with_weights = {number for number in self._with_weights if number == first}
        except OSError as error:
            log.warning("files of ended trials stay: %s", error)

    @property
    def _controls(self) -> Controls:
        return self._orders().controls or self._asked

    def _allowed(self) -> int:
        """Trials that may run at once, as long as the search goes on."""
        limit, granted = self._controls.max_concurrent_trials, self._orders().slots
        return granted if limit is None else min(limit, granted)

    def _surplus(self) -> int:
        """How many more trials are handed out than may run now."""
        return self._recorder.table.counts()[TrialState.RUNNING] - self._allowed()

    def _should_yield_slot(self, number: int) -> bool:
        """Whether a trial that has just finished an epoch, or left one, gives its slot back.

        Whose epoch ends first gives way: it loses nothing, as its checkpoint is of this moment, and no other
        choice frees a slot sooner. Where another attempt took over, all do.
        """
        with self._journaling():
            self._recorder.check_not_fenced()
        if self._overtaken():
            return True
        if self._surplus() <= 0:
            return False
        self._yielding.add(number)
        return True

    def _withdraw_surplus(self, controller: Any) -> None:
        """Trials that still wait for a slot would take it as soon as it is free: those too many wait here instead."""
        surplus = self._surplus()
        if surplus <= 0:
            return
        pending = [trial for trial in controller.get_live_trials() if trial.status == Trial.PENDING]
        pending.sort(key=lambda trial: int(trial.config["trial"]))
        for trial in pending[-surplus:]:
            self._recorder.record_release(trial.config["trial"])
            controller.stop_trial(trial)

    def _ended(self) -> Outcome | None:
        if self.outcome is None:
            self.obeyed = self._controls
            gpus = self._spec.resources.gpus_per_trial or 0
            self.outcome = stop_conditions.requested(self._orders(), self._fenced()) or stop_conditions.reached(
                self.obeyed, self._spec.objective, gpus, self._recorder
            )
        if self.outcome:
            self._finish()
        return self.outcome

    @contextmanager
    def _journaling(self) -> Iterator[None]:
        """What cannot be written down must not go on; an exception here would take Tune's loop with it."""
        try:
            yield
        except WriterFencedError as overtaken:
            log.warning("%s", overtaken)
            self.outcome = Outcome("fenced", "another attempt took over")
        except OSError as error:
            log.exception("the journal cannot be written")
            unwritten = Outcome("paused", f"the journal cannot be written: {error}")
            self.outcome = self.outcome or (
                stop_conditions.disk_full(f"the journal: {error}") if failures.is_disk_full(error) else unwritten
            )

    def _cancel_waiting(self) -> None:
        """End those trials that are to be canceled and hold no slot; one that was never proposed is none."""
        canceled = self._orders().cancel_trials
        for trial in list(self._recorder.table.waiting()) if canceled else ():
            if trial.number in canceled:
                with self._journaling():
                    self._recorder.record_end(trial.number, TrialState.CANCELED, CANCELED)

    def _stop(self, controller: Any, trial: Any, over: Outcome | None = None) -> None:
        """Take its slot from a trial that is canceled, or from all when the search is `over`, and at once.

        An attempt that was given up may learn of it here.
        """
        number = trial.config["trial"]
        with self._journaling():
            if over and over.phase in {"paused", "fenced"}:
                self._recorder.record_release(number, journaled=over.phase == "paused")
            else:
                self._recorder.record_end(number, *(over.of_trial(number) if over else (TrialState.CANCELED, CANCELED)))
            self._recorder.check_not_fenced()
        self._request_stop(trial)
        controller.stop_trial(trial)

    def _request_stop(self, trial: Any) -> None:
        """The file makes a trial's process leave the epoch that it is in. Another attempt's folder is left alone."""
        if self._overtaken():
            return
        try:
            (Path(trial.config["folder"]) / STOP).touch()
        except OSError as error:
            log.warning("trial %s will stop after its epoch: %s", trial.config["trial"], error)

    def _overtaken(self) -> bool:
        return self.outcome is not None and self.outcome.phase == "fenced"


def _metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """The training loop's own figures, without what Tune adds."""
    return {name: float(result[name]) for name in result["reported"]}


def _asha_of(spec: ExperimentSpec) -> AshaSpec:
    rule = spec.early_stopping
    if not isinstance(rule, AshaRule):
        return AshaSpec(max_t=spec.max_epochs, grace_period=spec.max_epochs)
    return AshaSpec(max_t=spec.max_epochs, grace_period=rule.grace_period, reduction_factor=rule.reduction_factor)
