"""Planted searches as a driver leaves them behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from search_spaces.experiment import ExperimentSpec
from search_spaces.layout import NAMES
from search_spaces.protocol import TrialState, Winner
from search_spaces.storage.folder import FolderStorage
from tests.support.data_reports import data_report
from workers.state.outcomes import ValidationOutcomes
from workers.state.recorder import Recorder

#: Writes a search: for each trial its sample, its curve and which validation images it got right.
Plant = Callable[..., FolderStorage]


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    def write(
        spec: ExperimentSpec,
        trials: Sequence[tuple[Mapping[str, float], Sequence[float], Sequence[bool] | None]],
        test_accuracy: float | None = None,
        test_images: int = 400,
    ) -> FolderStorage:
        storage = FolderStorage(tmp_path)
        recorder = Recorder(storage.journal, spec.objective)
        for number, (sample, curve, right) in enumerate(trials):
            recorder.record_suggestion(number, sample, spec.parameters(spec.bind(sample, number)))
            for epoch, value in enumerate(curve, 1):
                done = (TrialState.COMPLETED, "done") if epoch == len(curve) else None
                metrics: dict[str, Any] = {"validation_accuracy": value, "validation_loss": 1 - value}
                recorder.record_epoch(
                    number, epoch, metrics | {"generalization_gap": 0.0, "nonfinite_steps": 0.0}, done
                )
            if right is not None:
                best = recorder.table.trials[number].best_epoch or 0
                content = ValidationOutcomes(best, 0.1, [bool(one) for one in right]).encode()
                storage.artifacts.write(NAMES.trial(number).validation, content)
        best_trial = recorder.table.best()
        if test_accuracy is not None and best_trial is not None and best_trial.best_value is not None:
            found = {"test_accuracy": test_accuracy, "test_loss": 0.1, "value": best_trial.best_value}
            recorder.record_winner(Winner(trial=best_trial.number, **found))
        recorder.close()
        report = data_report(counts={"train": [100], "validation": [100], "test": [test_images]}, classes=["a", "b"])
        storage.artifacts.write(NAMES.data_report, report.model_dump_json().encode())
        return storage

    return write
