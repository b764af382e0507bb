"""The time from the last epoch of a search of 2,000 trials to the final heartbeat, which makes it COMPLETED.

Run: make bench, or
python -m pytest tests/benchmarks/test_completion.py --override-ini addopts=--import-mode=importlib -s --timeout 1800

MLflow's own server runs on this machine; the journal, the tracker and the heartbeat are those of a driver. Trials are
only recorded, and the winner's evaluation takes no time: both depend on the experiment.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from search_spaces.experiment import ExperimentSpec
from search_spaces.protocol import FINAL_PHASES, LaunchConfig, Phase, TrialState
from search_spaces.storage.folder import FolderStorage
from tests.support.attempts import ScriptedEvaluation, ScriptedProbe
from tests.support.real_mlflow import running_mlflow
from tests.support.workers import HeartbeatService, experiment_spec, launch_config
from workers.attempt import ExperimentAttempt
from workers.state.recorder import Recorder
from workers.tracking.tracker import Tracker

TRIALS, EPOCHS = 2000, 3
AT_ONCE = 8  # trials that train until the end
TARGET_S = 10.0
PATIENCE_S = 1200.0


def test_completion_after_two_thousand_trials(tmp_path: Path) -> None:
    folder, server = tmp_path / "abc", tmp_path / "server"
    for one in (folder, server, folder / "model"):
        one.mkdir()
    (folder / "model" / "weights.bin").write_bytes(b"x" * 2**20)
    service = HeartbeatService()
    trackers: list[Tracker] = []
    marks: dict[str, float] = {}

    def mark(name: str) -> None:
        marks[name] = time.monotonic()

    def record(recorder: Recorder, numbers: range, epochs: range) -> None:
        for number in numbers:
            if epochs[0] == 1:
                recorder.record_suggestion(number, {}, {"optimizer.lr": 0.001 * number, "batch_size": 64})
            for epoch in epochs:
                ended = (TrialState.COMPLETED, "all epochs done") if epoch == EPOCHS else None
                metrics = {"validation_accuracy": number / TRIALS / epoch, "validation_loss": 1.0, "train_loss": 1.0}
                recorder.record_epoch(number, epoch, metrics, ended)

    def run_trials(launch: object, spec: object, recorder: Recorder, *rest: object) -> None:
        last = range(TRIALS - AT_ONCE, TRIALS)
        mark("begin")
        record(recorder, range(TRIALS - AT_ONCE), range(1, EPOCHS + 1))
        record(recorder, last, range(1, EPOCHS))
        mark("recorded")
        deadline = time.monotonic() + PATIENCE_S
        while not trackers[0].deliver():
            assert time.monotonic() < deadline, "MLflow does not take the events"
        mark("delivered")
        record(recorder, last, range(EPOCHS, EPOCHS + 1))
        mark("last epoch")

    try:
        with running_mlflow(server) as address:
            config = launch_config(folder, service_url=f"http://127.0.0.1:{service.port}", mlflow_tracking_uri=address)
            spec = experiment_spec(searcher={"kind": "random", "num_samples": TRIALS}, max_epochs=EPOCHS)

            def track(superseded: Callable[[], bool]) -> Tracker:
                trackers.append(Tracker(config, spec, FolderStorage(folder), superseded=superseded))
                return trackers[0]

            class Evaluation(ScriptedEvaluation):
                def draw_plots(self, spec: ExperimentSpec, launch: LaunchConfig, timeout_s: float) -> None:
                    mark("final heartbeat")
                    super().draw_plots(spec, launch, timeout_s)

            assert ExperimentAttempt(config, spec, run_trials, ScriptedProbe(), lambda _: Evaluation(), track).run()
    finally:
        service.stop()
    heard = [beat for beat in service.heard if beat.phase in FINAL_PHASES]
    assert [beat.phase for beat in heard] == [Phase.COMPLETED]
    took = {name: marks[name] - marks["begin"] for name in marks}
    print(f"\n{TRIALS} trials of {EPOCHS} epochs: recorded after {took['recorded']:.1f} s")
    print(f"delivered after {took['delivered']:.1f} s: {TRIALS / took['delivered']:.1f} trials in a second")
    print(f"from the last epoch to the final heartbeat: {marks['final heartbeat'] - marks['last epoch']:.1f} s")
    assert marks["final heartbeat"] - marks["last epoch"] <= TARGET_S
