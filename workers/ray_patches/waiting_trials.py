"""Waiting trials: trials whose process Ray Tune has requested and not yet got.

Owns their withdrawal. Tune forgets to count down what it wants for such a trial: it then keeps the processes of other
trials of the same request for it, with their slots, although nobody uses them. Where the next trials need another
request, as once a node is excluded, they would wait for those slots for good. It uses private parts of Ray, which is
pinned to one minor version. It must not know why a trial is stopped.
"""

from __future__ import annotations

from typing import Any


def stop_trial(controller: Any, trial: Any) -> None:
    """Stop a trial in any state; `controller` is what Tune passes to a scheduler."""
    controller.stop_trial(trial)
    tune = controller._tune_controller
    if trial in tune._staged_trials:
        tune._staged_trials.remove(trial)
        tune._actor_cache.decrease_max(trial.placement_group_factory)
