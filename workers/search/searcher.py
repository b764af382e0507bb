"""Searcher: which configuration is tried next, and how many may run.

Owns the proposing (Optuna's samplers, or the list of a grid) and its adapter to Ray Tune. A proposal is a
pure function of the seed, its number and the trials ended before it, so a driver that replays its journal
goes on as if it had never stopped. It must not know MLflow or the service.
"""

from __future__ import annotations

import hashlib
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import optuna
from ray.tune.search import Searcher as TuneSearcher

from search_spaces.domains import Choice, Domain, Interval
from search_spaces.experiment import ExperimentSpec
from search_spaces.protocol import TrialState, trial_folder
from search_spaces.sampling import combinations, resolve
from search_spaces.searchers.tpe import TPE
from search_spaces.storage.atomic import atomic_write
from workers.state.recorder import Recorder
from workers.state.trial_table import Trial
from workers.trial.worker import SPEC, STOP

optuna.logging.set_verbosity(logging.WARNING)


class Proposer(Protocol):
    """Where samples come from."""

    def propose(self, number: int) -> dict[str, float] | None:
        """The sample of trial `number`; None when there are no more."""

    def replay(self, trial: Trial) -> None:
        """Take note of a trial that an earlier driver proposed."""

    def tell(self, trial: Trial) -> None:
        """Take note of a trial that ended."""


class GridProposer:
    """Every combination once, in the order of the spec."""

    def __init__(self, spec: ExperimentSpec) -> None:
        self._left: Iterator[dict[str, float]] = combinations(spec.search_space)
        self._tried: set[frozenset[tuple[str, float]]] = set()

    def propose(self, number: int) -> dict[str, float] | None:
        return next((sample for sample in self._left if frozenset(sample.items()) not in self._tried), None)

    def replay(self, trial: Trial) -> None:
        self._tried.add(frozenset(trial.sample.items()))

    def tell(self, trial: Trial) -> None:
        """A grid learns nothing."""


class OptunaProposer:
    """Random search and TPE: a study in memory, told of stopped trials as pruned and of lost ones as failed."""

    def __init__(self, spec: ExperimentSpec) -> None:
        self._spec = spec
        self._study = optuna.create_study(
            study_name=spec.name, direction="maximize" if spec.objective.sign > 0 else "minimize"
        )
        self._open: dict[int, optuna.Trial] = {}

    def propose(self, number: int) -> dict[str, float] | None:
        self._study.sampler = self._sampler(number)
        sample: dict[str, float] = {}
        trial = self._open[number] = self._study.ask()

        def draw(path: str, domain: Domain) -> float:
            sample[path] = _suggest(trial, path, domain)
            return sample[path]

        resolve(self._spec.search_space, draw)
        return sample

    def replay(self, trial: Trial) -> None:
        self._study.enqueue_trial(trial.sample)
        self.propose(trial.number)

    def tell(self, trial: Trial) -> None:
        asked = self._open.pop(trial.number, None)
        if asked is None:
            return
        for epoch, value in enumerate(trial.curve, start=1):
            if math.isfinite(value):
                asked.report(value, epoch)
        if trial.state == TrialState.COMPLETED and trial.best_value is not None:
            self._study.tell(asked, trial.best_value)
        elif trial.state == TrialState.EARLY_STOPPED:
            self._study.tell(asked, state=optuna.trial.TrialState.PRUNED)
        else:
            self._study.tell(asked, state=optuna.trial.TrialState.FAIL)

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        seed = int.from_bytes(hashlib.sha256(f"{self._spec.seed}/proposal/{number}".encode()).digest()[:4], "big")
        if not isinstance(self._spec.searcher, TPE):
            return optuna.samplers.RandomSampler(seed=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=self._spec.searcher.startup_trials, constant_liar=True
            )


class Searcher(TuneSearcher):
    """Hands Ray Tune one trial at a time: first those that wait to be taken up again, then new proposals.

    `slots` is asked before each: no trial is handed out while as many run, which is how concurrency is
    changed while the experiment runs. `num_samples` is asked likewise: no trial is proposed beyond as many.
    `on_last` is called when the last proposals are handed out. Tune trials get the config `trial` (the
    number), `folder` (with the bound spec as `spec.json`), `epoch` (how many are known) and `roots`. `done`
    turns True when it has told Tune that there are no more.
    """

    def __init__(
        self,
        spec: ExperimentSpec,
        recorder: Recorder,
        folder: Path,
        roots: dict[str, str],
        num_samples: Callable[[], int],
        slots: Callable[[], int],
        on_last: Callable[[], None],
    ) -> None:
        super().__init__(metric=spec.objective.metric, mode=spec.objective.mode)
        self._spec = spec
        self._recorder = recorder
        self._folder = folder
        self._num_samples = num_samples
        self._slots = slots
        self._roots = roots
        self._on_last = on_last
        self._running: dict[str, int] = {}
        self._finished = False
        self.done = False
        self._proposer: Proposer = GridProposer(spec) if spec.searcher.exhaustive else OptunaProposer(spec)
        self._told: set[int] = set()
        for trial in list(recorder.table.trials.values()):
            self._proposer.replay(trial)

    def finish(self) -> None:
        """Propose nothing from now on."""
        self._finished = True

    def exhausted(self) -> bool:
        """Whether every trial was proposed and has ended."""
        trials = list(self._recorder.table.trials.values())
        return len(trials) >= self._num_samples() and all(trial.ended for trial in trials)

    def suggest(self, trial_id: str) -> Any:
        # Tune waits here, and nowhere else, while nothing runs: asking for the slots is also a look at the orders.
        slots = self._slots()
        if self._finished:
            return TuneSearcher.FINISHED
        if len(self._running) >= slots:
            self.done = not self._running and self.exhausted()
            return TuneSearcher.FINISHED if self.done else None
        self._tell_ended()
        number = self._next()
        if number is None or number >= self._num_samples() - 2 * slots:
            self._on_last()
        if number is None:
            self.done = not self._running
            return TuneSearcher.FINISHED if self.done else None
        trial = self._recorder.table.trials[number]
        self._recorder.check_not_fenced()
        folder = self._prepared(trial)
        self._running[trial_id] = number
        self._recorder.mark_started(number)
        return {"trial": number, "folder": str(folder), "epoch": trial.epoch, **self._roots}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self._running.pop(trial_id, None)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Results reach the proposer when the trial ends."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the journal is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: the journal was replayed."""

    def _next(self) -> int | None:
        waiting = next(self._recorder.table.waiting(), None)
        if waiting is not None:
            return waiting.number
        number = len(self._recorder.table.trials)
        if number >= self._num_samples():
            return None
        sample = self._proposer.propose(number)
        if sample is None:
            return None
        self._recorder.record_suggestion(number, sample, self._spec.parameters(self._spec.bind(sample, number)))
        return number

    def _prepared(self, trial: Trial) -> Path:
        """The folder of a trial that the journal has: with its spec, and without a slot that trains there.

        A slot that an earlier driver, or a node cut off, left behind leaves its epoch at the touch. For the next
        one, which begins after it, that was before its time.
        """
        folder = self._folder / trial_folder(trial.number)
        if folder.exists():
            (folder / STOP).touch()
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(folder / SPEC, self._spec.bind(trial.sample, trial.number).model_dump_json().encode())
        return folder

    def _tell_ended(self) -> None:
        for trial in list(self._recorder.table.trials.values()):
            if trial.ended and trial.number not in self._told:
                self._told.add(trial.number)
                self._proposer.tell(trial)


def _suggest(trial: optuna.Trial, path: str, domain: Domain) -> float:
    if isinstance(domain, Choice):
        return int(trial.suggest_categorical(path, range(len(domain.choice))))
    if not isinstance(domain, Interval):
        raise TypeError(f"{path}: no way to draw from {domain!r}")
    low, high, step = domain.low, domain.high, domain.step
    if domain.integer:
        return trial.suggest_int(path, int(low), int(high), log=domain.log, step=int(step or 1))
    return trial.suggest_float(path, low, high, log=domain.log, step=step)
