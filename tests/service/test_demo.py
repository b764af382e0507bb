"""The demo cleans up behind itself, however often Ctrl-C is pressed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from service import demo, stack


@pytest.fixture
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("interrupted", [True, False])
def test_the_end_is_not_interrupted(monkeypatch: pytest.MonkeyPatch, handlers: None, interrupted: bool) -> None:
    stopped = []

    @contextmanager
    def running(options: stack.Options) -> Iterator[Any]:
        try:
            yield SimpleNamespace(addresses=stack.Addresses(1, "http://127.0.0.1:9", "", "", ""))
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                os.kill(os.getpid(), number)
            stopped.append(options.home)

    def search(*_: Any) -> bool:
        if interrupted:
            raise KeyboardInterrupt
        return True

    monkeypatch.setattr(stack, "running", running)
    monkeypatch.setattr(demo, "_search", search)
    monkeypatch.setenv("DEMO_EXIT", "1")
    assert demo.main() == (1 if interrupted else 0)
    assert len(stopped) == 1
    assert not stopped[0].exists()
