"""Augmentation: random changes to training images that keep their labels.

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
        0,
        description="Pixels of zero padding on each side before a random crop back to the image's size; 0 turns it "
        "off.",
    )
    horizontal_flip: Strength = Field(0.0, description="Probability of mirroring an image left to right; 0.5 is usual.")
    rotation: Degrees = Field(0.0, description="Largest rotation in either direction, in degrees.")
    translation: Searchable[Annotated[Number, Field(ge=0, lt=1)]] = Field(
        0.0, description="Largest shift in each direction, as a share of the image's side."
    )
    scaling: Searchable[Annotated[Number, Field(ge=0, lt=1)]] = Field(
        0.0, description="Largest relative change of size; factors are drawn from [1 - scaling, 1 + scaling]."
    )
    shear: Searchable[Annotated[Number, Field(ge=0, le=45)]] = Field(
        0.0, description="Largest shear in either direction, in degrees."
    )
    brightness: Strength = Field(
        0.0, description="Largest relative change; factors are drawn from [1 - brightness, 1 + brightness]."
    )
    contrast: Strength = Field(
        0.0, description="Largest relative change; factors are drawn from [1 - contrast, 1 + contrast]."
    )
    sharpness: Strength = Field(
        0.0, description="Largest relative change; factors are drawn from [1 - sharpness, 1 + sharpness]."
    )
    mixup_alpha: Searchable[Annotated[Number, Field(ge=0, le=10)]] = Field(
        0.0,
        description="Alpha of mixup, which mixes pairs of images and labels with a weight from Beta(alpha, alpha); 0 "
        "turns it off (Zhang et al., 2018).",
    )


def _by_name(value: Any) -> Any:
    return {} if value == "none" else value


Augmentation = Annotated[
    AugmentationSpec, BeforeValidator(_by_name, json_schema_input_type=Literal["none"] | AugmentationSpec)
]
