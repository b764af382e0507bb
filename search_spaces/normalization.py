"""Normalization layers: which axes a network normalizes its signals over.

The layer stands after every convolution and every hidden linear layer, before the activation.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from search_spaces.domains import Integer, Number, Searchable
from search_spaces.spec import Discriminated, KindShorthand, Spec


class NormalizationSpec(Spec):
    eps: Searchable[Annotated[Number, Field(gt=0, le=1)]] = Field(
        1e-5, description="Number added to the variance, for numerical stability; it has no effect for `none`."
    )


class Batch(NormalizationSpec):
    """Per channel over (N, H, W); running statistics at evaluation (Ioffe and Szegedy, 2015)."""

    kind: Literal["batch"] = "batch"
    momentum: Searchable[Annotated[Number, Field(gt=0, le=1)]] = Field(
        0.1, description="Weight of the newest minibatch in the running statistics."
    )


class Layer(NormalizationSpec):
    """Per sample over (C, H, W); works at a batch size of one (Ba et al., 2016)."""

    kind: Literal["layer"] = "layer"


class Instance(NormalizationSpec):
    """Per sample and channel over (H, W) (Ulyanov et al., 2016)."""

    kind: Literal["instance"] = "instance"


class Group(NormalizationSpec):
    """Per sample over (C/groups, H, W) (Wu and He, 2018)."""

    kind: Literal["group"] = "group"
    groups: Searchable[Annotated[Integer, Field(ge=1)]] = Field(
        8, description="Number of groups; must divide the model's width."
    )


class NoNormalization(NormalizationSpec):
    """Convolutions keep their biases and nothing is normalized."""

    kind: Literal["none"] = "none"


Normalization = Annotated[Batch | Layer | Instance | Group | NoNormalization, Discriminated, KindShorthand]
