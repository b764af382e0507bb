"""The contract of `service.adapters.launcher.Launcher`."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from search_spaces.protocol import LaunchConfig, attempt_id
from service.adapters.launcher import ALIVE, ClusterUnreachableError, JobStatus, Launcher
from service.domain.cluster import Cluster

EXPERIMENT = "k3v9q2mz"


def launch_config(storage: Path, attempt: int = 1) -> LaunchConfig:
    """What a driver needs at its start, its folder in `storage`."""
    return LaunchConfig(
        experiment_id=EXPERIMENT,
        attempt=attempt,
        attempt_id=attempt_id(EXPERIMENT, attempt),
        service_url="http://127.0.0.1:8080",
        token="secret",
        slots=2,
        mlflow_tracking_uri="http://127.0.0.1:5000",
        storage=str(storage / EXPERIMENT),
        data_root=str(storage / "data"),
        cache_root=str(storage / "cache"),
    )


class LauncherContract:
    """Inherit it and define the fixture `launcher`."""

    @pytest.fixture
    def launcher(self) -> Launcher:
        """A launcher whose cluster is reachable and has at least one node."""
        raise NotImplementedError

    def start(self, launcher: Launcher, launch: LaunchConfig) -> None:
        launcher.preload()
        launcher.launch(launch)

    def test_its_threads_end_when_they_are_stopped(self, launcher: Launcher) -> None:
        before = set(threading.enumerate())
        threads = launcher.threads(lambda: False)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.stop()
        for started in set(threading.enumerate()) - before:
            started.join(10)
            assert not started.is_alive()

    def test_a_launched_driver_is_alive(self, launcher: Launcher, tmp_path: Path) -> None:
        launch = launch_config(tmp_path)
        self.start(launcher, launch)
        assert launcher.status(launch.attempt_id) in ALIVE

    def test_each_attempt_is_a_driver_of_its_own(self, launcher: Launcher, tmp_path: Path) -> None:
        first, second = launch_config(tmp_path), launch_config(tmp_path, 2)
        self.start(launcher, first)
        assert launcher.status(second.attempt_id) is JobStatus.UNKNOWN
        self.start(launcher, second)
        assert launcher.status(second.attempt_id) in ALIVE

    def test_an_attempt_id_can_be_used_once(self, launcher: Launcher, tmp_path: Path) -> None:
        launch = launch_config(tmp_path)
        self.start(launcher, launch)
        with pytest.raises(ClusterUnreachableError):
            launcher.launch(launch)
        assert launcher.status(launch.attempt_id) in ALIVE

    def test_a_live_driver_may_be_stopped_twice(self, launcher: Launcher, tmp_path: Path) -> None:
        launch = launch_config(tmp_path)
        self.start(launcher, launch)
        launcher.stop(launch.attempt_id)
        launcher.stop(launch.attempt_id)
        assert launcher.status(launch.attempt_id) is not JobStatus.UNKNOWN

    def test_an_unknown_driver_has_no_status_and_no_log_and_is_stopped_without_error(self, launcher: Launcher) -> None:
        unknown = attempt_id(EXPERIMENT, 7)
        assert launcher.status(unknown) is JobStatus.UNKNOWN
        assert launcher.logs(unknown) == ""
        launcher.stop(unknown)

    def test_the_cluster_has_its_nodes(self, launcher: Launcher) -> None:
        cluster = launcher.cluster()
        assert isinstance(cluster, Cluster)
        assert cluster.nodes
        assert cluster.cpus > 0


class RemoteLauncherContract(LauncherContract):
    """The contract of a launcher whose cluster may be unreachable. Define the method `cut_off` too."""

    def cut_off(self, launcher: Launcher, reachable: bool) -> None:
        """Make the launcher's cluster unreachable, or reachable again."""
        raise NotImplementedError

    def test_every_call_to_an_unreachable_cluster_raises_and_works_again_afterwards(
        self, launcher: Launcher, tmp_path: Path
    ) -> None:
        launch = launch_config(tmp_path)
        self.cut_off(launcher, reachable=False)
        for call in (
            launcher.cluster,
            lambda: launcher.launch(launch),
            lambda: launcher.status(launch.attempt_id),
            lambda: launcher.stop(launch.attempt_id),
            lambda: launcher.logs(launch.attempt_id),
            launcher.trial_nodes,
        ):
            with pytest.raises(ClusterUnreachableError):
                call()
        self.cut_off(launcher, reachable=True)
        launcher.launch(launch)
        assert launcher.status(launch.attempt_id) in ALIVE
