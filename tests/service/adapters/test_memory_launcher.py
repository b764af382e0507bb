"""The launcher of the tests keeps the contract of the real one."""

from __future__ import annotations

import pytest

from service.adapters.launcher import Launcher
from tests.support.contracts.launcher import RemoteLauncherContract
from tests.support.memory_launcher import MemoryLauncher


class TestMemoryLauncher(RemoteLauncherContract):
    @pytest.fixture
    def launcher(self) -> MemoryLauncher:
        return MemoryLauncher()

    def cut_off(self, launcher: Launcher, reachable: bool) -> None:
        assert isinstance(launcher, MemoryLauncher)
        launcher.unreachable = not reachable
