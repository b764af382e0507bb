"""Trial: one slot of the cluster, training one trial after another, an epoch per step.

Owns the edge between Ray Tune and the training loop: threads, device, checkpoint files. A slot's process
is reused: `reset_config` drops one trial and takes up the next within milliseconds, and the data stay
loaded. It must not know MLflow, the service or the other trials. Torch is imported by the slot alone, so
that the driver may import this module quickly.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune

from search_spaces.experiment import TrialSpec

if TYPE_CHECKING:
    from workers.data import Splits
    from workers.training import Training

log = logging.getLogger("rung.trial")

LAST, BEST, SPEC = "last.pt", "best.pt", "spec.json"


class Slot(tune.Trainable):
    """Config: `trial`, `folder` (of this trial, with `spec.json`), `data_root`, `cache_root`.

    After each epoch `last.pt` holds all that is needed to go on, and `best.pt` the weights of the best
    epoch; both appear by rename, whole or not at all. A trial whose folder has a `last.pt` goes on from it:
    its first step tells that epoch's figures again, which a driver that died may not have heard. A
    `last.pt` that cannot be read costs its epochs, not the trial.
    """

    def setup(self, config: dict[str, Any]) -> None:
        import torch  # here, not in the first step: actors of one experiment import it side by side

        from workers.compiled import Compiler

        self._torch = torch
        self._compiler = Compiler()
        self._config = config
        self._training: Training | None = None
        self._loaded: tuple[str, Splits] | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._config = new_config
        self._training = None
        return True

    def step(self) -> dict[str, Any]:
        folder = Path(self._config["folder"])
        if self._training is None:
            self._training, told = self._begin(folder)
            if told is not None:
                return told
        training = self._training
        metrics = training.run_epoch()
        figures = {name: value for name, value in metrics.items() if name != "epoch"}
        result = figures | {"epoch": training.epoch, "diverged": training.diverged, "reported": sorted(figures)}
        if training.best_epoch == training.epoch:
            self._save(training.model.state_dict(), folder / BEST)
        self._save({"training": training.state_dict(), "result": result}, folder / LAST)
        return result

    def cleanup(self) -> None:
        self._training = None

    def _begin(self, folder: Path) -> tuple[Training, dict[str, Any] | None]:
        """The training, and what its last epoch's step returned if there was one."""
        from workers.training import Training

        spec = TrialSpec.model_validate_json((folder / SPEC).read_text())
        self._torch.set_num_threads(spec.cpus)
        device = "cuda" if spec.gpus > 0 and self._torch.cuda.is_available() else "cpu"
        if device == "cuda" and spec.gpus < 1:
            self._torch.cuda.set_per_process_memory_fraction(spec.gpus)
        splits = self._splits(spec)
        training = Training(spec, splits, device, self._compiler)
        if not (folder / LAST).exists():
            return training, None
        try:
            last = self._torch.load(folder / LAST, map_location=device, weights_only=True)
            training.load_state_dict(last["training"])
        except Exception as error:  # torch raises much for a damaged file, and does not say what
            log.warning("%s cannot be read, the trial begins anew: %r", folder / LAST, error)
            return Training(spec, splits, device, self._compiler), None
        return training, last["result"]

    def _splits(self, spec: TrialSpec) -> Splits:
        from workers.data import load

        key = f"{spec.dataset.model_dump_json()}/{spec.split_seed}"
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None
            data_root, cache_root = Path(self._config["data_root"]), Path(self._config["cache_root"])
            self._loaded = key, load(spec.dataset, spec.split_seed, data_root, cache_root)
        return self._loaded[1]

    def _save(self, state: dict[str, Any], path: Path) -> None:
        part = path.with_suffix(f".{os.getpid()}.part")
        try:
            self._torch.save(state, part)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
