"""GPU types: how nodes and specs name the kind of GPU that a node has."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag

#: The label of a node with the type of its GPUs, such as H100. Ray sets it by itself where it recognizes them.
GPU_TYPE_LABEL = "ray.io/accelerator-type"
MAX_GPU_TYPES = 8
MAX_CHARACTERS = 63  # of a label's value in Ray
#: Between several types in one text: no type contains it.
SEPARATOR = ","

GpuType = Annotated[str, Field(pattern=rf"^[A-Za-z0-9]([A-Za-z0-9_.-]{{0,{MAX_CHARACTERS - 2}}}[A-Za-z0-9])?$")]


def _form(value: Any) -> str | None:
    return "one" if isinstance(value, str) else "several" if isinstance(value, list | tuple) else None


#: One type, or several that are allowed.
GpuTypes = Annotated[
    Annotated[GpuType, Tag("one")]
    | Annotated[tuple[GpuType, ...], Field(min_length=1, max_length=MAX_GPU_TYPES), Tag("several")],
    Discriminator(
        _form,
        custom_error_type="gpu_types",
        custom_error_message=f"must be a GPU type, or a list of at most {MAX_GPU_TYPES}",
    ),
]


def in_words(gpu_types: Collection[str]) -> str:
    """`GPU type A100 or H100`, for sentences about a node."""
    return f"GPU type {' or '.join(sorted(gpu_types))}"
