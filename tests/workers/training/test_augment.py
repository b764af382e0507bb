"""Augmentation against torchvision's functional transforms, image by image with the same parameters."""

from __future__ import annotations

import dataclasses

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
from workers.training.augment import Augmentation, Parameters, beta, mixup

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


def pictures(n: int, channels: int, size: int, seed: int = 1) -> Tensor:
    return torch.rand((n, channels, size, size), generator=generator(seed))


def per_image(parameters: Parameters, index: int) -> dict[str, float]:
    values = {field.name: getattr(parameters, field.name) for field in dataclasses.fields(parameters)}
    return {name: value[index].item() for name, value in values.items() if value is not None}


def crop_and_flip(image: Tensor, drawn: dict[str, float], padding: int) -> Tensor:
    size = image.shape[-1]
    if "crop_top" in drawn:
        image = oracle.crop(oracle.pad(image, [padding] * 4), drawn["crop_top"], drawn["crop_left"], size, size)
    return oracle.horizontal_flip(image) if drawn.get("mirrored") else image


def affine_arguments(drawn: dict[str, float]) -> dict[str, object]:
    return {
        "angle": drawn["rotation"],
        "translate": [drawn["translate_x"], drawn["translate_y"]],
        "scale": drawn["scale"],
        "shear": [drawn["shear"], 0.0],
        "interpolation": InterpolationMode.BILINEAR,
    }


def moved_at_once(image: Tensor, drawn: dict[str, float], padding: int) -> Tensor:
    """Crop, flip and affine with one interpolation: on a canvas so large that nothing is cut off between them."""
    size, border = image.shape[-1], 2 * image.shape[-1]
    canvas = oracle.pad(image, [border] * 4)
    top = border - padding + drawn.get("crop_top", padding)
    left = border - padding + drawn.get("crop_left", padding)
    if drawn.get("mirrored"):
        canvas, left = oracle.horizontal_flip(canvas), canvas.shape[-1] - left - size
    canvas = oracle.affine(canvas, **affine_arguments(drawn), center=[left + size / 2, top + size / 2])
    return oracle.crop(canvas, int(top), int(left), size, size)


def coloured(image: Tensor, drawn: dict[str, float]) -> Tensor:
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
    images = pictures(64, channels, size)
    augmentation = Augmentation(CROP_FLIP, size, "cpu")
    drawn = augmentation.draw(64, generator())
    result = augmentation.apply(images, drawn)
    for index in range(64):
        assert torch.equal(result[index], crop_and_flip(images[index], per_image(drawn, index), 3))


@pytest.mark.parametrize("spec", [AugmentationSpec(crop_padding=2), AugmentationSpec(horizontal_flip=0.5)])
def test_crop_alone_and_flip_alone(spec: AugmentationSpec) -> None:
    images = pictures(32, 3, 10)
    augmentation = Augmentation(spec, 10, "cpu")
    drawn = augmentation.draw(32, generator())
    expected = [crop_and_flip(images[i], per_image(drawn, i), spec.crop_padding) for i in range(32)]
    assert torch.equal(augmentation.apply(images, drawn), torch.stack(expected))


@pytest.mark.parametrize(("channels", "size"), SIZES)
def test_affine_equals_torchvisions(channels: int, size: int) -> None:
    images = pictures(32, channels, size)
    augmentation = Augmentation(AFFINE, size, "cpu")
    drawn = augmentation.draw(32, generator())
    expected = [oracle.affine(images[i], **affine_arguments(per_image(drawn, i))) for i in range(32)]
    torch.testing.assert_close(augmentation.apply(images, drawn), torch.stack(expected), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("channels", "size"), SIZES)
def test_crop_flip_and_affine_are_one_resampling(channels: int, size: int) -> None:
    images = pictures(32, channels, size)
    spec = AFFINE.model_copy(update={"crop_padding": 3, "horizontal_flip": 0.5})
    augmentation = Augmentation(spec, size, "cpu")
    drawn = augmentation.draw(32, generator())
    expected = [moved_at_once(images[i], per_image(drawn, i), 3) for i in range(32)]
    torch.testing.assert_close(augmentation.apply(images, drawn), torch.stack(expected), atol=2e-4, rtol=0)


def test_one_resampling_equals_the_steps_in_turn_wherever_the_crop_window_reaches() -> None:
    images = pictures(64, 1, 28)
    spec = AFFINE.model_copy(update={"crop_padding": 3, "horizontal_flip": 0.5})
    augmentation = Augmentation(spec, 28, "cpu")
    drawn = augmentation.draw(64, generator())
    result, compared = augmentation.apply(images, drawn), 0
    for index in range(64):
        mine = per_image(drawn, index)
        in_turn = oracle.affine(crop_and_flip(images[index], mine, 3), **affine_arguments(mine))
        reached = oracle.affine(torch.ones(1, 28, 28), **affine_arguments(mine)) > 0.9999
        torch.testing.assert_close(result[index][reached], in_turn[reached], atol=2e-4, rtol=0)
        compared += int(reached.sum())
    assert compared > 64 * 28 * 28 / 3


@pytest.mark.parametrize(("channels", "size"), SIZES)
@pytest.mark.parametrize("name", ["brightness", "contrast", "sharpness"])
def test_each_colour_change_equals_torchvisions(name: str, channels: int, size: int) -> None:
    images = pictures(32, channels, size)
    augmentation = Augmentation(AugmentationSpec(**{name: 1.0}), size, "cpu")
    drawn = augmentation.draw(32, generator())
    expected = [coloured(images[i], per_image(drawn, i)) for i in range(32)]
    torch.testing.assert_close(augmentation.apply(images, drawn), torch.stack(expected), atol=1e-6, rtol=0)


def test_sharpness_leaves_images_of_two_pixels_alone() -> None:
    images = pictures(4, 1, 2)
    assert torch.equal(Augmentation(AugmentationSpec(sharpness=1.0), 2, "cpu")(images, generator()), images)


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
    images = pictures(6, channels, size, seed)
    augmentation = Augmentation(spec, size, "cpu")
    if not augmentation.active:
        assert augmentation(images, generator(seed)) is images
        return
    drawn = augmentation.draw(6, generator(seed))
    expected = []
    for index in range(6):
        mine = per_image(drawn, index)
        move = moved_at_once if "rotation" in mine else crop_and_flip
        expected.append(coloured(move(images[index], mine, spec.crop_padding), mine))
    torch.testing.assert_close(augmentation.apply(images, drawn), torch.stack(expected), atol=1e-3, rtol=0)


def test_nothing_asked_for_nothing_done() -> None:
    augmentation = Augmentation(AugmentationSpec(mixup_alpha=0.4), 8, "cpu")
    images, source = pictures(4, 1, 8), generator(3)
    assert not augmentation.active
    assert augmentation(images, source) is images
    assert torch.equal(torch.rand(3, generator=source), torch.rand(3, generator=generator(3)))


@pytest.mark.parametrize("spec", [CROP_FLIP, AFFINE, COLOUR, ALL])
def test_the_callers_images_are_left_alone(spec: AugmentationSpec) -> None:
    images = pictures(16, 3, 12)
    before = images.clone()
    Augmentation(spec, 12, "cpu")(images, generator())
    assert torch.equal(images, before)


@pytest.mark.parametrize("spec", [CROP_FLIP, AFFINE, COLOUR, ALL])
def test_channels_last_gives_the_same_values_and_stays_channels_last(spec: AugmentationSpec) -> None:
    images = pictures(16, 3, 12)
    augmentation = Augmentation(spec, 12, "cpu")
    plain = augmentation(images, generator())
    last = augmentation(images.contiguous(memory_format=torch.channels_last), generator())
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(plain, last, atol=1e-6, rtol=0)


def test_the_same_seed_gives_the_same_images() -> None:
    images = pictures(16, 3, 12)
    augmentation = Augmentation(ALL, 12, "cpu")
    assert torch.equal(augmentation(images, generator(5)), augmentation(images, generator(5)))
    assert not torch.equal(augmentation(images, generator(5)), augmentation(images, generator(6)))


def test_parameters_differ_between_the_images_of_a_batch() -> None:
    drawn = Augmentation(ALL, 28, "cpu").draw(256, generator())
    for field in dataclasses.fields(drawn):
        distinct = len(getattr(drawn, field.name).unique())
        most = {"mirrored": 2, "crop_top": 5, "crop_left": 5}.get(field.name, 250)
        assert distinct >= most, f"{field.name}: {distinct} values among 256 images"
    one = pictures(1, 1, 28).expand(64, -1, -1, -1)
    assert len({image.numpy().tobytes() for image in Augmentation(ALL, 28, "cpu")(one, generator())}) == 64


def test_parameters_are_uniform_over_their_ranges() -> None:
    drawn = Augmentation(ALL, 28, "cpu").draw(20_000, generator())
    ranges = {
        "rotation": (-25, 25),
        "translate_x": (-2.8, 2.8),
        "translate_y": (-2.8, 2.8),
        "scale": (0.8, 1.2),
        "shear": (-10, 10),
        "brightness": (0.6, 1.4),
        "contrast": (0.6, 1.4),
        "sharpness": (0.5, 1.5),
    }
    for name, (low, high) in ranges.items():
        values = getattr(drawn, name)
        assert low - 1e-4 <= values.min() <= values.max() <= high + 1e-4
        assert stats.kstest(values.numpy(), "uniform", (low, high - low)).pvalue > 1e-4, name
    for name in ("crop_top", "crop_left"):
        counts = torch.bincount(getattr(drawn, name), minlength=5)
        assert len(counts) == 5
        assert stats.chisquare(counts.numpy()).pvalue > 1e-4, name
    assert abs(drawn.mirrored.float().mean().item() - 0.5) < 0.02


def test_one_strength_leaves_the_draws_of_the_others() -> None:
    alone = Augmentation(CROP_FLIP, 28, "cpu").draw(64, generator())
    more = Augmentation(CROP_FLIP.model_copy(update={"rotation": 20.0}), 28, "cpu").draw(64, generator())
    assert torch.equal(alone.crop_top, more.crop_top)
    assert torch.equal(alone.mirrored, more.mirrored)


def test_mixup_is_its_definition() -> None:
    images, targets = pictures(64, 1, 6), torch.eye(64)
    mixed, mixed_targets = mixup(images, targets, 0.4, generator())
    for index in range(64):
        row = mixed_targets[index]
        partner = next((j for j in row.nonzero()[:, 0].tolist() if j != index), index)
        share = row[index] if partner != index else torch.tensor(1.0)
        assert row.sum().item() == pytest.approx(1, abs=1e-6)
        expected = share * images[index] + (1 - share) * images[partner]
        torch.testing.assert_close(mixed[index], expected, atol=1e-6, rtol=0)
    shares = mixed_targets.diagonal()
    assert len(shares.unique()) > 40, "one lambda for each pair, not for the batch"


def test_every_image_is_partner_once() -> None:
    _, targets = mixup(pictures(32, 1, 4), torch.eye(32), 1.0, generator())
    torch.testing.assert_close(targets.sum(dim=0) + targets.sum(dim=1), targets.sum(dim=0) + 1)
    without_self = targets - torch.diag(targets.diagonal())
    assert (without_self > 0).sum(dim=0).max() <= 1


def test_mixup_off_and_reproducible() -> None:
    images, targets = pictures(8, 1, 4), torch.eye(8)
    assert mixup(images, targets, 0.0, generator())[0] is images
    first, again = (mixup(images, targets, 0.3, generator(2)) for _ in range(2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])


@pytest.mark.parametrize("alpha", [0.05, 0.2, 1.0, 4.0])
def test_lambda_is_beta_distributed(alpha: float) -> None:
    drawn = beta(20_000, alpha, generator()).numpy()
    low = drawn[drawn < 0.5]  # float64 has no room just below 1, where small alphas put much; near 0 it has
    assert abs(len(low) / len(drawn) - 0.5) < 0.02
    assert stats.kstest(low, lambda x: 2 * stats.beta(alpha, alpha).cdf(x)).pvalue > 1e-4
    assert np.allclose(
        np.quantile(drawn[drawn >= 0.5], [0.1, 0.5, 0.9]), 1 - np.quantile(low, [0.9, 0.5, 0.1]), atol=0.02
    )


@pytest.mark.parametrize("alpha", [0.2, 4.0])
def test_mixup_draws_from_the_distribution_of_its_alpha(alpha: float) -> None:
    n = 3000
    _, targets = mixup(torch.zeros(n, 1, 1, 1), torch.eye(n), alpha, generator())
    shares = targets.diagonal().double().numpy()
    low = shares[shares < 0.5]  # as above
    assert stats.kstest(low, lambda x: 2 * stats.beta(alpha, alpha).cdf(x)).pvalue > 1e-4


def test_a_tiny_alpha_gives_no_nan() -> None:
    drawn = beta(100_000, 1e-4, generator())
    assert bool(((drawn >= 0) & (drawn <= 1)).all())
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.02)
