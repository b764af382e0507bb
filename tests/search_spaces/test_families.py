"""Every member of every family: its schema, its defaults, and a round trip through JSON. New members are included."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from search_spaces.augmentation import AugmentationSpec
from search_spaces.datasets import Dataset
from search_spaces.early_stopping import EarlyStopping
from search_spaces.experiment import ExperimentSpec, SearchSpace
from search_spaces.models import Model
from search_spaces.normalization import Normalization
from search_spaces.optimizers import Optimizer
from search_spaces.sampling import parameter_names
from search_spaces.schedulers import Scheduler
from search_spaces.searchers import Searcher
from search_spaces.spec import Spec, members
from search_spaces.validation import validate, warnings
from tests.support.families import kinds

FAMILIES = {
    "model": Model,
    "optimizer": Optimizer,
    "scheduler": Scheduler,
    "normalization": Normalization,
    "searcher": Searcher,
    "early_stopping": EarlyStopping,
}
#: What has no default in a member.
REQUIRED: dict[str, dict[str, Any]] = {"plugin": {"name": "mine"}, "image_folder": {"path": "pictures"}}
MEMBERS = [(family, kind) for family, union in FAMILIES.items() for kind in kinds(union)]
NOT_SEARCHED = {"searcher", "early_stopping"}
SEARCHED = [pair for pair in MEMBERS if pair[0] not in NOT_SEARCHED]


def as_given(kind: str) -> dict[str, Any]:
    return {"kind": kind, **REQUIRED.get(kind, {})}


@pytest.mark.parametrize(("family", "kind"), MEMBERS)
def test_defaults_survive_json(family: str, kind: str) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(FAMILIES[family])
    spec = adapter.validate_python(as_given(kind))
    assert spec.kind == kind
    assert adapter.validate_python(spec.model_dump(mode="json")) == spec
    assert adapter.validate_json(spec.model_dump_json()) == spec
    assert adapter.validate_python(spec) == spec


@pytest.mark.parametrize(("family", "kind"), MEMBERS)
def test_members_have_a_schema_and_a_description(family: str, kind: str) -> None:
    cls = kinds(FAMILIES[family])[kind]
    schema = cls.model_json_schema()
    assert schema["additionalProperties"] is False
    assert schema["properties"]["kind"]["const"] == kind
    assert cls.__doc__, f"{kind} needs a docstring: the docs and the form show it"


@pytest.mark.parametrize(("family", "kind"), MEMBERS)
def test_members_are_frozen_and_refuse_unknown_fields(family: str, kind: str) -> None:
    cls = kinds(FAMILIES[family])[kind]
    with pytest.raises(ValidationError, match="not permitted"):
        cls.model_validate(as_given(kind) | {"unheard_of": 1})
    with pytest.raises(ValidationError, match="frozen"):
        cls.model_validate(as_given(kind)).kind = "other"


@pytest.mark.parametrize(("family", "kind"), SEARCHED)
def test_members_bind_as_a_value_and_as_an_alternative(family: str, kind: str) -> None:
    value = validate({"name": "x", "search_space": {family: as_given(kind)}})
    choice = validate({"name": "x", "search_space": {family: {"choice": [as_given(kind)]}}})
    assert ExperimentSpec.model_validate_json(choice.model_dump_json()) == choice
    trial = choice.bind({family: 0})
    assert trial.hyperparameters == value.bind({}).hyperparameters
    assert set(value.parameters(trial)) == parameter_names(value.search_space)


@pytest.mark.parametrize(("family", "union"), FAMILIES.items())
def test_kinds_are_unique_within_a_family(family: str, union: Any) -> None:
    assert len(kinds(union)) == len(members(union)) > 0


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - NOT_SEARCHED))
def test_all_alternatives_share_their_keys(family: str) -> None:
    """A parameter that a trial does not have is not applicable, so that runs can be compared."""
    items = [as_given(kind) for kind in kinds(FAMILIES[family])]
    spec = validate({"name": "x", "search_space": {family: {"choice": items}}})
    keys = {frozenset(spec.parameters(spec.bind({family: index}))) for index in range(len(items))}
    assert len(keys) == 1


@pytest.mark.parametrize("cls", members(Dataset), ids=lambda cls: cls.__name__)
def test_datasets(cls: type[Spec]) -> None:
    name = cls.model_fields["name"].default
    spec = validate(
        {
            "name": "x",
            "searcher": {"kind": "random", "num_samples": 1},
            "dataset": {"name": name, **REQUIRED.get(name, {})},
        }
    )
    assert type(spec.dataset) is cls
    assert spec.search_space.augmentation == AugmentationSpec(**spec.dataset.usual_augmentation())
    assert ExperimentSpec.model_validate_json(spec.model_dump_json()) == spec
    assert not warnings(spec)


def test_a_bare_name_is_the_kind_with_its_defaults() -> None:
    spec = validate({"name": "x", "dataset": "mnist", "searcher": "random", "search_space": {"normalization": "layer"}})
    assert spec.dataset.name == "mnist"
    assert spec.searcher.kind == "random"
    assert spec.search_space.normalization.kind == "layer"


def test_the_root_schema_reaches_every_member() -> None:
    text = str(ExperimentSpec.model_json_schema())
    for _, kind in MEMBERS:
        assert f"'{kind}'" in text
    for name in SearchSpace.model_fields:
        assert f"'{name}'" in text
