"""The OpenAPI document describes every operation, parameter, field, error and header."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import yaml

from search_spaces.validation import validate
from service.api import examples

EXPERIMENTS = "/api/v1/experiments"
#: Clients are generated from these names, so that changing one breaks them.
OPERATION_IDS = {
    "archive_experiment",
    "archive_team",
    "cancel_experiment",
    "cancel_trial",
    "change_experiment",
    "change_grant",
    "change_password",
    "change_pool",
    "change_user",
    "compare_experiments",
    "continue_experiment",
    "create_pool",
    "create_team",
    "create_token",
    "create_user",
    "create_webhook",
    "delete_experiment",
    "delete_pool",
    "delete_webhook",
    "enable_webhook",
    "examine_nodes",
    "examine_parts",
    "exchange_token",
    "list_audit",
    "list_budgets",
    "list_deliveries",
    "list_experiments",
    "list_grants",
    "list_pools",
    "list_presets",
    "list_teams",
    "list_tokens",
    "list_trials",
    "list_users",
    "list_webhooks",
    "log_in",
    "log_out",
    "pause_experiment",
    "remove_budget",
    "remove_grant",
    "remove_member",
    "resume_experiment",
    "revoke_token",
    "rotate_webhook",
    "send_heartbeat",
    "set_budget",
    "set_member",
    "set_storage_limit",
    "show_auth_methods",
    "show_caller",
    "show_cluster",
    "show_curves",
    "show_data",
    "show_driver_log",
    "show_driver_mlflow_access",
    "show_experiment",
    "show_health",
    "show_insight",
    "show_metrics",
    "show_mlflow_access",
    "show_pool",
    "show_preset",
    "show_queue",
    "show_readiness",
    "show_schema",
    "show_spec",
    "show_storage",
    "show_team",
    "show_trial",
    "show_trial_log",
    "show_usage",
    "show_webhook",
    "submit_experiment",
    "test_webhook",
    "unarchive_experiment",
    "unarchive_team",
}


@pytest.fixture
def document(client: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/api/v1/openapi.json").json()
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def is_sentence(text: str) -> bool:
    return bool(re.match(r"[A-Z0-9`]", text)) and text.rstrip().endswith((".", "`", ")"))


def test_operation_ids_are_stable(document: dict[str, Any]) -> None:
    found = [operation["operationId"] for _, operation in operations(document)]
    assert sorted(found) == sorted(OPERATION_IDS)


def test_every_operation_is_described(document: dict[str, Any]) -> None:
    tags = {tag["name"] for tag in document["tags"]}
    for name, operation in operations(document):
        assert set(operation["tags"]) <= tags, name
        assert operation["summary"], name
        assert not operation["summary"].endswith("."), name
        assert is_sentence(operation["description"]), name
        for parameter in operation.get("parameters", ()):
            assert is_sentence(parameter["description"]), (name, parameter["name"])
        if "requestBody" in operation:
            assert operation["requestBody"]["content"], name


def test_every_response_is_described(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        for status, response in operation["responses"].items():
            assert response["description"] != "Successful Response", (name, status)
            assert response.get("content") or status == "204", (name, status)
            if status >= "400" and (name, status) != ("GET /readyz", "503"):
                assert set(response["content"]) == {"application/problem+json"}, (name, status)
            for header in response.get("headers", {}).values():
                assert is_sentence(header["description"]), (name, status)
        assert {"400", "403", "500", "503"} <= operation["responses"].keys(), name
        if not name.startswith("GET"):
            assert {"413", "507"} <= operation["responses"].keys(), name


def test_every_field_is_described(document: dict[str, Any]) -> None:
    """Those of specs included: they are the reference of `rung schema`, and what editors and forms show."""
    schemas = document["components"]["schemas"]
    described = set()
    for name, schema in schemas.items():
        assert schema.get("description") or "enum" in schema, name
        for field, properties in schema.get("properties", {}).items():
            assert re.fullmatch(r"[A-Z].*\.", properties.get("description", "")), (name, field)
            described.add(name)
    assert described >= {"ExperimentSpec", "TrialSpec", "SearchSpace", "AdamW", "ControlsPatch", "ExperimentView"}


def test_every_reference_of_the_document_resolves(document: dict[str, Any]) -> None:
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert references <= document["components"]["schemas"].keys()
    assert "HTTPValidationError" not in references


def test_the_schema_of_a_spec_is_the_one_that_is_served(client: httpx.Client, document: dict[str, Any]) -> None:
    text = client.get("/api/v1/schema").text.replace("#/$defs/", "#/components/schemas/")
    schema = json.loads(text)
    definitions = schema.pop("$defs") | {"ExperimentSpec": schema}
    components = document["components"]["schemas"]
    assert {name: components[name] for name in definitions} == definitions


def test_what_a_response_describes_can_be_followed(document: dict[str, Any]) -> None:
    """From a new experiment to everything that can be done with it, and from a list to each trial."""
    found = {operation["operationId"]: operation for _, operation in operations(document)}
    paths = {operation["operationId"]: name for name, operation in operations(document)}
    of_experiment = {name for name in found if "{experiment_id}" in paths[name] and "{trial}" not in paths[name]}
    of_trial = {name for name in found if "{trial}" in paths[name]}
    assert set(found["submit_experiment"]["responses"]["201"]["links"]) == of_experiment
    assert set(found["continue_experiment"]["responses"]["201"]["links"]) == of_experiment - {"continue_experiment"}
    links = found["list_trials"]["responses"]["200"]["links"]
    assert set(links) == of_trial
    assert links["show_trial"]["parameters"] == {
        "experiment_id": "$request.path.experiment_id",
        "trial": "$response.body#/items/0/trial",
    }


def test_a_patch_may_hold_null_where_there_is_a_default(document: dict[str, Any]) -> None:
    fields = document["components"]["schemas"]["ControlsPatch"]["properties"]
    nullable = {name for name, field in fields.items() if {"type": "null"} in field.get("anyOf", ())}
    assert set(fields) - nullable == {"num_samples"}


def test_examples_of_specs_are_valid(client: httpx.Client) -> None:
    for example in examples.SPEC_JSON.values():
        validate(example["value"])
    for example in examples.SPEC_YAML.values():
        response = client.post(
            EXPERIMENTS,
            content=yaml.safe_dump(example["value"]),
            params={"validate_only": True},
            headers={"Content-Type": "application/yaml"},
        )
        assert response.status_code == 200, response.text


def test_the_pages_load_nothing_from_other_servers(client: httpx.Client) -> None:
    page = client.get("/", follow_redirects=True).text
    assert "http://" not in page
    assert "https://" not in page
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"):
        assert asset in page
        assert client.get(f"/docs/assets/{asset}").status_code == 200
