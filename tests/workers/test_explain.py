"""Pictures: that they are written, whole, offline, and drawn from what training uses."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from search_spaces.augmentation import AugmentationSpec
from search_spaces.datasets import Digits
from search_spaces.optimizers import SGD, Optimizer
from search_spaces.schedulers import Cosine, Plateau, Scheduler
from search_spaces.spec import members
from workers import explain
from workers.data import load


def check(paths: list[Path]) -> np.ndarray:
    """The PNG's pixels; the page must hold its own script and fetch none."""
    png, html = paths
    page = html.read_text()
    assert "Plotly.newPlot" in page
    assert '<script src="http' not in page
    with Image.open(png) as opened:
        pixels = np.asarray(opened.convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 5, "an empty picture"
    return pixels


def test_every_scheduler_is_drawn(tmp_path: Path) -> None:
    check(explain.schedulers([cls() for cls in members(Scheduler)], epochs=6, batches=5, out=tmp_path))


def test_rates_are_those_of_the_closed_form(tmp_path: Path) -> None:
    times, values = explain.rates(Cosine(), 10, 20, 0.4)
    assert len(times) == len(values) == 200
    assert values == pytest.approx([0.4 * (1 + math.cos(math.pi * time / 10)) / 2 for time in times])


def test_a_plateau_is_seen_to_act() -> None:
    _, values = explain.rates(Plateau(factor=0.5, patience=1), 12, 4, 1.0)
    assert values[0] == 1.0
    assert values[-1] < 1.0
    assert set(values) <= {0.5**power for power in range(12)}


@pytest.mark.parametrize("cls", members(Optimizer))
def test_every_optimizer_has_a_path(cls: type) -> None:
    points = explain.descent(cls(lr=1e-3), 2)
    assert points[0] == explain.START
    assert len(points) > 1


def test_a_path_follows_the_formula() -> None:
    (x, y), after = explain.descent(SGD(lr=1e-3, momentum=0.0, nesterov=False), 1)
    slope = (-2 * (1 - x) - 400 * x * (y - x**2), 200 * (y - x**2))
    assert after == pytest.approx((x - 1e-3 * slope[0], y - 1e-3 * slope[1]))


def test_the_optimizers_that_are_drawn_all_descend(tmp_path: Path) -> None:
    start = explain.rosenbrock(*explain.START)
    for name, spec in explain.RACERS:
        assert explain.rosenbrock(*explain.descent(spec, 300)[-1]) < start / 5, name
    check(explain.optimizers(tmp_path, steps=10, specs=explain.RACERS[:2]))


def test_normalization_is_drawn(tmp_path: Path) -> None:
    check(explain.normalization(tmp_path))


def test_a_sheet_shows_real_images_beside_changed_ones(tmp_path: Path) -> None:
    splits = load(Digits(), 0, tmp_path, tmp_path / "cache")
    spec = AugmentationSpec(crop_padding=1, rotation=20.0, contrast=0.4, mixup_alpha=0.2)
    before = torch.random.get_rng_state()
    pixels = check(explain.augmentation(spec, splits, tmp_path / "changed"))
    plain = check(explain.augmentation(AugmentationSpec(), splits, tmp_path / "plain"))
    again = check(explain.augmentation(spec, splits, tmp_path / "again"))
    assert np.array_equal(pixels, again), "the same seed, the same sheet"
    assert not np.array_equal(pixels, plain)
    assert torch.equal(torch.random.get_rng_state(), before), "torch's own generator is left alone"
