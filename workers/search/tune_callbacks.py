"""TuneCallback: applies the search policy in Ray Tune's loop, and records what each trial did.

Owns the two places where Tune's loop meets Rung: a poll of the directives at each step, and the events of trials. It
decides nothing: `SearchPolicy` and `Verdicts` do. It must not know MLflow, nor how directives arrive.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial

from search_spaces.early_stopping.base import Action
from search_spaces.phrases import counted
from search_spaces.protocol import Directives, ErrorKind, Phase, TrialState
from search_spaces.replicates import is_replicate
from search_spaces.storage.base import ExperimentStorage, WriterFencedError
from workers.failures import from_ray
from workers.failures.classification import Failure
from workers.fence import Fence
from workers.leaving_nodes import is_urgent
from workers.nodes import Nodes
from workers.ray_patches import idle_actors, waiting_trials
from workers.search import silent_trials, stop_conditions
from workers.search.checkpoint_keeper import CheckpointKeeper
from workers.search.lost_epochs import LostEpochs
from workers.search.policy import Actions, Reaction, SearchPolicy
from workers.search.stop_conditions import Outcome
from workers.search.tune_scheduler import TuneScheduler
from workers.search.tune_searcher import TuneSearcher
from workers.search.verdicts import Verdict, Verdicts
from workers.state.recorder import Recorder
from workers.state.trial_table import CANCELED_BY_PERSON

log = logging.getLogger(__name__)

CANCELED = TrialState.CANCELED, CANCELED_BY_PERSON


class TuneCallback(Callback):
    """`directives` gives the newest ones and is called at each step; `on_change` is called when a trial has changed."""

    def __init__(
        self,
        policy: SearchPolicy,
        verdicts: Verdicts,
        recorder: Recorder,
        checkpoints: CheckpointKeeper,
        storage: ExperimentStorage,
        directives: Callable[[], Directives],
        fence: Fence,
        on_change: Callable[[], None],
    ) -> None:
        self._policy = policy
        self._recorder = recorder
        self._table = recorder.table
        self._checkpoints = checkpoints
        self._storage = storage
        self._directives = directives
        self._fence = fence
        self._on_change = on_change
        self.scheduler = TuneScheduler(verdicts, self.poll, self._yields_slot)
        self.outcome: Outcome | None = None
        self._searcher: TuneSearcher | None = None
        self.controls = self._decide().controls  # at the newest look before the search ended
        self._nodes: Nodes | None = None
        self._resources: Mapping[str, float] = {}
        self._unusable: list[str] = []  # nodes, at the newest look
        self._leaving: dict[int, float] = {}  # trials on nodes that end soon -> seconds left, at the newest poll
        self._controller: Any = None  # Tune's, at the newest poll
        self._lost_epochs = LostEpochs()
        self._yielding: dict[int, str] = {}  # trial -> why the stopping rule paused it, or ""

    def attach(
        self, searcher: TuneSearcher, nodes: Nodes | None = None, resources: Mapping[str, float] | None = None
    ) -> None:
        """From now on, the end of the search stops this searcher's proposals.

        `nodes` learns which nodes cannot be used; a trial needs `resources` of one.
        """
        self._searcher, self._nodes, self._resources = searcher, nodes, resources or {}

    def notice(self) -> str:
        """What a person should know of the running search: nodes that are not used, trials that need a GPU for
        themselves, replicates in training, lost epochs, trials that finish no epoch."""
        notices = [
            self._nodes.notice() if self._nodes else "",
            self._alone(),
            self._replicating(),
            self._lost_epochs.sentence(),
            silent_trials.sentence(*self._recorder.silence()),
        ]
        return "; ".join(filter(None, notices))

    def _alone(self) -> str:
        alone = [trial.number for trial in list(self._table.trials.values()) if trial.slots > 1 and not trial.ended]
        if not alone:
            return ""
        first = f"trial {alone[0]}"
        some = f"{first} needs" if len(alone) == 1 else f"{len(alone)} trials, the first of them {first}, need"
        return f"{some} more memory than a share of a GPU has, and a GPU without other trials"

    def _replicating(self) -> str:
        runs = [trial for number, trial in list(self._table.trials.items()) if is_replicate(number)]
        ended = sum(run.ended for run in runs)
        if ended == len(runs):
            return ""
        return f"the finalists are trained again with fresh seeds: {ended} of {counted(len(runs), 'run')} ended"

    def excluded_nodes(self) -> list[str]:
        """Ray's ids of the nodes that the search does not use."""
        return self._nodes.excluded() if self._nodes else []

    def leaving_nodes(self) -> list[str]:
        """Ray's ids of those among them that have announced their end."""
        return sorted(self._nodes.leaving.ids) if self._nodes else []

    def slot_nodes(self) -> Mapping[str, int]:
        """Number of slots by the node where they are, as the service has chosen, of the nodes that the search uses;
        empty where Ray chooses."""
        excluded = self.excluded_nodes()
        promised = self._directives().slot_nodes or {}
        return {node: slots for node, slots in promised.items() if node not in excluded}

    def num_samples(self) -> int:
        """Trials wanted now: no more than there are, once the searcher has proposed all that it can."""
        wanted = self._policy.num_samples(self._directives(), self._table)
        return min(wanted, len(self._table.searched())) if self._no_more() else wanted

    def why_fewer(self) -> str:
        """Why fewer trials are wanted than were asked for; empty if they are not."""
        directives = self._directives()
        if stagnation := self._policy.stagnation(directives, self._table):
            return stagnation
        return self._policy.exhaustion(directives, self._table) if self._no_more() else ""

    def _no_more(self) -> bool:
        """Whether the searcher has proposed all that it can."""
        return self._searcher is not None and self._searcher.no_more

    def slots(self) -> int:
        """Trials that may run at once now. Applies the directives first: while nothing runs, Tune does not poll."""
        actions = self._look()
        if self.outcome:
            return 0
        for trial in list(self._table.waiting()) if actions.cancel else ():
            if trial.number in actions.cancel:
                with self._journaling():
                    self._recorder.record_end(trial.number, *CANCELED)
        return actions.slots

    def poll(self, controller: Any) -> None:
        """Apply directives, goal, budget and slots once; stops the trials that must stop."""
        self._controller = controller
        actions = self._look()
        outcome = self.outcome
        for trial in list(controller.get_live_trials()) if outcome or actions.cancel else ():
            if outcome or trial.config["trial"] in actions.cancel:
                self._stop(controller, trial, outcome)
        if not outcome:
            self._leave_ending_nodes(controller)
        if not outcome and actions.surplus:
            withdrawn = self._withdraw(controller, actions.surplus)
            self._interrupt(controller, actions.interrupt - withdrawn)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Tune keeps the process of an ended trial for the next one; it is released where no trial will use it."""
        if self._decide().release_idle:
            idle_actors.release_idle_actors(self._controller)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        log.info("trial %d takes a slot", trial.config["trial"])
        self._recorder.mark_slot_taken(trial.config["trial"])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        number = trial.config["trial"]
        verdict = self.scheduler.newest[number]
        known = self._table.trials[number].epoch
        self._lost_epochs.look(number, known, int(result["epoch"]), int(result["resumed_after"]))
        ended = (verdict.state, verdict.reason) if verdict.state else None
        with self._journaling():
            if int(result["epoch"]) and result.get("data"):
                self._recorder.record_data(result["data"])
            self._recorder.record_epoch(number, int(result["epoch"]), _metrics(result), ended)
            if number in self._yielding:
                self._recorder.record_release(number, self._yielding[number])
        self._yielding.pop(number, None)
        self._look()
        if self.outcome:
            self._request_stop(trial)  # from the epoch that Tune lets it begin before the next poll
        self._on_change()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        row = self._table.trials[trial.config["trial"]]
        reason = row.stop_reason or "it released its slot"
        log.info("trial %d is %s after epoch %d: %s", row.number, row.state, row.epoch, reason)
        self._checkpoints.prune([row.number])
        self._on_change()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        number, failure = trial.config["trial"], from_ray.of_trial(trial)
        row = self._table.trials[number]
        restarts = row.restarts
        if number in self._leaving and failure.kind is ErrorKind.LOST:
            log.warning("trial %s ended with its node, which had announced it: %s", number, failure.reason)
            with self._journaling():
                self._recorder.record_release(number)
            self._on_change()
            return
        log.error("trial %s failed, %s: %s", number, failure.kind, failure.reason)
        if failure.node and self._nodes:
            self._leave_node(number, failure)
            return
        with self._journaling():
            match self._policy.react(failure, row, self._decide().controls):
                case Reaction.PAUSE:
                    self.outcome = self.outcome or stop_conditions.disk_full(f"trial {number}: {failure.reason}")
                    self._recorder.record_release(number)
                case Reaction.END if failure.kind in stop_conditions.COMMON_CAUSES:
                    unusable = stop_conditions.common_cause(failure.kind, failure.reason, self._table)
                    self.outcome = self.outcome or unusable
                    if unusable.phase is Phase.PAUSED:
                        self._recorder.record_release(number)
                    else:
                        self._recorder.record_end(number, TrialState.ERROR, failure.reason, failure.kind)
                case Reaction.RESTART:
                    self._recorder.record_retry(number, failure.kind, failure.reason)
                case Reaction.ALONE:
                    log.info("trial %s is restarted with a GPU for itself", number)
                    self._recorder.record_retry(number, failure.kind, failure.reason, self._policy.slots_alone)
                case Reaction.END:
                    after = f"{failure.kind} after {counted(restarts, 'restart')}: " if restarts else ""
                    self._recorder.record_end(number, TrialState.ERROR, after + failure.reason, failure.kind)
        self._checkpoints.prune([number])
        self._on_change()

    def _leave_node(self, number: int, failure: Failure) -> None:
        """A trial whose node cannot be used waits for another one, which does not count as a restart."""
        assert self._nodes is not None
        self._nodes.exclude(failure)
        self._check_nodes()
        with self._journaling():
            if self.outcome and self.outcome.phase is Phase.FAILED:
                self._recorder.record_end(number, TrialState.ERROR, failure.reason, failure.kind)
            else:
                self._recorder.record_release(number)
        self._on_change()

    def _check_nodes(self) -> None:
        """End the search where a node was excluded and no other is large enough for a trial."""
        if self._nodes is None or self._nodes.unusable() == self._unusable:
            return
        self._unusable = self._nodes.unusable()
        if not self._nodes.any_left(self._resources):
            self.outcome = self.outcome or stop_conditions.no_node_left(
                self._nodes.kinds(), self._nodes.reason(), self._table
            )

    def _decide(self) -> Actions:
        return self._policy.decide(
            self._directives(), self._fence.is_closed(), self._table, self._recorder.clock, no_more=self._no_more()
        )

    def _look(self) -> Actions:
        """The actions of this moment. The first outcome stays: what follows it changes nothing."""
        actions = self._decide()
        if self._nodes:
            self._nodes.pool = self._directives().pool or self._nodes.pool
            self._nodes.look()
        self._check_nodes()
        if self.outcome is None:
            self.controls, self.outcome = actions.controls, actions.outcome
            with self._journaling():
                self._recorder.rest(actions.resting)
        if self.outcome and self._searcher is not None:
            self._searcher.finish()
        return actions

    def _yields_slot(self, number: int, verdict: Verdict) -> bool:
        """Whether a trial that has just finished an epoch, or left one, releases its slot instead of continuing.

        The trial whose epoch ends first yields: its checkpoint is of this moment, so it loses nothing, and no other
        choice frees a slot sooner. On a node that ends soon all do, and in a superseded attempt.
        """
        with self._journaling():
            self._recorder.check_not_fenced()
        if self._fence.is_closed():
            return True
        freed = sum(self._table.trials[other].slots for other in self._leaving if other != number)
        is_surplus = self._decide().surplus > freed
        if verdict.action is not Action.PAUSE and number not in self._leaving and not is_surplus:
            return False
        self._yielding[number] = verdict.reason
        return True

    def _withdraw(self, controller: Any, surplus: int) -> int:
        """Take back trials that wait for a slot in Tune: they would take it as soon as it is free. Returns the number
        of their slots."""
        withdrawn = self._first_to_leave(controller, Trial.PENDING, surplus)
        for trial in withdrawn:
            self._recorder.record_release(trial.config["trial"])
            waiting_trials.stop_trial(controller, trial)
        return sum(map(self._slots_of, withdrawn))

    def _interrupt(self, controller: Any, most: int) -> None:
        """Take back slots whose trials had time to end their epoch."""
        for trial in self._first_to_leave(controller, Trial.RUNNING, most):
            log.info("trial %d leaves its epoch: its slot is needed", trial.config["trial"])
            self._stop(controller, trial, stop_conditions.RECLAIMED)

    def _first_to_leave(self, controller: Any, status: str, slots: int) -> list[Any]:
        """Those of Tune's trials with this status that have so many slots together; all if they have fewer. None of
        them could be left out. First those on nodes that end soon, then the youngest, which have trained least."""
        found = [trial for trial in controller.get_live_trials() if trial.status == status]
        found.sort(key=lambda trial: (trial.config["trial"] in self._leaving, int(trial.config["trial"])))
        chosen: list[Any] = []
        while found and slots > 0:
            chosen.append(found.pop())
            slots -= self._slots_of(chosen[-1])
        for trial in list(chosen):
            if slots + self._slots_of(trial) <= 0:
                chosen.remove(trial)
                slots += self._slots_of(trial)
        return chosen[::-1]

    def _slots_of(self, trial: Any) -> int:
        return self._table.trials[trial.config["trial"]].slots

    def _leave_ending_nodes(self, controller: Any) -> None:
        """Have trials leave nodes that end soon: at the end of their epoch, or at once where no time is left."""
        self._leaving = {}
        if self._nodes is None or not self._nodes.leaving.ids:
            return
        for trial in [one for one in controller.get_live_trials() if one.status == Trial.RUNNING]:
            left_s = self._nodes.leaving.left_s(trial.temporary_state.ray_actor)
            if left_s is not None:
                self._leaving[trial.config["trial"]] = left_s
            if left_s is not None and is_urgent(left_s):
                log.info("trial %d leaves its epoch: its node ends in %.0f s", trial.config["trial"], left_s)
                self._stop(controller, trial, stop_conditions.NODE_ENDS)

    @contextmanager
    def _journaling(self) -> Iterator[None]:
        """What cannot be recorded ends the search; an exception here would end Tune's loop."""
        try:
            yield
        except WriterFencedError as error:
            log.warning("%s", error)
            self._fence.close()
            self.outcome = stop_conditions.SUPERSEDED
        except OSError as error:
            log.exception("the journal cannot be written")
            blocked = from_ray.is_storage_unusable(error)
            unwritten = Outcome(Phase.PAUSED, f"the journal cannot be written: {error}", blocked=blocked, error=True)
            self.outcome = self.outcome or (
                stop_conditions.disk_full(f"the journal: {error}") if from_ray.is_disk_full(error) else unwritten
            )

    def _stop(self, controller: Any, trial: Any, outcome: Outcome | None) -> None:
        """Take its slot at once from a trial that is canceled or, with an `outcome`, from one of those that remain."""
        number = trial.config["trial"]
        with self._journaling():
            if outcome and outcome.phase is Phase.PAUSED:
                self._recorder.record_release(number, journaled=not outcome.superseded)
            else:
                self._recorder.record_end(number, *(outcome.of_trial(number) if outcome else CANCELED))
            self._recorder.check_not_fenced()
        self._request_stop(trial)
        waiting_trials.stop_trial(controller, trial)

    def _request_stop(self, trial: Any) -> None:
        """Have the trial's process leave its epoch, unless the trial is a later attempt's now."""
        if self._fence.is_closed():
            return
        try:
            self._storage.stop_signal(trial.config["trial"]).ask()
        except OSError as error:
            log.warning("trial %s will stop only after its epoch: %s", trial.config["trial"], error)


def _metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """The training loop's own metrics, without what Tune adds."""
    return {name: float(result[name]) for name in result["reported"]}
