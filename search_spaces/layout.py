"""Layout: where each file of an experiment is.

Owns every path below an experiment's folder, once for the service and the workers. It reads and writes nothing.

    spec.json  launch-a<N>.json  marker  journal.jsonl  journal.copy.jsonl  tracking.json  model/  pictures/
    data/dataset.json                     what is known of the data set
    logs/driver-a<N>.log                  the log of the driver of attempt N
    trials/<5 digits>/spec.json           the spec that the trial trains
    trials/<5 digits>/trial.log           its log
    trials/<5 digits>/stop                appended to, to ask the process that trains the trial to leave its epoch
    trials/<5 digits>/{last,previous,best}.pt
    trials/<5 digits>/validation.json     which validation images its best epoch got right
    insight/insight.json  insight/*.png   why the winner won, and how sure that is
    insight/scores.json                   how well the winner recognizes each class
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

#: File names of checkpoints: the newest epoch, the epoch before it, and the best epoch.
LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"

#: Files set aside because a journal is damaged: `journal.damaged-<n>`, n from 1.
DAMAGED_JOURNAL_PREFIX = "journal.damaged-"


@dataclass(frozen=True)
class TrialFolder:
    """The folder of one trial. It may not exist."""

    root: Path

    @property
    def spec(self) -> Path:
        return self.root / "spec.json"

    @property
    def log(self) -> Path:
        return self.root / "trial.log"

    @property
    def stop(self) -> Path:
        return self.root / "stop"

    @property
    def validation(self) -> Path:
        """Which validation images the best epoch got right. Stays when the checkpoints are deleted."""
        return self.root / "validation.json"

    @property
    def last(self) -> Path:
        return self.root / LAST

    @property
    def previous(self) -> Path:
        return self.root / PREVIOUS

    @property
    def best(self) -> Path:
        return self.root / BEST


@dataclass(frozen=True)
class ExperimentFolder:
    """The folder of one experiment. It may not exist."""

    root: Path

    @property
    def spec(self) -> Path:
        return self.root / "spec.json"

    def launch_config(self, attempt: int) -> Path:
        return self.root / f"launch-a{attempt}.json"

    @property
    def marker(self) -> Path:
        """Random text, by which a process recognizes that its node sees this folder, not another one of its name."""
        return self.root / "marker"

    @property
    def journal(self) -> Path:
        return self.root / "journal.jsonl"

    @property
    def journal_copy(self) -> Path:
        """The journal's second file, from which damaged entries are restored."""
        return self.root / "journal.copy.jsonl"

    @property
    def tracking(self) -> Path:
        """How far MLflow has been updated."""
        return self.root / "tracking.json"

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def plots(self) -> Path:
        return self.root / "pictures"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def data_report(self) -> Path:
        """What the trials found the data set to be."""
        return self.data / "dataset.json"

    @property
    def insight(self) -> Path:
        return self.root / "insight"

    @property
    def insight_report(self) -> Path:
        """Why the winner won, and how sure that is."""
        return self.insight / "insight.json"

    @property
    def scores(self) -> Path:
        """How well the winner recognizes each class."""
        return self.insight / "scores.json"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    def driver_log(self, attempt: int) -> Path:
        return self.logs / f"driver-a{attempt}.log"

    @property
    def trials(self) -> Path:
        return self.root / "trials"

    def trial(self, number: int) -> TrialFolder:
        """The folder of trial `number` (from 0)."""
        return TrialFolder(self.trials / f"{number:05d}")


#: The names of an experiment's files as artifacts: relative to its folder.
NAMES = ExperimentFolder(Path())
