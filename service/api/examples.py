"""Examples: requests that the OpenAPI document shows. A test sends each of them."""

from __future__ import annotations

from typing import Any

from service.contract.requests import MERGE_PATCH

_SEARCH = {
    "name": "fashion-optimizers",
    "project": "vision",
    "dataset": {"name": "fashion_mnist", "validation_fraction": 0.1},
    "search_space": {
        "optimizer": {
            "choice": [
                {"kind": "sgd", "lr": {"loguniform": [0.001, 1.0]}, "momentum": 0.9, "nesterov": True},
                {"kind": "adam", "lr": {"loguniform": [1e-5, 1e-2]}},
            ]
        },
        "normalization": {"choice": ["batch", "layer", "group"]},
        "batch_size": {"choice": [64, 128, 256]},
    },
    "searcher": {"kind": "tpe", "num_samples": 40},
    "max_epochs": 20,
    "early_stopping": {"kind": "asha", "grace_period": 1, "reduction_factor": 3},
}

SPEC_JSON = {
    "smallest": {
        "summary": "The smallest spec: everything except the name has a default",
        "value": {"name": "first-try"},
    },
    "learning rates": {
        "summary": "24 learning rates of Adam on handwritten digits",
        "value": {
            "name": "digits-lr",
            "search_space": {"optimizer": {"kind": "adam", "lr": {"loguniform": [1e-4, 1e-1]}}},
            "searcher": {"kind": "random", "num_samples": 24},
            "max_epochs": 8,
        },
    },
}
SPEC_YAML = {"search": {"summary": "Two optimizers and three normalizations", "value": _SEARCH}}
CHANGE = {
    "more trials": {
        "summary": "40 trials in total, scheduled before the trials of other experiments",
        "value": {"num_samples": 40, "priority": 10},
    },
    "another end": {
        "summary": "A higher goal, and no limit of slot hours any more",
        "value": {"goal": 0.97, "budget": {"slot_hours": None}},
    },
}
CONTINUATION = {
    "unchanged": {"summary": "As many new trials as the spec of the source requests", "value": {}},
    "twenty more": {
        "summary": "20 new trials with another searcher and budget",
        "value": {
            "name": "second-night",
            "searcher": {"kind": "tpe", "num_samples": 20},
            "budget": {"wall_clock": "8h"},
        },
    },
}

#: The body of a submission.
SPEC_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "An ExperimentSpec as JSON or YAML. Its JSON Schema is at `/api/v1/schema`.",
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/ExperimentSpec"}, "examples": SPEC_JSON},
            "application/yaml": {"schema": {"$ref": "#/components/schemas/ExperimentSpec"}, "examples": SPEC_YAML},
        },
    }
}


def patch_body(schema: dict[str, Any], examples: dict[str, Any], description: str, required: bool) -> dict[str, Any]:
    """The body of a request that is a merge patch."""
    content = {"schema": schema, "examples": examples}
    return {
        "requestBody": {
            "required": required,
            "description": description,
            "content": dict.fromkeys((MERGE_PATCH, "application/json"), content),
        }
    }


CHANGE_BODY = patch_body(
    {"$ref": "#/components/schemas/ControlsPatch"},
    CHANGE,
    "A merge patch (RFC 7396) of the experiment's controls.",
    True,
)
CONTINUATION_BODY = patch_body(
    {"type": "object", "title": "SpecPatch", "description": "A part of an ExperimentSpec."},
    CONTINUATION,
    "A merge patch (RFC 7396) of the source's spec; may be absent.",
    False,
)
