"""The JSON Schema for editors and forms: it accepts every spec that the service accepts, and both refuse wrong ones."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from search_spaces import presets
from search_spaces.datasets import Dataset
from search_spaces.early_stopping import EarlyStopping
from search_spaces.experiment import ExperimentSpec
from search_spaces.models import Model
from search_spaces.normalization import Normalization
from search_spaces.optimizers import Optimizer
from search_spaces.parsing import read
from search_spaces.problems import SpecError
from search_spaces.schedulers import Scheduler
from search_spaces.searchers import Searcher
from search_spaces.spec import members
from search_spaces.validation import validate, warnings
from tests.support.families import kinds

SCHEMA = ExperimentSpec.model_json_schema()
VALIDATOR = Draft202012Validator(SCHEMA)
FAMILIES = {"model": Model, "optimizer": Optimizer, "scheduler": Scheduler, "normalization": Normalization}
#: Members that need more fields than their name.
UNNAMED = {"plugin", "image_folder"}
README = Path(__file__).parents[2] / "README.md"


def refused(document: Any) -> list[str]:
    """The places at which the schema refuses a document."""
    return sorted({error.json_path for error in VALIDATOR.iter_errors(document)})


def space(**fields: Any) -> dict[str, Any]:
    return {"name": "x", "search_space": fields}


def names(family: Any, tag: str = "kind") -> list[str]:
    return [cls.model_fields[tag].default for cls in members(family) if cls.model_fields[tag].default not in UNNAMED]


def by_name() -> Iterator[dict[str, Any]]:
    """Every member of every family, where a name may stand."""
    for field, family in FAMILIES.items():
        for name in names(family):
            yield space(**{field: name})
            yield space(**{field: {"kind": name}})
            yield space(**{field: {"choice": [name, {"kind": name}]}})
    yield from ({"name": "x", "searcher": name} for name in names(Searcher))
    for name in names(EarlyStopping):
        yield from ({"name": "x", "early_stopping": given} for given in (name, {"kind": name}))
    yield from ({"name": "x", "dataset": name} for name in names(Dataset, "name"))


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("preset", presets.names())
def test_the_schema_accepts_presets_and_their_completed_specs(preset: str) -> None:
    assert refused(read(presets.load(preset).encode(), "application/yaml")) == []
    assert refused(presets.spec(preset).model_dump(mode="json")) == []


def test_the_schema_and_the_service_accept_the_spec_of_the_readme() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    document = read(text.encode(), "application/yaml")
    assert refused(document) == []
    assert warnings(validate(document), document) == []


@pytest.mark.parametrize("document", list(by_name()), ids=lambda document: json.dumps(document)[:60])
def test_the_schema_accepts_every_member_by_its_name(document: dict[str, Any]) -> None:
    validate(document)
    assert refused(document) == []


@pytest.mark.parametrize(
    "document",
    [
        space(augmentation="none"),
        space(augmentation={"choice": ["none", {"rotation": {"uniform": [0, 5]}}]}),
        space(
            model={"kind": "plugin", "name": "m", "arguments": {"a": {"uniform": [0, 1]}, "b": {"choice": [[1], {}]}}}
        ),
        space(scheduler={"kind": "multistep", "milestones": [0.1, {"uniform": [0.5, 0.7]}]}),
        space(scheduler={"kind": "cosine", "t_max": None}),
        space(batch_size={"choice": [16, 4096]}, label_smoothing={"choice": [0, {"quniform": [0, 0.5, 0.25]}]}),
        *({"name": "x", "budget": {"wall_clock": given}} for given in ("90m", "2h", "1.5d", "30 s", 45, None)),
        {"name": "x", "dataset": {"name": "image_folder", "path": "pictures"}},
        *({"name": given, "project": given} for given in (" x ", "\ta.b \n", " " + "x" * 128 + " ")),
        {"name": "x", "version": 2, "labels": ["a"], "objective": {"metric": "validation_loss"}},
    ],
    ids=lambda document: json.dumps(document)[:60],
)
def test_the_schema_accepts_other_short_forms(document: dict[str, Any]) -> None:
    validate(document)
    assert refused(document) == []


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ({}, "$"),
        ({"name": ""}, "$.name"),
        ({"name": " "}, "$.name"),
        ({"name": "x", "project": "x" * 129}, "$.project"),
        ({"name": "x", "version": True}, "$.version"),
        ({"name": "x", "serch_space": {}}, "$"),
        ({"name": "x", "seed": "7"}, "$.seed"),
        ({"name": "x", "dataset": "cifar"}, "$.dataset"),
        ({"name": "x", "dataset": "image_folder"}, "$.dataset"),
        ({"name": "x", "dataset": {"validation_fraction": 0.1}}, "$.dataset"),
        ({"name": "x", "searcher": "tpo"}, "$.searcher"),
        ({"name": "x", "budget": {"wall_clock": "2 weeks"}}, "$.budget.wall_clock"),
        ({"name": "x", "budget": {"wall_clock": 0}}, "$.budget.wall_clock"),
        ({"name": "x", "resources": {"gpus_per_trial": {"choice": [1, 2]}}}, "$.resources.gpus_per_trial"),
        (space(optimizer="adma"), "$.search_space.optimizer"),
        (space(optimizer={"kind": "adma"}), "$.search_space.optimizer"),
        (space(optimizer={"nesterov": True}), "$.search_space.optimizer"),
        (space(optimizer={"kind": "adam", "lr": -1}), "$.search_space.optimizer"),
        (space(optimizer={"kind": "adam", "nesterov": True}), "$.search_space.optimizer"),
        (space(optimizer={"choice": ["sgd", "adma"]}), "$.search_space.optimizer"),
        (space(optimizer={"choice": []}), "$.search_space.optimizer"),
        (space(optimizer={"choice": [{"choice": ["sgd"]}]}), "$.search_space.optimizer"),
        (space(model="plugin"), "$.search_space.model"),
        (space(augmentation="some"), "$.search_space.augmentation"),
        (space(batch_size={"uniform": [16, 32]}), "$.search_space.batch_size"),
        (space(batch_size={"choice": [64] * 1001}), "$.search_space.batch_size"),
        (space(label_smoothing={"uniform": [0]}), "$.search_space.label_smoothing"),
        (space(label_smoothing={"uniform": [0, 0.1], "choice": [0]}), "$.search_space.label_smoothing"),
        ([], "$"),
    ],
)
def test_wrong_specs_are_refused_by_the_service_and_the_schema(document: Any, path: str) -> None:
    with pytest.raises(SpecError):
        validate(document)
    assert refused(document) == [path]


def test_the_schema_lists_the_names_for_editors() -> None:
    fields = SCHEMA["$defs"]["SearchSpace"]["properties"]
    for field, family in FAMILIES.items():
        (named,) = [form["anyOf"][0]["enum"] for form in fields[field]["anyOf"] if "anyOf" in form]
        assert named == [kind for kind in kinds(family) if kind not in UNNAMED]
    assert SCHEMA["properties"]["searcher"]["anyOf"][0]["enum"] == names(Searcher)
    assert SCHEMA["properties"]["dataset"]["anyOf"][0]["enum"] == names(Dataset, "name")
