"""SearchPolicy: what the search does next, as a function of the directives and of what is known of the trials.

Owns how many trials run, which are canceled, what follows a failure and when the search is over. It decides and does
nothing: `TuneCallback` applies the actions. It must not know Ray, the journal's file, MLflow or the service.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from search_spaces.controls import Controls
from search_spaces.experiment import ExperimentSpec
from search_spaces.phrases import counted
from search_spaces.protocol import RETRYABLE, Directives, ErrorKind, TrialState
from search_spaces.resources import slots_of_gpu
from search_spaces.sampling import count_combinations
from workers.failures.classification import Failure
from workers.search import stop_conditions
from workers.search.stop_conditions import Outcome
from workers.state.slot_clock import SlotClock
from workers.state.trial_table import Trial, TrialTable


@dataclass(frozen=True)
class Actions:
    """What to do now.

    `outcome`: why the search is over, None while it continues. `controls`: those that were applied. `slots`: for the
    trials that run at once. `surplus`: number of slots that must be freed at the ends of epochs, beyond those of the
    trials to `cancel`; `interrupt`: so many must be freed at once.
    `release_idle`: whether idle trial processes should be released. `resting`: no trial has a slot, and none may take
    one.
    """

    outcome: Outcome | None
    controls: Controls
    slots: int
    surplus: int
    interrupt: int
    cancel: frozenset[int]
    release_idle: bool
    resting: bool


class Reaction(Enum):
    """What follows from a trial's failure."""

    RESTART = "the trial is restarted"
    ALONE = "the trial is restarted with a GPU for itself"
    END = "the trial ends with ERROR"
    PAUSE = "the experiment pauses until a person acts"


class SearchPolicy:
    def __init__(self, spec: ExperimentSpec) -> None:
        self._objective = spec.objective
        self._gpus_per_trial = spec.resources.gpus or 0.0
        self._controls = Controls.of(spec)
        self._limit = count_combinations(spec.search_space) if spec.searcher.exhaustive else None

    def num_samples(self, directives: Directives, table: TrialTable) -> int:
        """Trials wanted: no more than there are while the search is stagnant."""
        wanted = self._asked_for(directives)
        is_stagnant = stop_conditions.is_stagnant(self._controls_of(directives).budget, table)
        return min(wanted, len(table.searched())) if is_stagnant else wanted

    def stagnation(self, directives: Directives, table: TrialTable) -> str:
        """Why fewer trials are wanted than were asked for; empty if they are not."""
        if self.num_samples(directives, table) == self._asked_for(directives):
            return ""
        return stop_conditions.stagnation(self._controls_of(directives).budget, table)

    def exhaustion(self, directives: Directives, table: TrialTable) -> str:
        """Why a search that tried its whole search space has fewer trials than were asked for; otherwise empty."""
        tried, asked = len(table.searched()), self._asked_for(directives)
        if tried >= asked:
            return ""
        return f"every configuration of the search space was tried: {counted(tried, 'trial')} of num_samples={asked}"

    def decide(
        self, directives: Directives, fenced: bool, table: TrialTable, clock: SlotClock, *, no_more: bool = False
    ) -> Actions:
        """`no_more`: the searcher has no further proposals, however many are asked for."""
        controls = self._controls_of(directives)
        outcome = stop_conditions.requested(directives, fenced) or stop_conditions.reached(
            controls, self._objective, self._gpus_per_trial, table, clock
        )
        cancel = frozenset(directives.cancel_trials)
        running = [
            trial.slots
            for trial in table.trials.values()
            if trial.state is TrialState.RUNNING and trial.number not in cancel
        ]
        is_searching = not no_more and len(table.searched()) < self.num_samples(directives, table)
        used, alone = sum(running), table.waits_alone(is_searching)
        if alone and alone.slots > directives.slots:
            alone = None  # it must wait, so the others continue
        sizes = [*running, alone.slots] if alone else running
        slots = directives.slots
        if controls.max_concurrent_trials:  # counts trials, however many slots one has
            slots = min(slots, controls.max_concurrent_trials + sum(size - 1 for size in sizes))
        whole = sum(size for size in running if size > 1)  # these continue: they would only take turns with another one
        kept = alone.slots if alone and whole + alone.slots <= slots else 0  # until it is handed out, others make room
        trial_left = is_searching or next(table.waiting(), None) is not None
        return Actions(
            outcome=outcome,
            controls=controls,
            slots=0 if outcome else slots,
            surplus=max(0, used + kept - slots),
            interrupt=max(0, used - slots) if directives.stop_epochs else 0,
            cancel=cancel,
            release_idle=used >= slots or not trial_left or max(sizes, default=1) > 1,
            resting=outcome is None and not slots and not used,
        )

    @property
    def slots_alone(self) -> int:
        """Number of slots of a trial that has a GPU for itself."""
        return slots_of_gpu(self._gpus_per_trial)

    def react(self, failure: Failure, trial: Trial, controls: Controls) -> Reaction:
        """What follows from a failure of a trial."""
        if failure.kind is ErrorKind.DISK_FULL:
            return Reaction.PAUSE
        if failure.exceeds_share and trial.slots < self.slots_alone:
            return Reaction.ALONE
        may_restart = failure.kind in RETRYABLE and trial.restarts < controls.max_restarts
        return Reaction.RESTART if may_restart else Reaction.END

    def _controls_of(self, directives: Directives) -> Controls:
        return directives.controls or self._controls

    def _asked_for(self, directives: Directives) -> int:
        wanted = self._controls_of(directives).num_samples
        return wanted if self._limit is None else min(wanted, self._limit)
