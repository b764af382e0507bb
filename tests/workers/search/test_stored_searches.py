"""Searches of the version before, interrupted and recovered by it, continue here as they did there.

In `tests/workers/stored/searches`: a spec, the journal at the crash, and the journal that the version before made of it
later. Both searches used TPE and ASHA and ran one trial at a time, so every proposal and every decision is determined.
"""

from __future__ import annotations

import lzma
import re
from pathlib import Path

import pytest

from search_spaces.experiment import ExperimentSpec
from search_spaces.protocol import TrialState
from search_spaces.searchers.base import SearchProblem, TrialResult
from search_spaces.storage.folder_journal import FolderJournal
from search_spaces.stored import read_spec
from workers.search.tune_searcher import FINDINGS
from workers.search.verdicts import Verdicts
from workers.state.recorder import Recorder
from workers.state.trial_table import Trial

STORED = Path(__file__).parents[1] / "stored" / "searches"
#: The states in which the search itself ends a trial.
DECIDED = {TrialState.COMPLETED, TrialState.EARLY_STOPPED, TrialState.DIVERGED}


def opened(name: str, moment: str, folder: Path) -> tuple[ExperimentSpec, Recorder]:
    spec = read_spec((STORED / f"{name}.spec.json").read_text())
    journal = FolderJournal(folder / f"{moment}.jsonl", folder / f"{moment}.copy.jsonl")
    journal.path.write_bytes(lzma.decompress((STORED / f"{name}.{moment}.jsonl.xz").read_bytes()))
    recorder = Recorder(journal, spec.objective, 99)
    recorder.close()
    return spec, recorder


def result(trial: Trial) -> TrialResult:
    return TrialResult(trial.number, FINDINGS[trial.state], tuple(trial.curve), trial.best_value)


def cutoff(reason: str) -> list[str]:
    """The rung, the value and the cutoff in a reason to stop early."""
    return re.findall(r"\d+(?:\.\d+)?", reason)[:3]


@pytest.mark.parametrize("name", ["b2", "c2"])
def test_every_decision_is_the_same(name: str, tmp_path: Path) -> None:
    spec, recorder = opened(name, "recovered", tmp_path)
    verdicts = Verdicts(spec.early_stopping, spec.objective, spec.max_epochs)
    decided = {}
    for number, epoch, value in recorder.table.history():
        verdict = verdicts.after_epoch(number, epoch, {spec.objective.metric: value})
        if verdict.state:
            decided[number] = verdict
    recorded = {number: trial for number, trial in recorder.table.trials.items() if trial.state in DECIDED}
    assert {number: verdict.state for number, verdict in decided.items()} == {
        number: trial.state for number, trial in recorded.items()
    }
    stopped = [number for number, trial in recorded.items() if trial.state == TrialState.EARLY_STOPPED]
    assert stopped
    for number in stopped:
        assert cutoff(decided[number].reason) == cutoff(recorded[number].stop_reason)


@pytest.mark.parametrize("name", ["b2", "c2"])
def test_every_proposal_after_the_crash_is_the_same(name: str, tmp_path: Path) -> None:
    spec, crashed = opened(name, "at-the-crash", tmp_path)
    _, recovered = opened(name, "recovered", tmp_path)
    algorithm = spec.searcher.algorithm(SearchProblem(spec.search_space, spec.objective.sign, spec.seed))
    known = len(crashed.table.trials)
    assert 0 < known < len(recovered.table.trials)
    for trial in crashed.table.trials.values():
        algorithm.replay(trial.number, trial.sample)
    for trial in crashed.table.trials.values():
        if trial.ended:
            algorithm.observe(result(trial))
    for trial in crashed.table.trials.values():
        if not trial.ended:  # it resumed before anything new was proposed
            algorithm.observe(result(recovered.table.trials[trial.number]))
    for number in range(known, len(recovered.table.trials)):
        trial = recovered.table.trials[number]
        assert algorithm.propose(number) == pytest.approx(trial.sample, rel=1e-12)  # CPUs differ in the last bit
        algorithm.observe(result(trial))
