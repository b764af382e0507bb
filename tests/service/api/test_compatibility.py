"""Requests of version 0.1.0 are still accepted, and its clients still find every field of the responses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

#: Of each operation of 0.1.0: its parameters (`in:name`, with `!` if required), media types and fields of the body,
#: and the fields of its responses.
OLD: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "stored" / "api-0.1.0.json").read_text())
#: Fields of version 1 specs that version 2 accepts but no longer describes.
UPGRADED = {"asha"}


@pytest.fixture
def document(client: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/api/v1/openapi.json").json()
    return found


def resolve(document: dict[str, Any], schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The alternatives of a schema, without references."""
    if "$ref" in schema:
        return resolve(document, document["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    alternatives = schema.get("anyOf") or schema.get("oneOf")
    return [one for part in alternatives for one in resolve(document, part)] if alternatives else [schema]


def fields(document: dict[str, Any], content: dict[str, Any]) -> set[str]:
    schema = content.get("application/json", {}).get("schema", {})
    return {name for one in resolve(document, schema) for name in one.get("properties", ())}


def test_every_old_request_is_still_accepted(document: dict[str, Any]) -> None:
    for name, old in OLD.items():
        method, path = name.split()
        operation = document["paths"][path][method.lower()]
        parameters = (
            {f"{one['in']}:{one['name']}": one.get("required", False) for one in operation["parameters"]}
            if ("parameters" in operation)
            else {}
        )
        assert {one.removesuffix("!") for one in old["parameters"]} <= set(parameters), name
        required = {one for one, is_required in parameters.items() if is_required}
        assert required <= {one.removesuffix("!") for one in old["parameters"] if one.endswith("!")}, name
        if "content_types" in old:
            content = operation["requestBody"]["content"]
            assert set(old["content_types"]) <= set(content), name
            assert set(old.get("fields", ())) - UPGRADED <= fields(document, content), name
            schemas = resolve(document, content["application/json"]["schema"])
            assert {one for schema in schemas for one in schema.get("required", ())} <= set(old.get("required", ())), (
                name
            )


def test_every_old_field_of_a_response_is_still_there(document: dict[str, Any]) -> None:
    for name, old in OLD.items():
        method, path = name.split()
        responses = document["paths"][path][method.lower()]["responses"]
        for status, expected in old["responses"].items():
            assert set(expected) <= fields(document, responses[status]["content"]), (name, status)


def test_a_spec_of_version_1_is_accepted_as_it_was(client: httpx.Client) -> None:
    spec = {
        "version": 1,
        "name": "fashion-optimizers",
        "dataset": {"name": "fashion_mnist", "validation_fraction": 0.1},
        "search_space": {"optimizer": {"choice": [{"kind": "sgd", "lr": 0.1}, {"kind": "adam"}]}},
        "searcher": {"kind": "tpe", "num_samples": 40},
        "asha": {"max_t": 20, "grace_period": 1, "reduction_factor": 3},
        "objective": {"metric": "validation_accuracy", "mode": "max", "goal": 0.95},
    }
    response = client.post("/api/v1/experiments", json=spec)
    assert response.status_code == 201, response.text
