"""Augmentation against torchvision's functional transforms: image by image, with the same parameters."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as oracle

from search_spaces.augmentation import AugmentationSpec
from tests.support.trainings import recorded, splits, trial
from workers.training import augment
from workers.training.augment import Augmentation, EpochAugmentation
from workers.training.loop import Training
from workers.training.mixers import MIXERS, beta
from workers.training.random_streams import random_stream
from workers.training.transforms import TRANSFORMS, Photometric

CROP_FLIP = AugmentationSpec(crop_padding=3, horizontal_flip=0.5)
AFFINE = AugmentationSpec(rotation=30.0, translation=0.2, scaling=0.3, shear=15.0)
COLOUR = AugmentationSpec(brightness=0.6, contrast=0.7, sharpness=0.9)
ALL = AugmentationSpec(
    crop_padding=2,
    horizontal_flip=0.5,
    rotation=25.0,
    translation=0.1,
    scaling=0.2,
    shear=10.0,
    brightness=0.4,
    contrast=0.4,
    sharpness=0.5,
)
SIZES = [(1, 8), (1, 28), (3, 32), (3, 15)]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images_of(n: int, channels: int, size: int, seed: int = 1) -> Tensor:
    return torch.rand((n, channels, size, size), generator=generator(seed))


def epoch(spec: AugmentationSpec, images: int, size: int, seed: int = 0) -> EpochAugmentation:
    return Augmentation(spec, size, "cpu").epoch(images, partial(random_stream, seed, 1))


def mixup(images: Tensor, targets: Tensor, alpha: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    return epoch(AugmentationSpec(mixup_alpha=alpha), len(images), images.shape[-1], seed).mix(images, targets)


def per_image(drawn: EpochAugmentation, index: int) -> dict[str, float]:
    """The parameters of one image, by the names that the functions below use."""
    values = {field: rows[:, index].tolist() for field, rows in drawn.parameters.items()}
    parameters = {field: rows[0] for field, rows in values.items()}
    if "crop_padding" in values:
        parameters["crop_top"], parameters["crop_left"] = values["crop_padding"]
    if "translation" in values:
        parameters["translate_x"], parameters["translate_y"] = values["translation"]
    return parameters


def crop_and_flip(image: Tensor, drawn: dict[str, float], padding: int) -> Tensor:
    size = image.shape[-1]
    if "crop_top" in drawn:
        image = oracle.crop(oracle.pad(image, [padding] * 4), drawn["crop_top"], drawn["crop_left"], size, size)
    return oracle.horizontal_flip(image) if drawn.get("horizontal_flip") else image


def affine_arguments(drawn: dict[str, float]) -> dict[str, object]:
    return {
        "angle": drawn.get("rotation", 0.0),
        "translate": [drawn.get("translate_x", 0.0), drawn.get("translate_y", 0.0)],
        "scale": drawn.get("scaling", 1.0),
        "shear": [drawn.get("shear", 0.0), 0.0],
        "interpolation": InterpolationMode.BILINEAR,
    }


def moved_at_once(image: Tensor, drawn: dict[str, float], padding: int) -> Tensor:
    """Crop, flip and affine transform with one interpolation, on a canvas so large that no step cuts anything off."""
    size, border = image.shape[-1], 2 * image.shape[-1]
    canvas = oracle.pad(image, [border] * 4)
    top = border - padding + drawn.get("crop_top", padding)
    left = border - padding + drawn.get("crop_left", padding)
    if drawn.get("horizontal_flip"):
        canvas, left = oracle.horizontal_flip(canvas), canvas.shape[-1] - left - size
    canvas = oracle.affine(canvas, **affine_arguments(drawn), center=[left + size / 2, top + size / 2])
    return oracle.crop(canvas, int(top), int(left), size, size)


def colored(image: Tensor, drawn: dict[str, float]) -> Tensor:
    for name, adjust in (
        ("brightness", oracle.adjust_brightness),
        ("contrast", oracle.adjust_contrast),
        ("sharpness", oracle.adjust_sharpness),
    ):
        if name in drawn:
            image = adjust(image, drawn[name])
    return image


@pytest.mark.parametrize(("channels", "size"), SIZES)
def test_crop_and_flip_equal_torchvisions_bit_for_bit(channels: int, size: int) -> None:
    images = images_of(64, channels, size)
    drawn = epoch(CROP_FLIP, 64, size)
    result = drawn.change(images)
    for index in range(64):
        assert torch.equal(result[index], crop_and_flip(images[index], per_image(drawn, index), 3))


@pytest.mark.parametrize("spec", [AugmentationSpec(crop_padding=2), AugmentationSpec(horizontal_flip=0.5)])
def test_crop_and_flip_equal_torchvisions_without_each_other(spec: AugmentationSpec) -> None:
    images = images_of(32, 3, 10)
    drawn = epoch(spec, 32, 10)
    expected = [crop_and_flip(images[i], per_image(drawn, i), spec.crop_padding) for i in range(32)]
    assert torch.equal(drawn.change(images), torch.stack(expected))


@pytest.mark.parametrize(("channels", "size"), SIZES)
def test_affine_equals_torchvisions(channels: int, size: int) -> None:
    images = images_of(32, channels, size)
    drawn = epoch(AFFINE, 32, size)
    expected = [oracle.affine(images[i], **affine_arguments(per_image(drawn, i))) for i in range(32)]
    torch.testing.assert_close(drawn.change(images), torch.stack(expected), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("channels", "size"), SIZES)
def test_crop_flip_and_affine_interpolate_once(channels: int, size: int) -> None:
    images = images_of(32, channels, size)
    spec = AFFINE.model_copy(update={"crop_padding": 3, "horizontal_flip": 0.5})
    drawn = epoch(spec, 32, size)
    expected = [moved_at_once(images[i], per_image(drawn, i), 3) for i in range(32)]
    torch.testing.assert_close(drawn.change(images), torch.stack(expected), atol=2e-4, rtol=0)


def test_one_interpolation_equals_separate_steps_inside_the_crop_window() -> None:
    images = images_of(64, 1, 28)
    spec = AFFINE.model_copy(update={"crop_padding": 3, "horizontal_flip": 0.5})
    drawn = epoch(spec, 64, 28)
    result, compared = drawn.change(images), 0
    for index in range(64):
        parameters = per_image(drawn, index)
        separate = oracle.affine(crop_and_flip(images[index], parameters, 3), **affine_arguments(parameters))
        inside = oracle.affine(torch.ones(1, 28, 28), **affine_arguments(parameters)) > 0.9999
        torch.testing.assert_close(result[index][inside], separate[inside], atol=2e-4, rtol=0)
        compared += int(inside.sum())
    assert compared > 64 * 28 * 28 / 3


@pytest.mark.parametrize(("channels", "size"), SIZES)
@pytest.mark.parametrize("name", ["brightness", "contrast", "sharpness"])
def test_each_color_change_equals_torchvisions(name: str, channels: int, size: int) -> None:
    images = images_of(32, channels, size)
    drawn = epoch(AugmentationSpec(**{name: 1.0}), 32, size)
    expected = [colored(images[i], per_image(drawn, i)) for i in range(32)]
    torch.testing.assert_close(drawn.change(images), torch.stack(expected), atol=1e-6, rtol=0)


def test_sharpness_does_not_change_images_of_two_pixels() -> None:
    images = images_of(4, 1, 2)
    assert torch.equal(epoch(AugmentationSpec(sharpness=1.0), 4, 2).change(images), images)


@settings(max_examples=15, deadline=None)
@given(
    channels=st.sampled_from([1, 3]),
    size=st.integers(3, 20),
    seed=st.integers(0, 2**31),
    strengths=st.fixed_dictionaries(
        {
            "crop_padding": st.integers(0, 5),
            "horizontal_flip": st.sampled_from([0.0, 0.5, 1.0]),
            "rotation": st.sampled_from([0.0, 20.0, 180.0]),
            "translation": st.sampled_from([0.0, 0.3]),
            "scaling": st.sampled_from([0.0, 0.5]),
            "shear": st.sampled_from([0.0, 20.0]),
            "brightness": st.floats(0, 1),
            "contrast": st.floats(0, 1),
            "sharpness": st.floats(0, 1),
        }
    ),
)
def test_any_combination_equals_torchvisions(channels: int, size: int, seed: int, strengths: dict[str, float]) -> None:
    spec = AugmentationSpec(**strengths)
    images = images_of(6, channels, size, seed)
    drawn = epoch(spec, 6, size, seed)
    expected = []
    for index in range(6):
        parameters = per_image(drawn, index)
        interpolated = {"rotation", "translation", "scaling", "shear"} & set(parameters)
        move = moved_at_once if interpolated else crop_and_flip
        expected.append(colored(move(images[index], parameters, spec.crop_padding), parameters))
    torch.testing.assert_close(drawn.change(images), torch.stack(expected), atol=1e-3, rtol=0)


def test_without_transforms_the_same_images_are_returned() -> None:
    spec, images = AugmentationSpec(mixup_alpha=0.4), images_of(4, 1, 8)
    assert not Augmentation(spec, 8, "cpu").changes_images
    assert epoch(spec, 4, 8).change(images) is images


@pytest.mark.parametrize("spec", [CROP_FLIP, AFFINE, COLOUR, ALL])
def test_the_callers_images_are_not_changed(spec: AugmentationSpec) -> None:
    images = images_of(16, 3, 12)
    before = images.clone()
    epoch(spec, 16, 12).change(images)
    assert torch.equal(images, before)


@pytest.mark.parametrize("spec", [CROP_FLIP, AFFINE, COLOUR, ALL])
def test_channels_last_gives_the_same_values_and_stays_channels_last(spec: AugmentationSpec) -> None:
    images = images_of(16, 3, 12)
    drawn = epoch(spec, 16, 12)
    plain = drawn.change(images)
    last = drawn.change(images.contiguous(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(plain, last, atol=1e-6, rtol=0)


def test_the_same_seed_gives_the_same_images() -> None:
    images = images_of(16, 3, 12)
    first, same, other = (epoch(ALL, 16, 12, seed).change(images) for seed in (5, 5, 6))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("spec", [CROP_FLIP, AFFINE, COLOUR, ALL])
def test_the_batch_size_does_not_change_an_epochs_images(spec: AugmentationSpec) -> None:
    images = images_of(16, 3, 12)
    drawn = epoch(spec, 16, 12)
    in_batches = [drawn.change(images[start : start + 6], start) for start in (0, 6, 12)]
    torch.testing.assert_close(torch.cat(in_batches), drawn.change(images), atol=1e-6, rtol=0)


def test_parameters_differ_between_the_images_of_a_batch() -> None:
    for field, rows in epoch(ALL, 256, 28).parameters.items():
        for row in rows:
            expected = {"horizontal_flip": 2, "crop_padding": 5}.get(field, 250)
            assert len(row.unique()) >= expected, f"{field}: {len(row.unique())} values among 256 images"
    same = images_of(1, 1, 28).expand(64, -1, -1, -1)
    assert len({image.numpy().tobytes() for image in epoch(ALL, 64, 28).change(same)}) == 64


def test_parameters_are_uniform_over_their_ranges() -> None:
    drawn = epoch(ALL, 20_000, 28)
    ranges = {
        "rotation": (-25, 25),
        "translation": (-2.8, 2.8),
        "scaling": (0.8, 1.2),
        "shear": (-10, 10),
        "brightness": (0.6, 1.4),
        "contrast": (0.6, 1.4),
        "sharpness": (0.5, 1.5),
    }
    for name, (low, high) in ranges.items():
        for values in drawn.parameters[name]:
            assert low - 1e-4 <= values.min() <= values.max() <= high + 1e-4
            assert stats.kstest(values.numpy(), "uniform", (low, high - low)).pvalue > 1e-4, name
    for offsets in drawn.parameters["crop_padding"]:
        counts = torch.bincount(offsets, minlength=5)
        assert len(counts) == 5
        assert stats.chisquare(counts.numpy()).pvalue > 1e-4
    assert abs(drawn.parameters["horizontal_flip"].float().mean().item() - 0.5) < 0.02


def test_transforms_draw_independently_of_each_other() -> None:
    """Two transforms with one seed must not draw the same numbers."""
    rows = torch.cat([row[None].float() for rows in epoch(ALL, 4096, 28).parameters.values() for row in rows])
    correlation = torch.corrcoef(rows).fill_diagonal_(0)
    assert correlation.abs().max() < 0.1


def test_each_epoch_and_seed_draws_other_numbers() -> None:
    spec = AugmentationSpec(rotation=20.0)
    drawn = [
        Augmentation(spec, 8, "cpu").epoch(64, partial(random_stream, seed, number)).parameters["rotation"]
        for seed, number in ((0, 1), (0, 2), (1, 1), (1, 2))
    ]
    assert len({rows.numpy().tobytes() for rows in drawn}) == 4


@pytest.mark.parametrize("field", ["rotation", "brightness", "mixup_alpha"])
def test_turning_a_transform_on_does_not_change_the_draws_of_the_others(field: str) -> None:
    without, with_it = (epoch(spec, 64, 28) for spec in (CROP_FLIP, CROP_FLIP.model_copy(update={field: 0.5})))
    for other, rows in without.parameters.items():
        assert torch.equal(rows, with_it.parameters[other])


class Inverted(Photometric):
    """A transform that a later version might add: it inverts images with a probability."""

    field: ClassVar[str] = "inversion"

    def parameters(self, uniform: Tensor) -> Tensor:
        return uniform < self.strength

    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:
        return torch.where(parameters[0][:, None, None, None], 1 - images, images)


class LaterSpec(AugmentationSpec):
    inversion: float = 0.0


@pytest.mark.parametrize("place", [0, len(TRANSFORMS)])
def test_adding_a_transform_changes_no_trial_that_does_not_use_it(place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batches of a trial before and after the addition are equal bit for bit."""
    strengths = ALL.model_dump() | {"crop_padding": 1, "mixup_alpha": 0.3}

    def batches(spec: AugmentationSpec) -> list[Tensor]:
        bound = trial()
        space = bound.hyperparameters.model_copy(update={"augmentation": spec})
        training = Training(bound.model_copy(update={"hyperparameters": space}), splits())
        recorder = recorded(training)
        training.run_epoch()
        return recorder.trained

    before = batches(AugmentationSpec(**strengths))
    monkeypatch.setattr(augment, "TRANSFORMS", (*TRANSFORMS[:place], Inverted, *TRANSFORMS[place:]))
    after, inverted = batches(LaterSpec(**strengths)), batches(LaterSpec(**strengths, inversion=0.5))
    assert all(torch.equal(first, second) for first, second in zip(before, after, strict=True))
    equal = [torch.equal(first, second) for first, second in zip(before, inverted, strict=True)]
    assert not any(equal), "the new transform has no effect"


def test_every_field_of_the_spec_has_its_transform() -> None:
    assert sorted(AugmentationSpec.model_fields) == sorted(cls.field for cls in (*TRANSFORMS, *MIXERS))


def test_mixup_follows_its_definition() -> None:
    images, targets = images_of(64, 1, 6), torch.eye(64)
    mixed, mixed_targets = mixup(images, targets, 0.4)
    for index in range(64):
        row = mixed_targets[index]
        partner = next((j for j in row.nonzero()[:, 0].tolist() if j != index), index)
        share = row[index] if partner != index else torch.tensor(1.0)
        assert row.sum().item() == pytest.approx(1, abs=1e-6)
        expected = share * images[index] + (1 - share) * images[partner]
        torch.testing.assert_close(mixed[index], expected, atol=1e-6, rtol=0)
    shares = mixed_targets.diagonal()
    assert len(shares.unique()) > 40, "lambda must be drawn for each pair, not for the batch"


def test_every_image_is_a_partner_once() -> None:
    _, targets = mixup(images_of(32, 1, 4), torch.eye(32), 1.0)
    torch.testing.assert_close(targets.sum(dim=0) + targets.sum(dim=1), targets.sum(dim=0) + 1)
    without_self = targets - torch.diag(targets.diagonal())
    assert (without_self > 0).sum(dim=0).max() <= 1


def test_mixup_with_alpha_0_changes_nothing_and_otherwise_depends_on_the_seed() -> None:
    images, targets = images_of(8, 1, 4), torch.eye(8)
    assert mixup(images, targets, 0.0)[0] is images
    first, same, other = (mixup(images, targets, 0.3, seed) for seed in (2, 2, 3))
    assert torch.equal(first[0], same[0])
    assert torch.equal(first[1], same[1])
    assert not torch.equal(first[1], other[1])


def test_mixup_draws_other_numbers_for_each_batch_of_an_epoch() -> None:
    drawn = epoch(AugmentationSpec(mixup_alpha=0.3), 16, 4)
    images, targets = images_of(8, 1, 4), torch.eye(8)
    assert not torch.equal(drawn.mix(images, targets)[1], drawn.mix(images, targets)[1])


@pytest.mark.parametrize("alpha", [0.05, 0.2, 1.0, 4.0])
def test_lambda_is_beta_distributed(alpha: float) -> None:
    drawn = beta(20_000, alpha, generator()).numpy()
    low = drawn[drawn < 0.5]  # small alphas put many values near 0 and 1; float64 resolves only those near 0
    assert abs(len(low) / len(drawn) - 0.5) < 0.02
    assert stats.kstest(low, lambda x: 2 * stats.beta(alpha, alpha).cdf(x)).pvalue > 1e-4
    assert np.allclose(
        np.quantile(drawn[drawn >= 0.5], [0.1, 0.5, 0.9]), 1 - np.quantile(low, [0.9, 0.5, 0.1]), atol=0.02
    )


@pytest.mark.parametrize("alpha", [0.2, 4.0])
def test_mixup_draws_from_the_distribution_of_its_alpha(alpha: float) -> None:
    n = 3000
    _, targets = mixup(torch.zeros(n, 1, 1, 1), torch.eye(n), alpha)
    shares = targets.diagonal().double().numpy()
    low = shares[shares < 0.5]  # as above
    assert stats.kstest(low, lambda x: 2 * stats.beta(alpha, alpha).cdf(x)).pvalue > 1e-4


def test_a_tiny_alpha_gives_no_nan() -> None:
    drawn = beta(100_000, 1e-4, generator())
    assert bool(((drawn >= 0) & (drawn <= 1)).all())
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.02)
