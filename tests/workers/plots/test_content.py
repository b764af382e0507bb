"""Plots: they are written as a PNG, and they show what training computes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from search_spaces.augmentation import AugmentationSpec
from search_spaces.datasets import Digits
from search_spaces.optimizers import SGD, Optimizer
from search_spaces.schedulers import Cosine, Plateau, Scheduler
from search_spaces.spec import members
from workers.data.splits import load
from workers.plots import content, figures
from workers.plots.figures import Cells


def check(plot: Path) -> np.ndarray:
    """The PNG's pixels."""
    with Image.open(plot) as opened:
        pixels = np.asarray(opened.convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 5, "the plot is empty"
    return pixels


def test_every_scheduler_is_drawn(tmp_path: Path) -> None:
    check(content.schedulers([cls() for cls in members(Scheduler)], epochs=6, batches=5, out=tmp_path))


def test_rates_are_those_of_the_closed_form(tmp_path: Path) -> None:
    times, values = content.rates(Cosine(), 10, 20, 0.4)
    assert len(times) == len(values) == 200
    assert values == pytest.approx([0.4 * (1 + math.cos(math.pi * time / 10)) / 2 for time in times])


@pytest.mark.parametrize("mode", ["max", "min"])
def test_a_plateau_lowers_the_rate_in_the_plot_after_a_third_of_the_epochs(mode: content.Mode) -> None:
    times, values = content.rates(Plateau(factor=0.5, patience=1), 12, 4, 1.0, mode)
    assert {value for time, value in zip(times, values, strict=True) if time < 4} == {1.0}
    assert values[-1] < 1.0
    assert set(values) <= {0.5**power for power in range(12)}


@pytest.mark.parametrize("cls", members(Optimizer))
def test_every_optimizer_has_a_path(cls: type) -> None:
    points = content.descent(cls(lr=1e-3), 2)
    assert points[0] == content.START
    assert len(points) > 1


def test_a_path_follows_the_formula() -> None:
    (x, y), after = content.descent(SGD(lr=1e-3, momentum=0.0, nesterov=False), 1)
    slope = (-2 * (1 - x) - 400 * x * (y - x**2), 200 * (y - x**2))
    assert after == pytest.approx((x - 1e-3 * slope[0], y - 1e-3 * slope[1]))


def test_all_classic_optimizers_descend(tmp_path: Path) -> None:
    start = content.rosenbrock(*content.START)
    for name, spec in content.CLASSIC_OPTIMIZERS:
        assert content.rosenbrock(*content.descent(spec, 300)[-1]) < start / 5, name
    check(content.optimizers(tmp_path, steps=10, specs=content.CLASSIC_OPTIMIZERS[:2]))


#: Whether a value shares one mean and deviation with the marked corner. There are 4 images (to the right), 6 channels
#: (to the back) and 5 pixels (downwards).
SHARING: dict[str, Callable[[int, int, int], bool]] = {
    "batch: over N, H, W": lambda image, channel, pixel: channel == 0,
    "layer: over C, H, W": lambda image, channel, pixel: image == 3,
    "instance: over H, W": lambda image, channel, pixel: image == 3 and channel == 0,
    "group: over C/2, H, W": lambda image, channel, pixel: image == 3 and channel < 3,
    "none": lambda image, channel, pixel: False,
}


def test_each_normalization_marks_the_values_that_share_statistics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, list[Cells]] = {}
    blocks = figures.blocks

    def record(panels: Sequence[tuple[str, list[Cells]]], *rest: Any) -> Path:
        drawn.update(panels)
        return blocks(panels, *rest)

    monkeypatch.setattr(figures, "blocks", record)
    pixels = check(content.normalization(tmp_path))
    assert list(drawn) == list(SHARING)
    for name, shares in SHARING.items():
        faces: dict[str, list[bool]] = {"top": [], "side": [], "front": []}
        for cell in drawn[name]:
            x, y = np.mean(cell.corners, axis=0)
            # The value (image, channel, pixel) is drawn at (image + channel / 2, 0.35 channel - pixel).
            if cell.face == "front":
                place = int(x), 0, int(-y)
            elif cell.face == "top":
                channel = int(y / 0.35)
                place = int(x - 0.5 * (channel + 0.5)), channel, 0
            else:
                channel = int((x - 4) / 0.5)
                place = 3, channel, int(0.35 * (channel + 0.5) - y)
            assert cell.marked == shares(*place), (name, cell)
            faces[cell.face].append(cell.marked)
        assert {face: len(marks) for face, marks in faces.items()} == {"top": 24, "side": 30, "front": 20}
    marked = np.array([int(figures.FACES["front"][1][place : place + 2], 16) for place in (1, 3, 5)])
    batch, *others, none = [int((strip == marked).all(-1).sum()) for strip in np.array_split(pixels, 5, axis=1)]
    assert none == 0
    assert [batch / area for area in others] == pytest.approx([4.0, 4.0, 4.0], rel=0.1)  # 4 images to 1


def test_a_sheet_shows_images_and_their_changed_copies(tmp_path: Path) -> None:
    splits = load(Digits(), 0, tmp_path, tmp_path / "cache")
    spec = AugmentationSpec(crop_padding=1, rotation=20.0, contrast=0.4, mixup_alpha=0.2)
    before = torch.random.get_rng_state()
    pixels = check(content.augmentation(spec, splits, tmp_path / "changed"))
    plain = check(content.augmentation(AugmentationSpec(), splits, tmp_path / "plain"))
    again = check(content.augmentation(spec, splits, tmp_path / "again"))
    assert np.array_equal(pixels, again), "the same seed gave another sheet"
    assert not np.array_equal(pixels, plain)
    assert torch.equal(torch.random.get_rng_state(), before), "torch's global generator was used"
