"""Augmentation: random changes to training images that keep their labels (course L17, L18).

Parameters are drawn for each image, on the device. Validation and test images are never changed. Everything is off
unless it is given.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from search_spaces.domains import Integer, Number, Searchable
from search_spaces.spec import Spec

Strength = Searchable[Annotated[Number, Field(ge=0, le=1)]]
Degrees = Searchable[Annotated[Number, Field(ge=0, le=180)]]


class AugmentationSpec(Spec):
    """Strengths of the transforms; 0 turns one off."""

    crop_padding: Searchable[Annotated[Integer, Field(ge=0, le=64)]] = Field(
        0, description="pixels of zero padding on each side before a random crop back to size"
    )
    horizontal_flip: Strength = Field(0.0, description="probability of mirroring an image; the course uses 0.5")
    rotation: Degrees = Field(0.0, description="largest rotation either way, in degrees")
    translation: Searchable[Annotated[Number, Field(ge=0, lt=1)]] = Field(
        0.0, description="largest shift, as a share of the image's side"
    )
    scaling: Searchable[Annotated[Number, Field(ge=0, lt=1)]] = Field(
        0.0, description="factors are drawn from [1 - s, 1 + s]"
    )
    shear: Searchable[Annotated[Number, Field(ge=0, le=45)]] = Field(0.0, description="largest shear, in degrees")
    brightness: Strength = Field(0.0, description="factors are drawn from [1 - b, 1 + b]")
    contrast: Strength = Field(0.0, description="factors are drawn from [1 - c, 1 + c]")
    sharpness: Strength = Field(0.0, description="factors are drawn from [1 - s, 1 + s]")
    mixup_alpha: Searchable[Annotated[Number, Field(ge=0, le=10)]] = Field(
        0.0, description="images and labels are mixed with lambda ~ Beta(alpha, alpha) (Zhang et al., 2018)"
    )


def _by_name(value: Any) -> Any:
    return {} if value == "none" else value


Augmentation = Annotated[
    AugmentationSpec, BeforeValidator(_by_name, json_schema_input_type=Literal["none"] | AugmentationSpec)
]
