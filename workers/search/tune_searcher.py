"""TuneSearcher: the adapter between Ray Tune's loop and what is trained next.

Owns which trial gets a free slot, the spec that the trial's process finds in the storage, and the replay of a search
algorithm after a crash. It must not know any algorithm by name, MLflow or the service.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ray.tune.search import Searcher

from search_spaces.experiment import ExperimentSpec
from search_spaces.layout import NAMES
from search_spaces.phrases import listed
from search_spaces.protocol import TrialState
from search_spaces.replicates import is_replicate, replicated
from search_spaces.searchers.base import Finding, SearchProblem, TrialResult
from search_spaces.storage.base import ExperimentStorage
from workers.search.finalists import replicates
from workers.state.recorder import Recorder
from workers.state.trial_table import Trial

log = logging.getLogger(__name__)

FINDINGS = {
    TrialState.COMPLETED: Finding.COMPLETED,
    TrialState.EARLY_STOPPED: Finding.EARLY_STOPPED,
    TrialState.DIVERGED: Finding.DIVERGED,
    TrialState.ERROR: Finding.UNKNOWN,
    TrialState.CANCELED: Finding.UNKNOWN,
}


class TuneSearcher(Searcher):
    """Hands one trial at a time to Ray Tune: interrupted ones first, then new ones, then those that a rule paused, and
    when all have ended, replicates of the finalists.

    `slots` is called before each: while trials hold as many, none is handed out, which is how concurrency changes while
    the experiment runs. A trial that needs several slots comes first: no other one is handed out before it, unless
    there are not as many slots in all. `num_samples` is the number of trials wanted now. `on_last` is called when the
    last proposals are handed out. A Tune trial's config has `trial` (its number), `epoch` (its number of finished
    epochs), `data` (the digests of the data that it must have; None if not known), and what `config` returns for the
    trial.
    `done` turns True once Tune has the answer that there are no more trials. `no_more` turns True when the algorithm
    has no further proposals: then the trials that exist are all.
    """

    def __init__(
        self,
        spec: ExperimentSpec,
        recorder: Recorder,
        storage: ExperimentStorage,
        config: Callable[[Trial], dict[str, Any]],
        num_samples: Callable[[], int],
        slots: Callable[[], int],
        on_last: Callable[[], None],
    ) -> None:
        super().__init__(metric=spec.objective.metric, mode=spec.objective.mode)
        self._spec = spec
        self._recorder = recorder
        self._storage = storage
        self._config = config
        self._num_samples = num_samples
        self._slots = slots
        self._on_last = on_last
        self._running: dict[str, int] = {}
        self._finished = False
        self.done = False
        self.no_more = False
        rungs = spec.early_stopping.rungs(spec.max_epochs)
        known = recorder.table.known or ()
        problem = SearchProblem(spec.search_space, spec.objective.sign, spec.seed, rungs, known)
        self._algorithm = spec.searcher.algorithm(problem)
        self._reported = 0
        self._observed: set[int] = set()
        for trial in recorder.table.searched():
            self._algorithm.replay(trial.number, trial.sample)

    def finish(self) -> None:
        """Hand out nothing from now on."""
        self._finished = True

    def exhausted(self) -> bool:
        """Whether every trial was proposed and has ended."""
        table = self._recorder.table
        wanted = 0 if self.no_more else self._num_samples()
        has_ended = len(table.searched()) >= wanted and all(trial.ended for trial in list(table.trials.values()))
        return has_ended and not self._missing_replicates()

    def suggest(self, trial_id: str) -> Any:
        # While nothing runs, Tune waits here and nowhere else: `slots` also applies the newest directives.
        slots = self._slots()
        if self._finished:
            return Searcher.FINISHED
        trials = self._recorder.table.trials
        free = slots - sum(trials[number].slots for number in self._running.values())
        if free <= 0:
            self.done = not self._running and self.exhausted()
            return Searcher.FINISHED if self.done else None
        self._inform()
        number = self._next(slots)
        if number is None or number >= self._num_samples() - 2 * slots:
            self._on_last()
        if number is None:
            self.done = not self._running and next(self._recorder.table.waiting(), None) is None
            return Searcher.FINISHED if self.done else None
        trial = trials[number]
        if trial.slots > free:
            return None
        self._recorder.check_not_fenced()
        self._prepare(trial)
        self._running[trial_id] = number
        self._recorder.mark_started(number)
        data = self._recorder.table.data
        return {"trial": number, "epoch": trial.epoch, "data": data and dict(data), **self._config(trial)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self._running.pop(trial_id, None)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """The algorithm is informed before each proposal."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the journal is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: the journal was replayed."""

    def _next(self, slots: int) -> int | None:
        """The next of those that `slots` in all are enough for."""
        waiting = [trial for trial in self._recorder.table.waiting() if trial.slots <= slots]
        interrupted = [trial for trial in waiting if not trial.paused_by_rule]
        if interrupted:
            return max(interrupted, key=lambda trial: trial.slots).number
        proposed = self._propose()
        if proposed is not None or waiting:
            return proposed if proposed is not None else waiting[0].number
        return self._replicate()

    def _propose(self) -> int | None:
        number = len(self._recorder.table.searched())
        if self.no_more or number >= self._num_samples():
            return None
        sample = self._algorithm.propose(number)
        if sample is None:
            self.no_more = True
            log.info("every configuration of the search space was tried, so %d trials are all", number)
            return None
        parameters = self._spec.parameters(self._spec.bind(sample, number))
        self._recorder.record_suggestion(number, sample, parameters)
        return number

    def _replicate(self) -> int | None:
        """Record all replicates at once, so that the service knows how many slots they can use; the first of them."""
        table = self._recorder.table
        missing = self._missing_replicates()
        for number in missing:
            trial = table.trials[replicated(number)[0]]
            self._recorder.record_suggestion(number, trial.sample, trial.parameters)
        if missing:
            log.info("the finalists are trained again with fresh seeds, as trials %s", listed(map(str, missing)))
        return missing[0] if missing else None

    def _missing_replicates(self) -> list[int]:
        """Numbers of the replicates that are to be recorded; none before the search is over."""
        table = self._recorder.table
        if self._finished or not all(trial.ended for trial in table.searched()):
            return []
        return [number for number in replicates(self._spec, table) if number not in table.trials]

    def _prepare(self, trial: Trial) -> None:
        """Store the trial's spec, and ask any process of an earlier driver that still trains it to stop.

        Such a process, left behind on a node that was cut off, leaves its epoch when it sees the request. The process
        that the trial gets now starts later and ignores requests from before its start.
        """
        files = NAMES.trial(trial.number)
        if next(self._storage.artifacts.list(files.root), None) is not None:
            self._storage.stop_signal(trial.number).ask()
        spec = self._spec.bind(trial.sample, trial.number).model_dump_json().encode()
        self._storage.artifacts.write(files.spec, spec)

    def _inform(self) -> None:
        """Tell the algorithm what happened since the last proposal."""
        for number, epoch, value in self._recorder.table.history(self._reported):
            self._algorithm.report(number, epoch, value)
            self._reported += 1
        for trial in list(self._recorder.table.trials.values()):
            if trial.ended and trial.number not in self._observed and not is_replicate(trial.number):
                self._observed.add(trial.number)
                result = TrialResult(trial.number, FINDINGS[trial.state], tuple(trial.curve), trial.best_value)
                self._algorithm.observe(result)
