"""Trial worker: one process that holds a slot of the cluster and trains one trial after another, an epoch per step.

Owns the edge between Ray Tune and the training loop: threads, device, what a step returns, and how an epoch is left
when a stop is requested. The process is reused, except in a search with a plugin, which may change it: `reset_config`
drops one trial and loads the next within milliseconds, and the data stay loaded. It must not know MLflow, the service
or other trials. Torch is imported only in the worker's process, so that the driver can import this module quickly.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune

from search_spaces.experiment import TrialSpec
from search_spaces.layout import NAMES
from search_spaces.phrases import counted
from search_spaces.protocol import ErrorKind
from search_spaces.storage.base import open_storage, read_document
from search_spaces.stored import read_trial_spec
from workers.failures.classification import TrialError, classified
from workers.nodes import on_node, using_storage
from workers.state import checkpoints
from workers.trial import agreed_data, device
from workers.trial.logs import LogFile, captured
from workers.trial.saving import EpochSaver
from workers.trial.shared_memory import GpuMemory, MemoryShare, SharedMemory

if TYPE_CHECKING:
    from workers.data.splits import Splits
    from workers.trial.parallel_training import AnyTraining

log = logging.getLogger(__name__)

STOP_POLL_S = 1.0  # how often the stop signal is checked
PROGRESS_LOG_S = 30.0  # how often an epoch that takes longer logs its progress
#: How long a trial looks for the checkpoint of its newest epoch in a remote storage, and how often: the process that
#: trained it until now may still upload it.
UPLOAD_S, UPLOAD_POLL_S = 5.0, 0.5


class TrialWorker(tune.Trainable):
    """Config: `trial` (its number), `storage` (the experiment's), `epoch`, `data_root`, `cache_root`; `data`, the
    digests of the data that earlier trials had, None if not known; `marker` and `version`, which the node must have;
    `resources` of a trial, Ray's label `selector` of the nodes to use, and the id of the `node` that is preferred, if
    any; `share`, the part that the process may use of the memory of its device. A result has the digests as `data`, and
    as `resumed_after` the epoch of the checkpoint with which the process began, 0 for none.

    After each epoch `last.pt` holds all that is needed to resume, `best.pt` the weights of the best epoch, and
    `validation.json` which validation images they get right. A trial
    that has checkpoints resumes from the newest that is undamaged and of the same spec. Its first step returns the
    result of that epoch again, because a driver that died may not have recorded it. A checkpoint that is more than one
    epoch ahead of the `epoch` epochs that the journal has is not used: the journal lost those epochs, and they must be
    recorded again. In a remote storage, the newest checkpoint may be one epoch behind what is reported, except after
    the last epoch. An epoch that is left because a stop was requested, even at its very end, leaves no trace: its
    step returns the previous result again.
    """

    memory: SharedMemory = GpuMemory()

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """What Tune reserves for a trial, and where."""
        bundle = {name: share for name, share in config["resources"].items() if share}
        where: dict[str, Any] = {"bundle_label_selector": [config["selector"]]} if config["selector"] else {}
        if config["node"]:  # Ray takes another one that the selector allows if this one has no room
            where |= {"strategy": "STRICT_PACK", "_soft_target_node_id": config["node"]}
        return tune.PlacementGroupFactory([bundle], **where)

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
        self._digests: dict[str, str] | None = None  # of what is loaded
        self._log: LogFile | None = None
        self._training: AnyTraining | None = None
        self._saver: EpochSaver | None = None
        self._load_trial(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        with classified():
            self.cleanup()
            self._load_trial(new_config)
        return True

    def step(self) -> dict[str, Any]:
        # Not in `setup`, of whose errors Tune keeps only the text.
        node = (self._config[name] for name in ("storage", "marker", "version"))
        with classified(self._share.is_exceeded), on_node(*node, first=self._training is None):
            if self._log is None:
                self._log = LogFile(self._artifacts, self._files.log)
            with captured(self._log):
                return self._step() | {"data": self._digests, "resumed_after": self._resumed_after}

    def cleanup(self) -> None:
        self._training = None
        if self._log is not None:
            with captured(self._log):
                self._finish_saving()
            self._log.close()
            self._log = None

    def _load_trial(self, config: dict[str, Any]) -> None:
        self._config = config
        self._share = MemoryShare(config["share"], self.memory)
        storage = open_storage(config["storage"])
        self._artifacts = storage.artifacts
        self._files = NAMES.trial(config["trial"])
        self._training = None
        self._latest_result: dict[str, Any] = {}
        self._journaled_epoch: int = config["epoch"]
        self._resumed_after = 0
        # Earlier requests are not for this worker. Tune steps a trial only after this, and not one that it stopped.
        self._stop_signal = storage.stop_signal(config["trial"])
        self._next_look = 0.0
        self._next_progress_log = math.inf

    def _between_batches(self) -> bool:
        """Whether to leave the epoch; now and then this logs how far the epoch is."""
        training = self._training
        if training and time.monotonic() >= self._next_progress_log:
            self._next_progress_log = time.monotonic() + PROGRESS_LOG_S
            log.info("epoch %d: %d of %d batches", training.epoch + 1, training.batch, training.batches)
        return self._asked_to_stop()

    def _asked_to_stop(self) -> bool:
        """Looks at the signal about once a second: that may be a request to a remote machine."""
        if time.monotonic() < self._next_look:
            return False
        self._next_look = time.monotonic() + STOP_POLL_S
        return self._stop_signal.asked()

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
            if self._stop_signal.asked():  # Tune may drop this result: what is saved must stay what was reported
                raise EpochInterruptedError
        except EpochInterruptedError:
            log.info("stopped in epoch %d, as requested", self._journaled_epoch + 1)
            self._training = None
            self._finish_saving()
            self._stop_signal.clear()
            nothing = {"epoch": 0, "diverged": False, "reported": [], self._spec().objective.metric: math.nan}
            return self._latest_result or nothing
        values = {name: value for name, value in metrics.items() if name != "epoch"}
        result = values | {"epoch": training.epoch, "diverged": training.diverged, "reported": sorted(values)}
        assert self._saver is not None
        with using_storage(self._config["storage"]):
            self._saver.save(training, result, at_once=training.epoch >= training.spec.max_epochs)
        self._latest_result, self._journaled_epoch = result, training.epoch
        log.info("epoch %d: %s", training.epoch, ", ".join(f"{name} {value:.6g}" for name, value in values.items()))
        return result

    def _finish_saving(self) -> None:
        """What cannot be stored is trained again, if the trial continues."""
        saver, self._saver = self._saver, None
        try:
            if saver is not None:
                saver.finish()
        except OSError as error:
            log.error("the checkpoint of the newest epoch is not stored: %s", error)

    def _begin(self) -> AnyTraining:
        """The training at the newest usable checkpoint; the result of its last epoch is then in `_latest_result`.

        Raises EpochInterruptedError if a stop was requested while the data were loaded, which may take minutes.
        """
        from workers.training.loop import EpochInterruptedError

        spec = self._spec()
        self._torch.set_num_threads(spec.cpus)
        on = device.select_device(spec)
        self._share.cap()
        splits = self._splits(spec)
        if self._asked_to_stop():
            raise EpochInterruptedError
        training, source = self._resumed(spec, splits, on)
        self._resumed_after = training.epoch
        self._saver = EpochSaver(self._artifacts, self._files, last_is_usable=source == self._files.last.name)
        threads = counted(spec.cpus, "thread")
        where = f"resumes after epoch {training.epoch} from {source}" if source else "begins"
        part = "" if self._share.share == 1 else f" and {self._share.share:.0%} of its memory"
        group = f", trained by {size} processes" if (size := device.processes_of(spec)) > 1 else ""
        log.info("trial %s %s, on %s%s with %s%s", self._config["trial"], where, on, part, threads, group)
        for note in splits.notes:
            log.warning("%s", note)
        return training

    def _spec(self) -> TrialSpec:
        with using_storage(self._config["storage"]):
            content = read_document(self._artifacts, self._files.spec)
        return read_trial_spec(content)

    def _resumed(self, spec: TrialSpec, splits: Splits, on: str) -> tuple[AnyTraining, str | None]:
        """The training at the newest checkpoint that can be used, and its name; at the beginning if there is none."""
        journaled = self._journaled_epoch
        deadline = time.monotonic() + (UPLOAD_S if self._artifacts.is_remote else 0)
        while True:
            training, source = self._loaded_training(spec, splits, on)
            if training.epoch >= journaled or time.monotonic() >= deadline:
                return training, source
            del training  # a GPU may have no memory for two
            time.sleep(UPLOAD_POLL_S)
            self._journaled_epoch = journaled

    def _loaded_training(self, spec: TrialSpec, splits: Splits, on: str) -> tuple[AnyTraining, str | None]:
        from workers.training.loop import EpochInterruptedError

        self._latest_result = {}
        for name, content in self._checkpoints():
            training = self._new_training(spec, splits, on)
            try:
                recorded = read_trial_spec(content["spec"]) if "spec" in content else spec
                if not recorded.trains_as(spec):
                    raise ValueError("its spec is another one")
                training.load_state_dict(content["training"])
                if training.epoch > self._journaled_epoch + 1:
                    raise ValueError(f"it is of epoch {training.epoch}, but the journal has {self._journaled_epoch}")
                self._latest_result, self._journaled_epoch = content["result"], training.epoch
            except (MemoryError, self._torch.OutOfMemoryError, EpochInterruptedError):
                raise
            except Exception as error:  # torch raises many types for a state that does not fit
                if isinstance(error, TrialError) and error.failure.kind is not ErrorKind.CODE:
                    raise
                log.warning("%s cannot be used: %s", name, error)
                del training  # before the next one needs its memory
                continue
            if recorded != spec:  # its first epochs are of the older streams: `reproduce` must learn that
                training.spec = recorded
                with using_storage(self._config["storage"]):
                    self._artifacts.write(self._files.spec, recorded.model_dump_json().encode())
            return training, name
        return self._new_training(spec, splits, on), None

    def _new_training(self, spec: TrialSpec, splits: Splits, on: str) -> AnyTraining:
        from workers.trial.parallel_training import new_training

        roots = Path(self._config["data_root"]), Path(self._config["cache_root"])
        return new_training(spec, splits, *roots, on, self._compiler, self._between_batches)

    def _checkpoints(self) -> Iterator[tuple[str, dict[str, Any]]]:
        found = checkpoints.load_newest(self._artifacts, self._files)
        while True:
            with using_storage(self._config["storage"]):
                one = next(found, None)
            if one is None:
                return
            yield one

    def _splits(self, spec: TrialSpec) -> Splits:
        from workers.data import cache

        key = f"{spec.dataset.model_dump_json()}/{spec.split_seed}"
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = self._digests = None
            data_root, cache_root = Path(self._config["data_root"]), Path(self._config["cache_root"])
            storage, agreed = self._config["storage"], self._config.get("data")
            splits, self._digests = agreed_data.load_agreed(spec, data_root, cache_root, storage, agreed)
            log.info("the decoded data sets in %s take %.1f MB", cache_root, cache.size_bytes(cache_root) / 1e6)
            self._loaded = key, splits
        return self._loaded[1]
