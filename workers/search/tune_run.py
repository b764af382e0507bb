"""The run of Ray Tune: trains trials until the searcher has no more or the search is over.

Owns how Tune is called and what remains of its own files: nothing, since the journal is the state. Tune writes them in
a temporary folder of the driver's machine; no other process reads them. It must not know MLflow or the service.
"""

from __future__ import annotations

from collections.abc import Callable
from tempfile import TemporaryDirectory

from search_spaces.experiment import ExperimentSpec
from search_spaces.protocol import LaunchConfig
from search_spaces.storage.base import open_storage
from workers.ray_patches import out_of_memory
from workers.search.tune_callbacks import TuneCallback
from workers.search.tune_searcher import TuneSearcher
from workers.state.recorder import Recorder
from workers.trial.worker import TrialWorker

UNLIMITED = 10**9  # the searcher says when it has no more


def run_trials(
    launch: LaunchConfig,
    spec: ExperimentSpec,
    recorder: Recorder,
    callback: TuneCallback,
    on_last: Callable[[], None],
) -> None:
    """Returns when every trial has ended or `callback.outcome` is set. Raises what Ray raises.

    `on_last` is called when the last trials are handed out.
    """
    from ray import tune

    resources = trial_resources(spec)
    while True:
        searcher = TuneSearcher(
            spec,
            recorder,
            open_storage(launch.storage),
            roots={"storage": launch.storage, "data_root": launch.data_root, "cache_root": launch.cache_root},
            num_samples=callback.num_samples,
            slots=callback.slots,
            on_last=on_last,
        )
        callback.attach(searcher)
        if searcher.exhausted():
            return
        # tune.run, not Tuner: a Tuner pickles searcher and scheduler for a restore, which the journal replaces.
        with out_of_memory.oom_as_actor_failure(), TemporaryDirectory(ignore_cleanup_errors=True) as results:
            tune.run(
                TrialWorker,
                name=launch.attempt_id,
                storage_path=results,
                resources_per_trial=tune.PlacementGroupFactory(
                    [{name: share for name, share in resources.items() if share}]
                ),
                num_samples=UNLIMITED,
                search_alg=searcher,
                scheduler=callback.scheduler,
                callbacks=[callback],
                reuse_actors=True,
                raise_on_failed_trial=False,
                trial_dirname_creator=lambda trial: trial.trial_id,
                verbose=0,
            )
        if callback.outcome or not searcher.done:
            return
        # Once more for trials that were requested while Tune was shutting down.


def trial_resources(spec: ExperimentSpec) -> dict[str, float]:
    """What each trial holds while it runs, as Ray names it."""
    return {"CPU": float(spec.resources.cpus_per_trial), "GPU": float(spec.resources.gpus_per_trial or 0)}
