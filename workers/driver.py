"""Driver: the process of one attempt at one experiment.

`python -m workers.driver FOLDER ATTEMPT` is the entry point of a Ray job. Owns the process: its log, its connection to
Ray and its exit status. The attempt itself is in `workers.attempt`.
"""

from __future__ import annotations

import logging
import os
import sys

import ray

from search_spaces.layout import NAMES
from search_spaces.protocol import LaunchConfig
from search_spaces.storage.base import open_storage
from search_spaces.stored import read_spec
from workers.attempt import ExperimentAttempt
from workers.ray_patches import startup
from workers.search.tune_run import run_trials, trial_resources
from workers.tracking.tracker import Tracker
from workers.trial import logs
from workers.winner.evaluation import WinnerEvaluation


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
        with storage.artifacts.open_reader(NAMES.launch_config(attempt)) as file:
            launch = LaunchConfig.model_validate_json(file.read())
        with storage.artifacts.open_reader(NAMES.spec) as file:
            spec = read_spec(file.read())
        startup.prepare(launch.slots)
        ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), log_to_driver=False, logging_level=logging.WARNING)
        attempted = ExperimentAttempt(
            launch,
            spec,
            run_trials,
            WinnerEvaluation(trial_resources(spec)),
            lambda superseded: Tracker(launch, spec, storage, superseded=superseded),
        )
        return 0 if attempted.run() else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
