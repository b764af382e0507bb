"""How long a start may take: as long as something progresses, up to a limit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from service.stack.patience import LONGEST_S, QUIET_S, Activity, Patience

IDLE = Activity(cpu_s=3.0, processes=frozenset({1}), log_bytes=10)


class Start:
    """A process that is asked every second whether it is ready."""

    def __init__(self) -> None:
        self.now = 0.0
        self.activity = IDLE
        self._patience = Patience(lambda: self.activity, lambda: self.now)

    def wait(self, seconds: float, answer: str = "none") -> str | None:
        why = None
        for _ in range(int(seconds)):
            self.now += 1
            why = why or self._patience.exhausted(answer)
        return why


def test_the_wait_for_a_process_that_does_nothing_ends() -> None:
    start = Start()
    assert start.wait(QUIET_S) is None
    assert start.wait(3) == f"without progress for {QUIET_S + 1:.0f} s"


@pytest.mark.parametrize(
    "progress",
    [{"cpu_s": 4.0}, {"processes": frozenset({1, 2})}, {"log_bytes": 11}],
    ids=["CPU time", "processes", "log"],
)
def test_progress_extends_the_wait(progress: dict[str, object]) -> None:
    start = Start()
    assert start.wait(QUIET_S - 5) is None
    start.activity = replace(start.activity, **progress)  # type: ignore[arg-type]  # one field of its type
    assert start.wait(QUIET_S - 5) is None
    assert start.wait(20) is not None


def test_another_answer_is_progress() -> None:
    start = Start()
    assert start.wait(QUIET_S - 5, "refused") is None
    assert start.wait(QUIET_S - 5, "503") is None
    assert start.wait(20, "503") is not None


def test_a_little_cpu_time_is_no_progress() -> None:
    start = Start()
    for _ in range(int(QUIET_S)):
        start.activity = replace(start.activity, cpu_s=start.activity.cpu_s + 0.005)
        assert start.wait(1) is None
    assert start.wait(5) is not None


def test_progress_without_an_end_is_not_waited_for() -> None:
    start = Start()
    why = None
    while why is None:
        start.activity = replace(start.activity, cpu_s=start.activity.cpu_s + 30)
        why = start.wait(60)
    assert start.now <= LONGEST_S + 61
    assert "not ready within" in why
