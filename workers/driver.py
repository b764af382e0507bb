"""Driver: the process of one attempt at one experiment.

`python -m workers.driver FOLDER ATTEMPT` is the entry point of a Ray job. Owns the process: its log, its connection to
Ray and its exit status. The attempt itself is in `workers.attempt`.
"""

from __future__ import annotations

import logging
import os
import platform
import sys
from functools import partial

import ray

from search_spaces.layout import NAMES
from search_spaces.models import may_be_plugin
from search_spaces.protocol import LaunchConfig
from search_spaces.storage.base import ExperimentStorage, open_storage, read_document
from search_spaces.stored import read_spec
from workers.attempt import ExperimentAttempt
from workers.nodes import Nodes, not_read, own_version
from workers.packing.gpu_probe import GpuProbe
from workers.ray_patches import startup
from workers.search.tune_run import run_trials, trial_resources
from workers.tracking.tracker import Tracker
from workers.trial import logs
from workers.winner.evaluation import WinnerEvaluation

log = logging.getLogger(__name__)


def main(arguments: list[str]) -> int:
    """Exit status 0: the attempt has completed the experiment, or was stopped on request.

    1: an error ended it, such as a full disk, also if it could report that the experiment is paused; the experiment
    failed; or a later attempt has taken over.
    """
    logging.basicConfig(level=logging.INFO, format=logs.FORMAT)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("ray.tune.analysis").setLevel(logging.ERROR)  # it looks for result files, which we do not write
    storage, attempt = open_storage(arguments[0]), int(arguments[1])
    with logs.process_log(storage.artifacts, NAMES.driver_log(attempt)):
        launch = _read_launch(storage, arguments[0], attempt)
        spec = read_spec(read_document(storage.artifacts, NAMES.spec))
        startup.prepare(launch.slots)
        ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), log_to_driver=False, logging_level=logging.WARNING)
        nodes = Nodes(launch)
        attempted = ExperimentAttempt(
            launch,
            spec,
            partial(run_trials, nodes=nodes),
            GpuProbe(nodes),
            lambda decided: WinnerEvaluation(
                trial_resources(decided), nodes, reused=not may_be_plugin(spec.search_space.model)
            ),
            lambda superseded: Tracker(launch, spec, storage, superseded=superseded),
        )
        return 0 if attempted.run() else 1


def _read_launch(storage: ExperimentStorage, address: str, attempt: int) -> LaunchConfig:
    """What the service has just written. Without it, the log is the only way to tell what is wrong."""
    try:
        launch = LaunchConfig.model_validate_json(read_document(storage.artifacts, NAMES.launch_config(attempt)))
    except OSError as error:
        found = not_read(address, str(error.filename or address), error)
        log.error("node %s %s", platform.node(), found)
        sys.exit(1)
    return launch.model_copy(update={"version": launch.version or own_version()})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
