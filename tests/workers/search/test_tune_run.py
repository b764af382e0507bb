"""The run of Ray Tune, without a cluster: what attempts that were killed have left."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from search_spaces.protocol import TrialState
from tests.support.searches import Search
from tests.support.workers import BuildLaunch, BuildSpec
from workers.search.tune_run import run_trials


@pytest.mark.parametrize("of_ray", [False, True])
def test_what_killed_attempts_left_is_removed(
    search: Callable[..., Search],
    experiment: BuildSpec,
    launch: BuildLaunch,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    of_ray: bool,
) -> None:
    """Also the files that version 0.1 had in the experiment's folder. The search itself has ended."""
    temporary = tmp_path / "tmp"
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "usual" if of_ray else temporary))
    monkeypatch.setenv("RAY_TMPDIR", str(temporary) if of_ray else "")
    kept = {"rung-tune-abc-a12-x", "rung-tune-abcd-a1-x", "other"}
    for name in ("rung-tune-abc-a1-x", "rung-tune-abc-a2-y", *kept):
        (temporary / name / "trial").mkdir(parents=True)
    for attempt in (1, 3):
        (tmp_path / f"tune-a{attempt}").mkdir()
        (tmp_path / f"tune-a{attempt}" / "result.json").write_text("{}")
    one = {"kind": "random", "num_samples": 1}
    now = search(searcher=one)
    now.recorder.record_suggestion(0, {}, {})
    now.recorder.record_end(0, TrialState.COMPLETED, "done")
    run_trials(launch(attempt=3), experiment(searcher=one), now.recorder, now.callback, lambda: None)
    assert {path.name for path in temporary.iterdir()} == kept
    assert [path.parent.name for path in tmp_path.rglob("result.json")] == ["tune-a3"]
