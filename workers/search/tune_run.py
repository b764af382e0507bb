"""The run of Ray Tune: trains trials until the searcher has no more or the search is over.

Owns how Tune is called and what remains of its own files: nothing, since the journal is the state. Tune writes them in
a temporary folder of the driver's machine; no other process reads them. What an attempt that was killed has left is
removed by the next one on the same machine. It must not know MLflow or the service.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any

from search_spaces.experiment import ExperimentSpec
from search_spaces.models import may_be_plugin
from search_spaces.protocol import LaunchConfig
from search_spaces.storage.base import open_storage
from workers.nodes import FIRST_ANSWERS_S, Nodes
from workers.ray_patches import out_of_memory
from workers.search.slot_nodes import SlotNodes
from workers.search.tune_callbacks import TuneCallback
from workers.search.tune_searcher import TuneSearcher
from workers.state.recorder import Recorder
from workers.state.trial_table import Trial
from workers.trial.worker import TrialWorker

#: The fields of the launch config that the process of a trial needs.
OF_LAUNCH = {"storage", "data_root", "cache_root", "marker", "version"}
UNLIMITED = 10**9  # the searcher says when it has no more


def run_trials(
    launch: LaunchConfig,
    spec: ExperimentSpec,
    recorder: Recorder,
    callback: TuneCallback,
    on_last: Callable[[], None],
    nodes: Nodes | None = None,
) -> None:
    """Returns when every trial has ended or `callback.outcome` is set. Raises what Ray raises.

    `on_last` is called when the last trials are handed out. `nodes` are checked before they are used.
    """
    from ray import tune

    _remove_leftovers(launch)
    resources = trial_resources(spec)
    nodes, slot_nodes = nodes or Nodes(launch), SlotNodes()

    def config(trial: Trial) -> dict[str, Any]:
        own = resources if trial.slots == 1 else with_whole_gpu(resources)
        share = own["GPU"] if 0 < own["GPU"] < 1 else 1.0
        of_launch = launch.model_dump(include=OF_LAUNCH)
        node = slot_nodes.choose(trial, callback.slot_nodes(), recorder.table.trials)
        return {**of_launch, "resources": own, "share": share, "selector": nodes.selector(), "node": node}

    while True:
        searcher = TuneSearcher(
            spec,
            recorder,
            open_storage(launch.storage),
            config,
            num_samples=callback.num_samples,
            slots=callback.slots,
            on_last=on_last,
        )
        callback.attach(searcher, nodes, resources)
        if searcher.exhausted():
            return
        nodes.look(FIRST_ANSWERS_S)
        # tune.run, not Tuner: a Tuner pickles searcher and scheduler for a restore, which the journal replaces.
        results_folder = tempfile.TemporaryDirectory(
            prefix=_results_prefix(launch, launch.attempt), dir=_temporary_folder(), ignore_cleanup_errors=True
        )
        with out_of_memory.oom_as_actor_failure(), results_folder as results:
            tune.run(
                TrialWorker,
                name=launch.attempt_id,
                storage_path=results,
                num_samples=UNLIMITED,
                search_alg=searcher,
                scheduler=callback.scheduler,
                callbacks=[callback],
                reuse_actors=not may_be_plugin(spec.search_space.model),  # a plugin may change its process
                raise_on_failed_trial=False,
                trial_dirname_creator=lambda trial: trial.trial_id,
                verbose=0,
            )
        if callback.outcome or searcher.no_more or not searcher.done:
            return
        # Once more for trials that were requested while Tune was shutting down.


def _results_prefix(launch: LaunchConfig, attempt: int) -> str:
    """How the name of the temporary folder of an attempt at the experiment begins."""
    return f"rung-tune-{launch.experiment_id}-a{attempt}-"


def _temporary_folder() -> Path:
    """That of Ray, if it has one of its own: with `rung up`, what a driver that was killed leaves stays in the home."""
    of_ray = Path(os.environ.get("RAY_TMPDIR") or "")
    return of_ray if of_ray.is_absolute() and of_ray.is_dir() else Path(tempfile.gettempdir())


def _remove_leftovers(launch: LaunchConfig) -> None:
    """Remove Tune's files of earlier attempts. Attempts of version 0.1 had them in the experiment's storage."""
    artifacts = open_storage(launch.storage).artifacts
    for attempt in range(1, launch.attempt):
        for temporary in {_temporary_folder(), Path(tempfile.gettempdir())}:
            for folder in temporary.glob(f"{_results_prefix(launch, attempt)}*"):
                shutil.rmtree(folder, ignore_errors=True)
        for artifact in list(artifacts.list(PurePath(f"tune-a{attempt}"))):
            with suppress(OSError):
                artifacts.remove(artifact.name)


def with_whole_gpu(resources: dict[str, float]) -> dict[str, float]:
    """The same with a whole GPU."""
    return resources | {"GPU": 1.0}


def trial_resources(spec: ExperimentSpec) -> dict[str, float]:
    """What each trial holds while it runs, as Ray names it."""
    return {"CPU": float(spec.resources.cpus_per_trial), "GPU": float(spec.resources.gpus or 0)}
