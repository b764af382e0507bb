"""Warm start: what a search takes from earlier experiments, the configurations that were best in them.

Owns which are taken. They are recorded in this experiment's journal before its first proposal, so that a restart
proposes the same, whatever has become of the other experiments. It must not know Ray, MLflow or the service, nor what a
searcher does with a configuration.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from itertools import zip_longest
from pathlib import PurePath
from typing import Any

from search_spaces.objective import Objective
from search_spaces.protocol import IMPORTED_STATES
from search_spaces.searchers.initial import MAX_KNOWN
from search_spaces.storage.base import open_storage
from workers.state.events import decode_all
from workers.state.recorder import Recorder
from workers.state.trial_table import Trial, TrialTable

log = logging.getLogger(__name__)


def take_from(addresses: Iterable[str], recorder: Recorder, objective: Objective) -> None:
    """Record the best configurations of the experiments at these addresses, by `objective`.

    The best of each comes before the second best of any, because values of different experiments may not be
    comparable. An experiment that cannot be read costs only its configurations.
    """
    ranked = [_best_first(address, objective) for address in addresses]
    taken: dict[str, Mapping[str, Any]] = {}
    for one in (one for rank in zip_longest(*ranked) for one in rank if one is not None):
        if len(taken) < MAX_KNOWN:
            taken.setdefault(json.dumps(one["parameters"], sort_keys=True), one)
    recorder.record_warm_start(taken.values())
    log.info("the search begins with %d configurations of earlier trials", len(taken))


def _best_first(address: str, objective: Objective) -> list[dict[str, Any]]:
    table = TrialTable(objective)
    try:
        journal = open_storage(address).journal
        for event in decode_all(journal.entries() if journal.exists() else ()):
            table.apply(event)
        rated = [trial for trial in table.searched() if trial.state in IMPORTED_STATES and trial.best_value is not None]
        rated.sort(key=lambda trial: (-objective.sign * (trial.best_value or 0.0), trial.number))
        source = PurePath(address).name
        return [{"source": f"{source}/{one.number}", "parameters": one.parameters} for one in rated if _is_usable(one)]
    except Exception as error:  # somebody may have edited it, or a newer version may have written it
        kind = type(error).__name__  # its text may name the experiment, which may be another team's
        log.warning("an earlier experiment cannot be read, so that nothing is taken from it: %s", kind)
        return []


def _is_usable(trial: Trial) -> bool:
    """Whether a trial's configuration is what journals have: what is taken is recorded, and must not fail later."""
    return isinstance(trial.parameters, dict) and all(
        isinstance(name, str) and isinstance(value, str | int | float) for name, value in trial.parameters.items()
    )
