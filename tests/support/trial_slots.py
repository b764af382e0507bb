"""Slots outside Ray: begin one, and look at the files of its trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from search_spaces.layout import ExperimentFolder
from workers.trial.worker import TrialWorker

SPEC, TRIAL_LOG = "spec.json", "trial.log"
CLOCKED = {"epoch_seconds", "images_per_second"}  # differ each time
OF_A_PROCESS = {"resumed_after"}


def begun(config: dict[str, Any], kind: type[TrialWorker] = TrialWorker) -> TrialWorker:
    slot = kind.__new__(kind)  # Tune's constructor wants a session; `setup` is all that is ours
    slot.setup(config)
    return slot


def folder_of(config: dict[str, Any]) -> Path:
    return ExperimentFolder(Path(config["storage"])).trial(config["trial"]).root


def names(config: dict[str, Any]) -> set[str]:
    return {path.name for path in folder_of(config).iterdir()} - {TRIAL_LOG}


def said(config: dict[str, Any]) -> str:
    return (folder_of(config) / TRIAL_LOG).read_text()


def timeless(result: dict[str, Any]) -> dict[str, Any]:
    """What is the same whenever and by however many processes a trial is trained."""
    return {name: value for name, value in result.items() if name not in CLOCKED | OF_A_PROCESS}
