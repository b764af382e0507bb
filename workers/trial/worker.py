"""Trial: one slot of the cluster, training one trial after another, an epoch per step.

Owns the edge between Ray Tune and the training loop: threads, device, what a step answers, how an epoch is
left when asked. A slot's process is reused: `reset_config` drops one trial and takes up the next within
milliseconds, and the data stay loaded. It must not know MLflow, the service or the other trials. Torch is
imported by the slot alone, so that the driver may import this module quickly.
"""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune

from search_spaces.experiment import TrialSpec
from search_spaces.storage.atomic import atomic_write
from search_spaces.stored import read_trial_spec
from workers.state import checkpoints
from workers.state.checkpoints import BEST, LAST
from workers.trial import device
from workers.trial.errors import classified
from workers.trial.logs import TRIAL_LOG, LogFile, captured

if TYPE_CHECKING:
    from workers.data.splits import Splits
    from workers.training.loop import Training

log = logging.getLogger("rung.trial")

SPEC = "spec.json"
#: A file of this name, touched in a trial's folder, asks the slot that holds the trial to leave its epoch.
STOP = "stop"
STOP_POLL_S = 1.0  # between two looks for it
PROGRESS_LOG_S = 30.0  # between two signs of life in the log of an epoch that takes longer


class TrialWorker(tune.Trainable):
    """Config: `trial`, `folder` (of this trial, with `spec.json`), `epoch`, `data_root`, `cache_root`.

    After each epoch `last.pt` holds all that is needed to go on, and `best.pt` the best epoch and its weights.
    A trial whose folder has a checkpoint goes on from the newest that is whole and its own: its first
    step tells that epoch's figures again, which a driver that died may not have heard. One that is further ahead
    of the `epoch` epochs that the journal knows is of a history that was lost. An epoch that is left
    because `stop` was touched, if only at its very end, leaves no trace: its step answers what the one before it did.
    How far a long epoch is stands in the trial's log.
    """

    def setup(self, config: dict[str, Any]) -> None:
        with classified():
            self._setup(config)

    def _setup(self, config: dict[str, Any]) -> None:
        import torch  # here, not in the first step: actors of one experiment import it side by side

        from workers.training.compiled import Compiler

        logging.getLogger().setLevel(logging.INFO)  # `captured` need not change it at each step
        self._torch = torch
        self._compiler = Compiler()
        self._loaded: tuple[str, Splits] | None = None
        self._log: LogFile | None = None
        self._training: Training | None = None
        self._load_trial(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        with classified():
            self.cleanup()
            self._load_trial(new_config)
        return True

    def step(self) -> dict[str, Any]:
        if self._log is None:
            self._log = LogFile(self._folder / TRIAL_LOG)
        with classified(), captured(self._log):
            return self._step()

    def cleanup(self) -> None:
        self._training = None
        if self._log is not None:
            self._log.close()
            self._log = None

    def _load_trial(self, config: dict[str, Any]) -> None:
        self._config = config
        self._folder = Path(config["folder"])
        self._training = None
        self._latest_result: dict[str, Any] = {}
        self._journaled_epoch: int = config["epoch"]
        self._last_is_usable = False
        # Whatever was asked before is not meant for us. Tune steps a trial only after this, and not one it stopped.
        self._stop_signal = StopSignal(self._folder / STOP)
        self._next_progress_log = math.inf

    def _between_batches(self) -> bool:
        """Whether to leave the epoch; now and then with a sign of life."""
        training = self._training
        if training and time.monotonic() >= self._next_progress_log:
            self._next_progress_log = time.monotonic() + PROGRESS_LOG_S
            log.info("epoch %d: %d of %d batches", training.epoch + 1, training.batch, training.batches)
        return self._stop_signal()

    def _step(self) -> dict[str, Any]:
        from workers.training.loop import EpochInterruptedError

        try:
            if self._training is None:
                self._training = self._begin()
                if self._latest_result:
                    return self._latest_result
            training = self._training
            self._next_progress_log = time.monotonic() + PROGRESS_LOG_S
            metrics = training.run_epoch()
            if self._stop_signal.at_once():  # nobody may hear of this epoch: what is saved stays as it was told
                raise EpochInterruptedError
        except EpochInterruptedError:
            log.info("epoch %d left before its end, as asked", self._journaled_epoch + 1)
            self._training = None
            self._stop_signal = StopSignal(self._folder / STOP)
            nothing = {"epoch": 0, "diverged": False, "reported": [], self._spec().objective.metric: math.nan}
            return self._latest_result or nothing
        figures = {name: value for name, value in metrics.items() if name != "epoch"}
        result = figures | {"epoch": training.epoch, "diverged": training.diverged, "reported": sorted(figures)}
        if training.best_epoch == training.epoch:
            checkpoints.save({"epoch": training.epoch, "model": training.model.state_dict()}, self._folder / BEST)
        state = {"spec": training.spec.model_dump_json(), "training": training.state_dict(), "result": result}
        checkpoints.save_last(state, self._folder, rotate=self._last_is_usable)
        self._last_is_usable = True
        self._latest_result, self._journaled_epoch = result, training.epoch
        log.info("epoch %d: %s", training.epoch, ", ".join(f"{name} {value:.6g}" for name, value in figures.items()))
        return result

    def _begin(self) -> Training:
        """The training where the newest usable checkpoint left it; what its last step told is then in `_latest_result`.

        Raises EpochInterruptedError where a stop was asked for while the data were loaded, which may take minutes.
        """
        from workers.training.loop import EpochInterruptedError

        spec = self._spec()
        self._torch.set_num_threads(spec.cpus)
        on = device.select_device(spec)
        splits = self._splits(spec)
        if self._stop_signal():
            raise EpochInterruptedError
        training, source = self._resumed(spec, splits, on)
        threads = "1 thread" if spec.cpus == 1 else f"{spec.cpus} threads"
        where = f"goes on after epoch {training.epoch} of {source}" if source else "begins"
        log.info("trial %s %s, on %s with %s", self._config["trial"], where, on, threads)
        for note in splits.notes:
            log.warning("%s", note)
        return training

    def _spec(self) -> TrialSpec:
        return TrialSpec.model_validate_json((self._folder / SPEC).read_text())

    def _resumed(self, spec: TrialSpec, splits: Splits, on: str) -> tuple[Training, str | None]:
        from workers.training.loop import Training

        self._latest_result, self._last_is_usable = {}, False
        for name, content in checkpoints.load_newest(self._folder):
            training = Training(spec, splits, on, self._compiler, self._between_batches)
            try:
                recorded = read_trial_spec(content["spec"]) if "spec" in content else spec
                if not recorded.trains_as(spec):
                    raise ValueError("it is of another configuration")
                training.load_state_dict(content["training"])
                if training.epoch > self._journaled_epoch + 1:
                    raise ValueError(f"it is of epoch {training.epoch}, and the journal knows {self._journaled_epoch}")
                self._latest_result, self._journaled_epoch = content["result"], training.epoch
            except (MemoryError, self._torch.OutOfMemoryError):
                raise
            except Exception as error:  # torch raises much for what does not fit
                log.warning("%s cannot be used: %s", name, error)
                continue
            self._last_is_usable = name == LAST
            if recorded != spec:  # its first epochs are of the older streams: `reproduce` must learn that
                training.spec = recorded
                atomic_write(self._folder / SPEC, recorded.model_dump_json().encode())
            return training, name
        return Training(spec, splits, on, self._compiler, self._between_batches), None

    def _splits(self, spec: TrialSpec) -> Splits:
        from workers.data.splits import load

        key = f"{spec.dataset.model_dump_json()}/{spec.split_seed}"
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None
            data_root, cache_root = Path(self._config["data_root"]), Path(self._config["cache_root"])
            self._loaded = key, load(spec.dataset, spec.split_seed, data_root, cache_root)
        return self._loaded[1]


class StopSignal:
    """Whether a file was touched since this was made, looked for about once a second."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._before = self._touched()
        self._next_look = 0.0

    def __call__(self) -> bool:
        return time.monotonic() >= self._next_look and self.at_once()

    def at_once(self) -> bool:
        self._next_look = time.monotonic() + STOP_POLL_S
        touched = self._touched()
        return touched is not None and touched != self._before

    def _touched(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns
