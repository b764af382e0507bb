"""The finalist's work without Ray: pictures of the spec; and a driver that does without them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from search_spaces.experiment import ExperimentSpec
from search_spaces.protocol import Launch
from workers import driver
from workers.finalist import Judge


def test_pictures_of_the_spec(tmp_path: Path) -> None:
    spec = ExperimentSpec.model_validate({"name": "x", "search_space": {"augmentation": {"rotation": 9.0}}})
    judge: Any = Judge.__new__(Judge)  # without the imports that `judge` needs
    drawn = judge.illustrate(spec, tmp_path / "pictures", tmp_path, tmp_path / "cache")
    assert {path.name for path in drawn} == {
        f"{stem}.{kind}" for stem in ("schedulers", "augmentation") for kind in ("png", "html")
    }
    assert set(drawn) == set((tmp_path / "pictures").iterdir())


def test_an_experiment_without_pictures_is_none_the_worse(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    launch = Launch(
        experiment_id="x", attempt=1, attempt_id="exp-x-a1", service_url="http://nowhere", token="t", slots=1,
        mlflow_tracking_uri="http://nowhere", storage=str(tmp_path), data_root=str(tmp_path), cache_root=str(tmp_path),
    )  # fmt: skip
    attached: list[Path] = []

    class Finalist:
        def __init__(self, draw: Callable[[Path], None]) -> None:
            self._draw = draw

        def illustrate(self, spec: ExperimentSpec, out: Path, *roots: Any) -> None:
            self._draw(out)

    class Tracker:
        def attach(self, folder: Path) -> None:
            attached.append(folder)

    def fail(out: Path) -> None:
        raise RuntimeError("no fonts")

    tracker: Any = Tracker()
    for draw in (fail, Path.mkdir):
        finalist: Any = Finalist(draw)
        driver._illustrate(launch, ExperimentSpec(name="x"), tracker, finalist)
    assert "no fonts" in caplog.text
    assert attached == [tmp_path / "pictures"], "what failed attached nothing"
