"""A checkpoint of version 0.1: training resumes from it, and computes what version 0.1 computed.

`stored/checkpoint/` holds a trial that version 0.1 paused after two of 20 epochs, and the metrics of the next two
epochs, computed by version 0.1 without augmentation: augmentations draw from other streams today.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from search_spaces.layout import TrialFolder
from search_spaces.storage.folder import FolderArtifacts
from search_spaces.stored import read_trial_spec
from workers.data.splits import load
from workers.state import checkpoints
from workers.training.loop import Training

STORED = Path(__file__).parents[1] / "stored" / "checkpoint"


def test_training_resumes_from_a_checkpoint_of_version_0_1(tmp_path: Path) -> None:
    document = json.loads((STORED / "spec.json").read_text())
    document["hyperparameters"]["augmentation"] = "none"
    spec = read_trial_spec(document)
    training = Training(spec, load(spec.dataset, spec.split_seed, tmp_path, tmp_path))
    ((name, content), *_) = checkpoints.load_newest(FolderArtifacts(STORED), TrialFolder(Path()))
    assert name == "last.pt"
    training.load_state_dict(content["training"])
    assert training.epoch == content["result"]["epoch"] == 2
    for expected in json.loads((STORED / "expected.json").read_text()):
        metrics = training.run_epoch()
        assert {metric: metrics[metric] for metric in expected} == pytest.approx(expected, rel=1e-3)
