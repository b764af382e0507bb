"""TuneScheduler: the adapter between Ray Tune's loop and what decides on trials.

Owns the answers to Tune after each result, and the step of Tune's loop at which the directives are applied. Tune's
own schedulers are not used: a non-finite objective lets a trial continue there, and a missing one ends the search. It
must not know the journal, MLflow, the service or any stopping rule by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from search_spaces.early_stopping.base import Action
from workers.search.verdicts import Verdict, Verdicts


class TuneScheduler(FIFOScheduler):
    """Answers STOP to Tune also for a trial that only yields its slot: the searcher hands that trial out again.

    `poll` is called with Tune's controller at each step of its loop and may stop trials. `yields_slot` is called for
    a trial that would otherwise continue.
    """

    def __init__(
        self, verdicts: Verdicts, poll: Callable[[Any], None], yields_slot: Callable[[int, Verdict], bool]
    ) -> None:
        FIFOScheduler.__init__(self)
        self._verdicts = verdicts
        self._poll = poll
        self._yields_slot = yields_slot
        self.newest: dict[int, Verdict] = {}  # by trial

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        number = trial.config["trial"]
        verdict = self._verdicts.after_epoch(number, int(result["epoch"]), result)
        self.newest[number] = verdict
        if verdict.action is Action.STOP or self._yields_slot(number, verdict):
            return str(TrialScheduler.STOP)
        return str(TrialScheduler.CONTINUE)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        self._poll(tune_controller)
        return super().choose_trial_to_run(tune_controller)
