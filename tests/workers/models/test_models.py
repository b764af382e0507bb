"""Models: shapes, capacity, position of the normalization, first weights, and the models of torchvision and plugins."""

from __future__ import annotations

import math
from importlib.metadata import EntryPoint
from typing import Any, get_args

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision import models as torchvision_models

from search_spaces.models import (
    CNN,
    NEVER_DETERMINISTIC,
    VGG,
    Model,
    PluginModel,
    ResNet,
    TorchvisionModel,
    TorchvisionName,
)
from search_spaces.normalization import Batch, Layer, Normalization
from search_spaces.spec import members
from tests.support.families import kinds
from workers.models import adapted, plugins
from workers.models.build import BUILDERS, build_model
from workers.models.layers import NarrowProjection, projection
from workers.models.normalization import Normalizer
from workers.models.resnet import BasicBlock

OURS = [CNN(hidden=32), VGG(width=8, hidden=32), *(ResNet(width=8, depth=depth) for depth in (8, 9, 18, 20))]
LEARNING = [*OURS, *(ResNet(width=8, depth=depth, zero_init_residual=False) for depth in (8, 9, 18, 20))]


def name_of(spec: Any) -> str:
    return f"{spec.kind}{spec.depth}{'' if getattr(spec, 'zero_init_residual', True) else '-full'}"


def weighted(model: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    return [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]


def test_every_member_has_a_builder() -> None:
    assert set(BUILDERS) == set(members(Model))


@pytest.mark.parametrize("normalization", kinds(Normalization))
@pytest.mark.parametrize("spec", OURS, ids=name_of)
@pytest.mark.parametrize(("channels", "side"), [(1, 8), (3, 32), (1, 28)])
def test_our_models_accept_all_normalizations_and_image_sizes(
    spec: Any, normalization: str, channels: int, side: int
) -> None:
    model = build_model(spec, kinds(Normalization)[normalization](), channels, 7, side)
    assert model(torch.rand(2, channels, side, side)).shape == (2, 7)


@pytest.mark.parametrize("normalization", kinds(Normalization))
@pytest.mark.parametrize("spec", LEARNING, ids=name_of)
def test_every_weight_learns(spec: Any, normalization: str) -> None:
    """The first step of gradient descent makes a zero branch nonzero, so that the later ones reach its other layers."""
    torch.manual_seed(0)
    model = build_model(spec, kinds(Normalization)[normalization](), 1, 10, 8)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    images, labels = torch.randn(16, 1, 8, 8), torch.arange(16) % 10
    for _ in range(4):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    assert [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])] == []


@pytest.mark.parametrize("spec", OURS, ids=name_of)
def test_normalization_follows_every_convolution_and_hidden_linear_layer(spec: Any) -> None:
    """The modules are listed in the order of execution."""
    model = build_model(spec, Batch(), 1, 10, 16)
    order: list[nn.Module] = []
    for module in model.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda m, _inputs, _outputs: order.append(m))
    model(torch.rand(4, 1, 16, 16))
    weights = [i for i, module in enumerate(order) if isinstance(module, nn.Conv2d | nn.Linear)]
    *inner, head = weights
    assert all(isinstance(order[i + 1], nn.BatchNorm2d | nn.BatchNorm1d) for i in inner)
    assert all(order[i].bias is None for i in inner)
    assert isinstance(order[head], nn.Linear)
    assert head == len(order) - 1
    bare = build_model(spec, kinds(Normalization)["none"](), 1, 10, 16)
    assert all(layer.bias is not None for layer in weighted(bare))
    assert not any(isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d) for module in bare.modules())


@pytest.mark.parametrize("depth", [8, 9, 14, 18, 20, 32, 44, 56, 110])
def test_the_depth_of_a_residual_network_is_its_number_of_layers_with_weights(depth: int) -> None:
    model = build_model(ResNet(width=2, depth=depth), Batch(), 3, 10, 32)
    counted = [m for m in weighted(model) if not (isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1))]
    assert len(counted) == (9 if depth == 9 else depth)


@pytest.mark.parametrize(
    ("spec", "channels"),
    [
        (CNN(width=3, depth=4), [3, 6, 12, 24]),
        (CNN(width=5, depth=1), [5]),
        (VGG(width=3, depth=5), [3, 3, 6, 6, 12, 12, 24, 24, 24, 24]),
        (ResNet(width=3, depth=9), [3, 6, 6, 6, 12, 24, 24, 24]),
        (ResNet(width=3, depth=18), [*5 * [3], *4 * [6], *4 * [12], *4 * [24]]),
        (ResNet(width=3, depth=14), [*5 * [3], *4 * [6], *4 * [12]]),
    ],
    ids=str,
)
def test_width_and_depth_set_the_channels_of_every_convolution(spec: Any, channels: list[int]) -> None:
    model = build_model(spec, Batch(), 1, 10, 32)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert [m.out_channels for m in convolutions] == channels
    assert [m.in_channels for m in convolutions] == [1, *channels[:-1]]


@pytest.mark.parametrize("cls", [CNN, VGG])
@pytest.mark.parametrize("hidden", [0, 50])
def test_hidden_sets_the_width_of_the_hidden_linear_layer(cls: Any, hidden: int) -> None:
    model = build_model(cls(width=2, hidden=hidden), Batch(), 1, 10, 8)
    linear = [m.out_features for m in model.modules() if isinstance(m, nn.Linear)]
    assert linear == ([hidden, 10] if hidden else [10])


@pytest.mark.parametrize("spec", OURS, ids=name_of)
def test_dropout_drops_its_share_of_the_heads_input_in_training_only(spec: Any) -> None:
    torch.manual_seed(0)
    model = build_model(spec.model_copy(update={"dropout": 0.75}), Batch(), 1, 10, 16)
    inputs: list[torch.Tensor] = []
    model.dropout.register_forward_pre_hook(lambda _m, arguments: inputs.append(arguments[0]))
    model.head.register_forward_pre_hook(lambda _m, arguments: inputs.append(arguments[0]))
    images = torch.randn(64, 1, 16, 16)
    model(images)
    before, after = inputs
    nonzero = before != 0
    assert (after[nonzero] == 0).double().mean().item() == pytest.approx(0.75, abs=0.03)
    kept = after != 0
    torch.testing.assert_close(after[kept], 4 * before[kept])  # keeps the expected sum
    inputs.clear()
    model.eval()(images)
    assert torch.equal(*inputs)


@pytest.mark.parametrize("depth", [9, 20])
def test_a_residual_network_reduces_each_map_to_its_largest_value_or_its_mean(depth: int) -> None:
    model = build_model(ResNet(width=4, depth=depth), Batch(), 1, 10, 16)
    recorded: list[torch.Tensor] = []
    model.body.register_forward_hook(lambda _m, _inputs, maps: recorded.append(maps.flatten(2)))
    model.head.register_forward_pre_hook(lambda _m, inputs: recorded.append(inputs[0]))
    model(torch.randn(8, 1, 16, 16))
    maps, features = recorded
    torch.testing.assert_close(features, maps.max(dim=2).values if depth == 9 else maps.mean(dim=2))


@pytest.mark.parametrize("depth", [9, 18, 20])
def test_a_block_adds_its_branch_to_its_shortcut_before_the_last_relu(depth: int) -> None:
    model = build_model(ResNet(width=4, depth=depth, zero_init_residual=False), Batch(), 1, 10, 16)
    blocks = [module for module in model.modules() if isinstance(module, BasicBlock)]
    assert len(blocks) == {9: 2, 18: 8, 20: 9}[depth]
    for block in blocks:
        assert isinstance(block.last_normalization, nn.BatchNorm2d)
        nn.init.constant_(block.last_normalization.bias, -0.5)  # some sums fall below zero
        images = torch.rand(4, block.first[0].in_channels, 8, 8)
        branch = block.last_normalization(block.last_convolution(block.first(images)))
        added = branch + block.shortcut(images)
        assert added.min() < 0
        torch.testing.assert_close(block(images), added.clamp(min=0))


@pytest.mark.parametrize("spec", [CNN(width=64, hidden=512), VGG(width=64), ResNet(width=64)])
def test_kaiming_gives_each_weight_the_variance_two_over_fan_in(spec: Any) -> None:
    torch.manual_seed(0)
    *inner, head = weighted(build_model(spec, Batch(), 3, 10, 32))
    for layer in inner:
        fan_in = layer.weight[0].numel()
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=0.1)
    assert head.weight.std().item() == pytest.approx(math.sqrt(1 / head.weight.shape[1]), rel=0.1)
    assert head.bias is not None
    assert not head.bias.any()


@pytest.mark.parametrize("normalization", kinds(Normalization))
@pytest.mark.parametrize("depth", [9, 20])
def test_residual_branches_start_at_zero_on_request(normalization: str, depth: int) -> None:
    def branch_outputs(zero: bool) -> list[float]:
        spec = ResNet(width=8, depth=depth, zero_init_residual=zero)
        model = build_model(spec, kinds(Normalization)[normalization](), 1, 10, 16)
        largest: list[float] = []
        for name, module in model.named_modules():
            if name.endswith("last_normalization"):
                module.register_forward_hook(lambda _m, _i, out: largest.append(out.abs().max().item()))
        model(torch.rand(4, 1, 16, 16))
        return largest

    assert set(branch_outputs(True)) == {0.0}
    assert min(branch_outputs(False)) > 0


def test_torchs_own_initialization_is_kept_on_request() -> None:
    torch.manual_seed(3)
    model = build_model(CNN(initialization="torch", depth=1), Batch(), 1, 10, 8)
    torch.manual_seed(3)
    assert torch.equal(weighted(model)[0].weight, nn.Conv2d(1, 16, 3, bias=False).weight)


def test_a_spec_accepts_the_models_of_the_installed_torchvision() -> None:
    assert list(get_args(TorchvisionName)) == torchvision_models.list_models(module=torchvision_models)
    assert all(adapted.family_of(name) for name in get_args(TorchvisionName))


ONE_OF_EACH_FAMILY = ["densenet121", "efficientnet_b0", "googlenet", "mnasnet0_5", "mobilenet_v3_small"]
ONE_OF_EACH_FAMILY += ["regnet_x_400mf", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_1"]


@pytest.mark.parametrize("name", ONE_OF_EACH_FAMILY)
@pytest.mark.parametrize(("channels", "side"), [(1, 8), (3, 32)])
def test_torchvision_models_accept_small_and_gray_images(name: str, channels: int, side: int) -> None:
    model = build_model(TorchvisionModel(name=name), Batch(), channels, 5, side)
    assert model(torch.rand(2, channels, side, side)).shape == (2, 5)


META_ONLY = ["alexnet", "convnext_tiny", "inception_v3", "maxvit_t", "swin_t", "swin_v2_t", "vgg11", "vgg11_bn"]
META_ONLY += ["vit_b_16", "vit_b_32", "wide_resnet50_2", "resnext50_32x4d"]


@pytest.mark.parametrize("name", META_ONLY)
def test_shapes_of_the_large_torchvision_models(name: str) -> None:
    """On the meta device, which computes shapes only."""
    with torch.device("meta"):
        for channels, side in ((1, 8), (3, 48)):
            model = build_model(TorchvisionModel(name=name), Batch(), channels, 5, side)
            assert model(torch.empty(2, channels, side, side)).shape == (2, 5)


class Recorder(TorchDispatchMode):
    """The names of all operations that run under it, gradients included."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


#: The operations that raise on a GPU, from the documentation of torch.use_deterministic_algorithms.
RAISING = {"_adaptive_avg_pool2d_backward", "adaptive_max_pool2d_backward", "fractional_max_pool2d_backward"}
RAISING |= {"avg_pool3d_backward", "upsample_bilinear2d_backward", "upsample_bicubic2d_backward", "max_unpool2d"}
RAISING |= {"reflection_pad2d_backward", "grid_sampler_2d_backward", "nll_loss2d_forward", "histc", "bincount"}
RAISING |= {"median", "put", "put_", "_embedding_bag_forward_only", "_adaptive_avg_pool3d_backward"}


#: A large and a small image for each model of torchvision: its stem depends on the size.
SIZES = [
    *((spec, side) for spec in OURS for side in (8, 28, 96)),
    *((TorchvisionModel(name=name), side) for name in (*ONE_OF_EACH_FAMILY, *META_ONLY) for side in (28, 96)),
]


@pytest.mark.parametrize(("spec", "side"), SIZES, ids=str)
def test_a_spec_refuses_determinism_for_just_the_models_that_have_no_deterministic_form_on_a_gpu(
    spec: Any, side: int
) -> None:
    """On the meta device, which dispatches the same operations as a GPU and computes nothing."""
    with torch.device("cpu" if getattr(spec, "name", "").startswith("regnet") else "meta"):  # regnet computes its sizes
        model = build_model(spec, Batch(), 3, 10, side).to("meta")
    images, labels = torch.empty(2, 3, side, side, device="meta"), torch.empty(2, dtype=torch.long, device="meta")
    with Recorder() as recorder:
        nn.functional.cross_entropy(model(images), labels).backward()
    assert "convolution_backward" in recorder.names
    refused = isinstance(spec, TorchvisionModel) and spec.name.startswith(NEVER_DETERMINISTIC)
    assert bool(recorder.names & RAISING) == refused


@pytest.mark.parametrize(
    ("name", "inner", "deviation"),
    [("googlenet", "inception3a.branch2.1.conv", 0.01), ("inception_v3", "model.Mixed_6b.branch1x1.conv", 0.1)],
)
def test_torchvision_models_keep_their_own_initialization(name: str, inner: str, deviation: float) -> None:
    torch.manual_seed(0)
    model = build_model(TorchvisionModel(name=name), Batch(), 1, 10, 32)
    assert model.get_submodule(inner).weight.std().item() == pytest.approx(deviation, rel=0.05)


def test_the_stem_reduces_less_for_small_images_only() -> None:
    small = build_model(TorchvisionModel(name="resnet18"), Batch(), 3, 10, 32)
    large = build_model(TorchvisionModel(name="resnet18"), Batch(), 3, 10, 224)
    assert (small.conv1.kernel_size, small.conv1.stride) == ((3, 3), (1, 1))
    assert isinstance(small.maxpool, nn.Identity)
    assert (large.conv1.kernel_size, large.conv1.stride) == ((7, 7), (2, 2))


def test_torchvision_models_refuse_another_normalization() -> None:
    with pytest.raises(ValueError, match="keeps its own normalization"):
        build_model(TorchvisionModel(), Layer(), 3, 10, 32)


def tiny(normalizer: Any, channels: int, classes: int, image_size: int, width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, bias=normalizer.bias),
        normalizer.image(width),
        nn.Flatten(),
        nn.Linear(width * (image_size - 2) ** 2, classes),
    )


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint(name="tiny", value="made_up:tiny", group=plugins.GROUP)
    monkeypatch.setattr(EntryPoint, "load", lambda self: tiny if self.name == "tiny" else None)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point] if group == plugins.GROUP else [])


@pytest.mark.usefixtures("installed")
def test_an_installed_plugin_gets_its_arguments() -> None:
    model = build_model(PluginModel(name="tiny", arguments={"width": 4}), Layer(), 1, 3, 8)
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, 3)
    assert isinstance(model[1], nn.GroupNorm)


@pytest.mark.usefixtures("installed")
def test_the_error_for_an_unknown_plugin_lists_those_installed() -> None:
    message = r"model plugin huge is not installed; installed plugins of the group rung\.models: tiny"
    with pytest.raises(LookupError, match=message):
        build_model(PluginModel(name="huge"), Batch(), 1, 3, 8)


@pytest.mark.parametrize("side", [7, 8])
def test_a_narrow_projection_is_the_convolution_that_it_replaces(side: int) -> None:
    """It keeps the names of its weights, so that what is stored loads."""
    one = projection(4, 8, Normalizer(Batch()), stride=2)
    assert isinstance(one, NarrowProjection)
    other = nn.Conv2d(4, 8, 1, stride=2, bias=one.bias is not None)
    other.load_state_dict(one.state_dict())
    images = torch.randn(5, 4, side, side)
    torch.testing.assert_close(one(images), other(images))
    assert type(projection(8, 16, Normalizer(Batch()), stride=2)) is nn.Conv2d
