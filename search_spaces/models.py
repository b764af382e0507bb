"""Models: the networks that may be searched, their width, depth and regularization.

The torch code of each kind is in `workers/models/`; a parity test fails when one half is missing.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from search_spaces.domains import Choice, Integer, Number, Searchable
from search_spaces.spec import Discriminated, KindShorthand, Spec, field_error

Width = Annotated[
    Searchable[Annotated[Integer, Field(ge=1, le=1024)]],
    Field(description="Number of channels of the first stage, from which the later ones follow."),
]
Hidden = Annotated[
    Searchable[Annotated[Integer, Field(ge=0, le=4096)]],
    Field(description="Number of features of the hidden linear layer; 0 for no such layer."),
]
Dropout = Searchable[Annotated[Number, Field(ge=0, lt=1)]]


#: torchvision's classification models; a parity test compares the list with the installed torchvision.
TorchvisionName = Literal[
    "alexnet",
    "convnext_base",
    "convnext_large",
    "convnext_small",
    "convnext_tiny",
    "densenet121",
    "densenet161",
    "densenet169",
    "densenet201",
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_b2",
    "efficientnet_b3",
    "efficientnet_b4",
    "efficientnet_b5",
    "efficientnet_b6",
    "efficientnet_b7",
    "efficientnet_v2_l",
    "efficientnet_v2_m",
    "efficientnet_v2_s",
    "googlenet",
    "inception_v3",
    "maxvit_t",
    "mnasnet0_5",
    "mnasnet0_75",
    "mnasnet1_0",
    "mnasnet1_3",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "regnet_x_16gf",
    "regnet_x_1_6gf",
    "regnet_x_32gf",
    "regnet_x_3_2gf",
    "regnet_x_400mf",
    "regnet_x_800mf",
    "regnet_x_8gf",
    "regnet_y_128gf",
    "regnet_y_16gf",
    "regnet_y_1_6gf",
    "regnet_y_32gf",
    "regnet_y_3_2gf",
    "regnet_y_400mf",
    "regnet_y_800mf",
    "regnet_y_8gf",
    "resnet101",
    "resnet152",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "resnext50_32x4d",
    "shufflenet_v2_x0_5",
    "shufflenet_v2_x1_0",
    "shufflenet_v2_x1_5",
    "shufflenet_v2_x2_0",
    "squeezenet1_0",
    "squeezenet1_1",
    "swin_b",
    "swin_s",
    "swin_t",
    "swin_v2_b",
    "swin_v2_s",
    "swin_v2_t",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
    "vit_b_16",
    "vit_b_32",
    "vit_h_14",
    "vit_l_16",
    "vit_l_32",
    "wide_resnet101_2",
    "wide_resnet50_2",
]


#: Families that pool adaptively to a map of several cells, whose gradient has no deterministic form on a GPU.
NEVER_DETERMINISTIC = ("alexnet", "vgg")


class ModelSpec(Spec):
    """What Rung's own networks share.

    `width_fields` name the fields that set how many channels a normalization layer sees, `hidden_fields` those that set
    the features of a hidden linear layer, where 0 means no such layer.
    """

    width_fields: ClassVar[tuple[str, ...]] = ("width",)
    hidden_fields: ClassVar[tuple[str, ...]] = ()

    dropout: Dropout = Field(
        0.0, description="Probability of dropping a feature before the last layer in training; 0 turns dropout off."
    )
    initialization: Searchable[Literal["kaiming", "torch"]] = Field(
        "kaiming",
        description="Distribution of the first weights: `kaiming` keeps the variance through ReLU (He et al., 2015), "
        "and `torch` is PyTorch's default of each layer.",
    )


class CNN(ModelSpec):
    """`depth` 3x3 convolutions, doubling from `width` channels, halving the image after each, then linear layers."""

    hidden_fields: ClassVar[tuple[str, ...]] = ("hidden",)
    kind: Literal["cnn"] = "cnn"
    width: Width = 16
    depth: Searchable[Annotated[Integer, Field(ge=1, le=6)]] = Field(2, description="Number of convolutions.")
    hidden: Hidden = 0


class ResNet(ModelSpec):
    """Residual networks for small images (He et al., 2016).

    depth 9: Page's ResNet-9 (DAWNBench, 2018); 18: four stages of two basic blocks; 6n + 2 (20, 32,
    44, 56, 110): three stages of n basic blocks. `width` is the channels of the first stage.
    """

    kind: Literal["resnet"] = "resnet"
    width: Width = 16
    depth: Searchable[Literal[9, 18, 8, 14, 20, 32, 44, 56, 110]] = Field(
        9, description="Number of layers with weights, which selects the architecture (He et al., 2016)."
    )
    zero_init_residual: Searchable[Annotated[bool, Field(strict=True)]] = Field(
        True,
        description="Whether the last layer of every residual branch starts at zero, so that each block starts "
        "as the identity.",
    )


class VGG(ModelSpec):
    """A plain network: `depth` stages of two 3x3 convolutions and a pooling (Simonyan and Zisserman, 2015)."""

    hidden_fields: ClassVar[tuple[str, ...]] = ("hidden",)
    kind: Literal["vgg"] = "vgg"
    width: Width = 32
    depth: Searchable[Annotated[Integer, Field(ge=1, le=5)]] = Field(
        3, description="Number of stages, each of two convolutions and a pooling."
    )
    hidden: Hidden = 128


class TorchvisionModel(Spec):
    """A classification model of torchvision, by name, trained from scratch; stem and head fit the data set.

    It keeps its own normalization layers: `normalization` must be left at its default. AlexNet and VGG models
    cannot be used with `execution.deterministic` unless trials use no GPU.
    """

    kind: Literal["torchvision"] = "torchvision"
    name: Searchable[TorchvisionName] = Field("resnet18", description="Name of the model in torchvision.")


class PluginModel(Spec):
    """Your own model: an entry point of the group `rung.models` in the workers' installation."""

    #: Arguments that every plugin is called with. A spec must not give them too.
    GIVEN: ClassVar[tuple[str, ...]] = ("normalizer", "channels", "classes", "image_size")

    kind: Literal["plugin"] = "plugin"
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] = Field(description="Name of the entry point.")
    arguments: dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")], Searchable[Any]] = Field(
        default_factory=dict, description="Keyword arguments of the function that builds the model, at most 32."
    )

    @model_validator(mode="after")
    def _few(self) -> PluginModel:
        if len(self.arguments) > 32:
            raise field_error("arguments", "must have at most 32 entries")
        return self


Model = Annotated[CNN | ResNet | VGG | TorchvisionModel | PluginModel, Discriminated, KindShorthand]


def may_be_plugin(model: Any) -> bool:
    """Whether a model of a search space is a plugin, or may become one."""
    return any(isinstance(one, PluginModel) for one in (model.choice if isinstance(model, Choice) else (model,)))
