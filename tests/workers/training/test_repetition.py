"""An equal spec and seed give an equal trial, bit for bit; another seed changes every part that draws."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support.trainings import RANDOM_ALL_OVER, curve, recorded, splits, trial
from workers.training.loop import Training


def parameters_of(training: Training) -> Tensor:
    return torch.cat([weight.detach().flatten() for weight in training.model.parameters()])


@pytest.mark.parametrize("space", [{}, RANDOM_ALL_OVER], ids=["plain", "random"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd", "nadam", "adafactor"])
def test_equal_spec_and_seed_give_bit_equal_curves_whatever_the_global_generator(
    space: dict[str, Any], optimizer: str
) -> None:
    spec = trial(**space, optimizer=optimizer)
    torch.manual_seed(1)
    first = curve(Training(spec, splits()), 3)
    torch.manual_seed(2)
    torch.rand(7)
    second = curve(Training(spec, splits()), 3)
    assert first == second
    other = spec.model_copy(update={"seed": spec.seed + 1})
    assert curve(Training(other, splits()), 1) != first[:1]


def test_the_seed_decides_the_first_weights() -> None:
    spec = trial()
    trainings = [Training(spec.model_copy(update={"seed": seed}), splits()) for seed in (5, 5, 6)]
    first, repeated, other = (parameters_of(training) for training in trainings)
    assert torch.equal(first, repeated)
    assert not torch.equal(first, other)


def test_the_seed_decides_the_order_of_the_images() -> None:
    def order(seed: int) -> Tensor:
        training = Training(trial(input_normalization=False).model_copy(update={"seed": seed}), splits())
        recorder = recorded(training)
        training.run_epoch()
        return torch.cat(recorder.trained)

    assert torch.equal(order(5), order(5))
    assert not torch.equal(order(5), order(6))


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_only_shuffling_draws_from_the_trials_generator(flip: float) -> None:
    """The version before shuffled by the same numbers, so that its trials without augmentation still repeat."""
    spec, data = trial(input_normalization=False, augmentation={"horizontal_flip": flip}), splits()
    training, generator = Training(spec, data), torch.Generator().manual_seed(spec.seed)
    recorder = recorded(training)
    for _ in range(3):
        training.run_epoch()
        expected = data.train_images[torch.randperm(len(data.train_images), generator=generator)] / 255
        assert torch.equal(torch.cat(recorder.trained), expected.flip(3) if flip else expected)
        recorder.trained.clear()


class Drawing(nn.Module):
    """Replaces dropout, and records what it draws from torch's global generator."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[float] = []

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.drawn.append(float(torch.rand(())))
        return images


def test_dropout_draws_new_numbers_for_each_batch_epoch_and_seed() -> None:
    def drawn(seed: int) -> list[float]:
        spec = trial(model=RANDOM_ALL_OVER["model"]).model_copy(update={"seed": seed})
        training, drawing = Training(spec, splits()), Drawing()
        names = [name for name, module in training.model.named_modules() if isinstance(module, nn.Dropout)]
        training.model.set_submodule(names[-1], drawing)
        curve(training, 3)
        return drawing.drawn

    first, other = drawn(5), drawn(6)
    assert len(first) == len(set(first)) == 3 * 5
    assert drawn(5) == first
    assert not set(first) & set(other)


def test_the_global_generator_is_restored() -> None:
    before = torch.random.get_rng_state()
    Training(trial(**RANDOM_ALL_OVER), splits()).run_epoch()
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rprop", "asgd"])
@pytest.mark.parametrize("stop", [0, 1, 3])
def test_a_trial_that_resumes_from_a_checkpoint_has_the_curve_of_one_that_never_stopped(
    optimizer: str, stop: int
) -> None:
    spec = trial(max_epochs=5, **RANDOM_ALL_OVER, optimizer=optimizer)
    whole = curve(Training(spec, splits()), 5)
    first = Training(spec, splits())
    before = curve(first, stop)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = Training(spec, splits())
    second.load_state_dict(torch.load(file, weights_only=False))
    assert (second.epoch, second.best_value, second.best_epoch) == (first.epoch, first.best_value, first.best_epoch)
    assert before + curve(second, 5 - stop) == whole


def test_loading_a_checkpoint_copies_it() -> None:
    spec = trial(max_epochs=3)
    first, second = Training(spec, splits()), Training(spec, splits())
    first.run_epoch()
    second.load_state_dict(first.state_dict())
    assert curve(first, 2) == curve(second, 2)
