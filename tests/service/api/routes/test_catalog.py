"""The schema of a spec, and presets."""

from __future__ import annotations

import httpx
import pytest
from jsonschema import Draft202012Validator

from search_spaces import presets
from search_spaces.experiment import ExperimentSpec

EXPERIMENTS = "/api/v1/experiments"


def test_every_preset_is_valid_and_the_same_in_json_and_yaml(client: httpx.Client) -> None:
    schema = Draft202012Validator(client.get("/api/v1/schema").json())
    assert not schema.is_valid({"name": "x", "dataset": "cifar"})
    listed = client.get("/api/v1/presets").json()
    assert "digits-quick" in [preset["name"] for preset in listed]
    for preset in listed:
        shown = client.get(f"/api/v1/presets/{preset['name']}").json()
        assert schema.is_valid(shown["spec"])
        answer = client.post(EXPERIMENTS, json=shown["spec"], params={"validate_only": True})
        same = client.post(
            EXPERIMENTS,
            content=shown["yaml"],
            params={"validate_only": True},
            headers={"content-type": "application/yaml"},
        )
        assert answer.status_code == 200
        assert same.json() == answer.json()


def test_what_never_changes_is_computed_once(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = ("/api/v1/schema", "/api/v1/presets", "/api/v1/presets/digits-quick")
    first = [client.get(path).content for path in paths]
    monkeypatch.setattr(ExperimentSpec, "model_json_schema", lambda: pytest.fail("the schema was computed again"))
    monkeypatch.setattr(presets, "load", lambda name: pytest.fail(f"{name} was read again"))
    assert [client.get(path).content for path in paths] == first
