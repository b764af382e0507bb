"""Normalization layers against their definitions: axes, running statistics, a batch of one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from search_spaces.normalization import Batch, Group, Instance, Layer, NoNormalization, Normalization, NormalizationSpec
from search_spaces.spec import members
from tests.support.families import kinds
from workers.models.normalization import MAKERS, Normalizer

N, C, SIDE, GROUPS, EPS = 5, 6, 4, 3, 1e-3

#: One spec of each kind.
SPECS: dict[str, NormalizationSpec] = {
    "batch": Batch(eps=EPS, momentum=0.3),
    "layer": Layer(eps=EPS),
    "instance": Instance(eps=EPS),
    "group": Group(eps=EPS, groups=GROUPS),
    "none": NoNormalization(),
}


def standardized(values: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    mean = values.mean(axis=axes, keepdims=True)
    return (values - mean) / np.sqrt(values.var(axis=axes, keepdims=True) + EPS)


def expected_maps(kind: str, maps: np.ndarray) -> np.ndarray:
    if kind == "none":
        return maps
    if kind == "group":
        return standardized(maps.reshape(len(maps), GROUPS, C // GROUPS, SIDE, SIDE), (2, 3, 4)).reshape(maps.shape)
    return standardized(maps, {"batch": (0, 2, 3), "layer": (1, 2, 3), "instance": (2, 3)}[kind])


def expected_vectors(kind: str, vectors: np.ndarray) -> np.ndarray:
    if kind == "none":
        return vectors
    if kind == "group":
        return standardized(vectors.reshape(len(vectors), GROUPS, C // GROUPS), (2,)).reshape(vectors.shape)
    return standardized(vectors, {"batch": (0,), "layer": (1,), "instance": (1,)}[kind])


def random_values(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(3, 2, shape)


def scaled(layer: nn.Module) -> nn.Module:
    """The layer in float64, its scale 2 and its shift -1 if it has them."""
    for name, parameter in layer.named_parameters():
        nn.init.constant_(parameter, 2.0 if name == "weight" else -1.0)
    return layer.double()


@pytest.mark.parametrize("kind", kinds(Normalization))
@pytest.mark.parametrize("samples", [N, 1])
def test_maps_are_normalized_over_the_defined_axes(kind: str, samples: int) -> None:
    maps = random_values(samples, C, SIDE, SIDE)
    layer = scaled(Normalizer(SPECS[kind]).image(C))
    want = expected_maps(kind, maps) if kind == "none" else 2 * expected_maps(kind, maps) - 1
    np.testing.assert_allclose(layer(torch.from_numpy(maps)).detach().numpy(), want, rtol=1e-9)


@pytest.mark.parametrize("kind", kinds(Normalization))
def test_vectors_are_normalized_over_the_defined_axes(kind: str) -> None:
    vectors = random_values(N, C)
    layer = scaled(Normalizer(SPECS[kind]).vector(C))
    want = expected_vectors(kind, vectors) if kind == "none" else 2 * expected_vectors(kind, vectors) - 1
    np.testing.assert_allclose(layer(torch.from_numpy(vectors)).detach().numpy(), want, rtol=1e-9)


def test_batch_normalization_evaluates_with_running_statistics() -> None:
    layer = Normalizer(SPECS["batch"]).image(C).double()
    mean, variance = np.zeros(C), np.ones(C)
    for step in range(4):
        maps = random_values(N, C, SIDE, SIDE) + step
        layer(torch.from_numpy(maps))
        mean = 0.7 * mean + 0.3 * maps.mean(axis=(0, 2, 3))
        variance = 0.7 * variance + 0.3 * maps.var(axis=(0, 2, 3), ddof=1)
    sample = random_values(1, C, SIDE, SIDE)
    expected = (sample - mean[:, None, None]) / np.sqrt(variance[:, None, None] + EPS)
    np.testing.assert_allclose(layer.eval()(torch.from_numpy(sample)).detach().numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("kind", sorted(set(kinds(Normalization)) - {"batch"}))
def test_without_batch_statistics_evaluation_and_the_rest_of_the_batch_make_no_difference(kind: str) -> None:
    layer = Normalizer(SPECS[kind]).image(C)
    maps = torch.from_numpy(random_values(N, C, SIDE, SIDE)).float()
    in_batch, single = layer(maps), layer.eval()(maps[2:3])
    torch.testing.assert_close(in_batch[2:3], single)


def test_every_kind_has_its_layers() -> None:
    assert set(MAKERS) == set(members(Normalization))
    assert set(SPECS) == set(kinds(Normalization))


def test_layers_need_a_bias_only_without_normalization() -> None:
    assert {kind for kind, spec in SPECS.items() if Normalizer(spec).bias} == {"none"}


def test_the_error_for_groups_that_do_not_divide_has_both_values() -> None:
    with pytest.raises(ValueError, match=r"must divide the number of channels \(got 4 and 6\)"):
        Normalizer(Group(groups=4)).image(6)
    with pytest.raises(ValueError, match=r"must divide the number of hidden features .* \(got 6 and 6\)"):
        Normalizer(Group(groups=6)).vector(6)
