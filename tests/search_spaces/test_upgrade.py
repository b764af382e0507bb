"""Version 1 of specs: what was stored and what old clients send means the same in version 2, for ever."""

from __future__ import annotations

import copy
import json
import lzma
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces.controls import Controls
from search_spaces.datasets import ImageFolder
from search_spaces.early_stopping.asha import Asha
from search_spaces.experiment import ExperimentSpec, TrialSpec
from search_spaces.models import Model
from search_spaces.normalization import Normalization
from search_spaces.optimizers import Optimizer
from search_spaces.problems import SpecError
from search_spaces.schedulers import Scheduler
from search_spaces.searchers import Searcher
from search_spaces.searchers.drawn import DrawnSearcherSpec
from search_spaces.searchers.tpe import TPE
from search_spaces.stored import read_spec, read_trial_spec
from search_spaces.upgrade import DEPRECATED, upgrade, upgrade_sample
from search_spaces.validation import validate, warnings
from tests.support.families import kinds

#: A search that has nothing to search and no trial too many.
ONE: dict[str, Any] = {"name": "x", "searcher": {"kind": "random", "num_samples": 1}}
#: As version 1 was stored first. Never edit it.
STORED = """{"version": 1, "name": "old", "project": "vision", "labels": ["a"],
"dataset": {"validation_fraction": 0.1, "name": "digits"},
"search_space": {"model": {"kind": "cnn", "width": {"choice": [8, 16]}, "depth": {"int_range": [1, 2]}},
 "optimizer": {"choice": [{"kind": "sgd", "lr": {"loguniform": [0.01, 1.0]}}, {"kind": "adam"}]},
 "scheduler": {"kind": "plateau", "factor": {"uniform": [0.1, 0.5]}}, "normalization": {"kind": "batch"},
 "augmentation": {"translation": 0.1}, "batch_size": 64},
"searcher": {"kind": "tpe", "num_samples": 20, "startup_trials": 10},
"asha": {"max_t": 20, "grace_period": 1, "reduction_factor": 3.0},
"objective": {"metric": "validation_accuracy", "mode": "max", "goal": 0.95},
"resources": {"gpus_per_trial": 0.25, "cpus_per_trial": 2, "max_concurrent_trials": 8},
"budget": {"gpu_hours": 6.0, "wall_clock": 7200.0}, "seed": 7}"""

#: Fields of schedulers as version 1 named them, and as version 2 does.
NAMES = {
    ("step", "step_size"): "step_epochs",
    ("cosine", "t_max"): "epochs",
    ("warm_restarts", "t_0"): "cycle_epochs",
    ("warm_restarts", "t_mult"): "cycle_mult",
    ("one_cycle", "pct_start"): "rise",
    ("one_cycle", "div_factor"): "start_divisor",
    ("one_cycle", "final_div_factor"): "end_divisor",
}
FOLDER = Path(__file__).parent / "stored"
LATER_KINDS = {"auto", "gp"}  # than version 1


def old_scheduler(scheduler: Any) -> Any:
    if "choice" in scheduler:
        return {"choice": [old_scheduler(alternative) for alternative in scheduler["choice"]]}
    return {NAMES.get((scheduler["kind"], name), name): value for name, value in scheduler.items()}


def version_1(spec: ExperimentSpec | TrialSpec) -> dict[str, Any]:
    """All fields of a spec as version 1 wrote them."""
    document = spec.model_dump(mode="json") | {"version": 1}
    space = document["search_space" if isinstance(spec, ExperimentSpec) else "hyperparameters"]
    space["scheduler"] = old_scheduler(space["scheduler"])
    if isinstance(spec, ExperimentSpec):
        stopping = document.pop("early_stopping")
        document["asha"] = {"max_t": document.pop("max_epochs")} | {k: v for k, v in stopping.items() if k != "kind"}
    return document


def test_what_was_stored_is_read_back() -> None:
    spec = read_spec(STORED)
    assert (spec.version, spec.max_epochs) == (2, 20)
    assert spec.early_stopping == Asha(grace_period=1, reduction_factor=3.0, ties="continue")
    assert spec.budget.wall_clock == 7200.0
    assert read_spec(spec.model_dump_json()) == spec
    trial = spec.bind({"model.width": 1, "model.depth": 2, "optimizer": 1, "scheduler.factor": 0.3})
    assert trial.hyperparameters.model.width == 16
    assert read_trial_spec(trial.model_dump_json()) == trial


def test_every_member_of_version_1_is_read_back() -> None:
    """`stored/version-1.json` has every member of every family, with all fields. Never edit it."""
    stored = json.loads((FOLDER / "version-1.json").read_text())
    for old in stored:
        spec = read_spec(old)
        now = version_1(spec)
        assert _without_what_came_later(now, old) == old, f"{old['name']} means something else now"
        assert validate(old) == _as_new(spec)
    text = json.dumps(stored)
    for family in (Model, Optimizer, Scheduler, Normalization, Searcher):
        assert all(f'"kind": "{kind}"' in text for kind in kinds(family) if kind not in LATER_KINDS)


def test_stored_specs_are_read_even_if_later_rules_refuse_them() -> None:
    """The specs of `stored/version-1-before-later-rules.json` were accepted. If submitted now, they are refused."""
    fields = ("objective.goal", "search_space.model.name")
    for old, field in zip(json.loads((FOLDER / "version-1-before-later-rules.json").read_text()), fields, strict=True):
        spec = read_spec(old)
        assert _without_what_came_later(version_1(spec), old) == old
        trial = spec.bind({})
        assert read_trial_spec(trial.model_dump_json()) == trial
        with pytest.raises(SpecError) as caught:
            validate(old)
        assert [problem.field for problem in caught.value.problems] == [field]


def rows(name: str) -> list[dict[str, Any]]:
    with lzma.open(FOLDER / name, "rt") as file:
        return [json.loads(line) for line in file]


def test_experiments_and_trials_of_a_real_service_of_version_1_are_read() -> None:
    """Written by the last commit of version 1. The experiments' controls are read too. Never edit the files."""
    for row in rows("version-1-experiments.jsonl.xz"):
        spec = read_spec(row["spec"])
        assert validate(row["spec"]) == _as_new(spec)
        old = row["spec"] if isinstance(row["spec"], dict) else json.loads(row["spec"])
        assert _without_what_came_later(version_1(spec), old) == old
        Controls.model_validate(row["controls"])
    for row in rows("version-1-trials.jsonl.xz"):
        trial = read_trial_spec(row["spec"])
        assert trial.random_streams == 1
        document = version_1(trial)
        del document["random_streams"]
        assert _without_what_came_later(document, row["spec"]) == row["spec"]


def _as_new(spec: ExperimentSpec) -> ExperimentSpec:
    """A stored search continues with the rules with which it began; a new one of the same document has the new ones."""
    assert spec.finalists.trials == 0
    spec = spec.model_copy(update={"finalists": ExperimentSpec(name="new").finalists})
    if isinstance(spec.dataset, ImageFolder):
        assert spec.dataset.reader_version == 1
        spec = spec.model_copy(update={"dataset": spec.dataset.model_copy(update={"reader_version": 2})})
    if isinstance(spec.early_stopping, Asha):
        assert spec.early_stopping.ties == "continue"
        spec = spec.model_copy(update={"early_stopping": spec.early_stopping.model_copy(update={"ties": "loss"})})
    if not isinstance(spec.searcher, DrawnSearcherSpec):
        return spec
    assert (spec.searcher.repeat_configurations, spec.searcher.startup) == (True, "random")
    new: dict[str, Any] = {"repeat_configurations": False, "startup": type(spec.searcher)().startup}
    if isinstance(spec.searcher, TPE):
        assert (spec.searcher.learn_from, spec.searcher.choices_of_numbers) == ("ended_trials", "unordered")
        assert not spec.searcher.avoid_divergence
        new |= {"learn_from": "rungs", "choices_of_numbers": "ordered", "avoid_divergence": True}
    return spec.model_copy(update={"searcher": spec.searcher.model_copy(update=new)})


def _without_what_came_later(now: Any, old: Any) -> Any:
    if isinstance(now, dict) and isinstance(old, dict):
        return {key: _without_what_came_later(value, old[key]) for key, value in now.items() if key in old}
    return now


def ranged(low: float, high: float) -> st.SearchStrategy[Any]:
    numbers = st.floats(low, high)
    pairs = st.tuples(numbers, numbers).filter(lambda pair: pair[0] < pair[1])
    return numbers | pairs.map(lambda pair: {"uniform": list(pair)})


SCHEDULERS = st.one_of(
    st.fixed_dictionaries({"kind": st.just("step")}, optional={"step_size": st.integers(1, 9)}),
    st.fixed_dictionaries({"kind": st.just("cosine")}, optional={"t_max": ranged(1, 9) | st.none()}),
    st.fixed_dictionaries(
        {"kind": st.just("warm_restarts")}, optional={"t_0": ranged(1, 9) | st.none(), "t_mult": ranged(1, 3)}
    ),
    st.fixed_dictionaries(
        {"kind": st.just("one_cycle")},
        optional={"pct_start": ranged(0.1, 0.5), "div_factor": ranged(2, 9), "final_div_factor": ranged(2, 99)},
    ),
    st.just({"kind": "plateau"}),
)
SPECS = st.builds(
    lambda scheduler, epochs, grace, factor: {
        "name": "x",
        "search_space": {"scheduler": scheduler},
        "max_epochs": epochs,
        "early_stopping": {"kind": "asha", "grace_period": min(grace, epochs), "reduction_factor": factor},
    },
    SCHEDULERS | st.lists(SCHEDULERS, min_size=1, max_size=3).map(lambda several: {"choice": several}),
    st.integers(1, 50),
    st.integers(1, 50),
    st.floats(1.25, 10),
)


@given(document=SPECS)
@settings(max_examples=100, deadline=None)
def test_a_dump_of_version_1_means_the_same(document: dict[str, Any]) -> None:
    spec = validate(document)
    old = version_1(spec)
    before = copy.deepcopy(old)
    assert validate(old) == read_spec(old) == spec
    assert validate({name: value for name, value in old.items() if name != "version"}) == spec
    assert old == before, "the document that was given is changed"
    assert upgrade(upgrade(old).document).document == upgrade(old).document


@pytest.mark.parametrize(
    ("scheduler", "old", "new"),
    [
        ({"kind": "step", "step_size": {"int_range": [1, 3]}}, {"step_epochs": 2}, {"step_size": 2}),
        ({"kind": "cosine", "t_max": {"uniform": [1, 3]}}, {"epochs": 2.5}, {"t_max": 2.5}),
        (
            {"kind": "warm_restarts", "t_0": {"uniform": [1, 3]}, "t_mult": {"uniform": [1, 3]}},
            {"cycle_epochs": 1.5, "cycle_mult": 2.5},
            {"t_0": 1.5, "t_mult": 2.5},
        ),
        (
            {"kind": "one_cycle", "pct_start": {"uniform": [0.1, 0.5]}, "div_factor": {"uniform": [2, 9]}},
            {"rise": 0.3, "start_divisor": 4.0},
            {"pct_start": 0.3, "div_factor": 4.0},
        ),
        (
            {"kind": "cosine", "t_max": {"choice": [5, {"uniform": [2, 8]}]}},
            {"epochs": 1, "epochs[1]": 2.5},
            {"t_max": 1, "t_max[1]": 2.5},
        ),
        (
            {"kind": "one_cycle", "pct_start": {"choice": [{"uniform": [0.1, 0.2]}, 0.3]}},
            {"rise": 0, "rise[0]": 0.15},
            {"pct_start": 0, "pct_start[0]": 0.15},
        ),
    ],
)
def test_trials_and_their_samples_are_read_back(
    scheduler: dict[str, Any], old: dict[str, Any], new: dict[str, Any]
) -> None:
    alternatives: Any = {"choice": ["constant", scheduler]}
    for space, prefix, chosen in ((scheduler, "scheduler", {}), (alternatives, "scheduler[1]", {"scheduler": 1})):
        spec = validate({"name": "x", "search_space": {"scheduler": space}})
        stored = {f"{prefix}.{name}": value for name, value in old.items()} | chosen
        sample = {f"{prefix}.{name}": value for name, value in new.items()} | chosen
        assert upgrade_sample(stored) == upgrade_sample(sample) == sample
        trial = spec.bind(upgrade_sample(stored))
        assert read_trial_spec(version_1(trial)) == trial
        assert TrialSpec.model_validate_json(json.dumps(version_1(trial))) == trial


@pytest.mark.parametrize(
    ("document", "line"),
    [
        ({"asha": {"max_t": 0}}, "asha.max_t: must be at least 1 (got 0)"),
        ({"asha": {"max_t": 2, "grace_period": 3}}, "asha.grace_period: must be at most asha.max_t=2 (got 3)"),
        ({"asha": {"reduction_factor": 1.0}}, "asha.reduction_factor: must be at least 1.25 (got 1.0)"),
        (
            {"version": 1, "asha": {"max_t": 2}, "search_space": {"scheduler": {"kind": "cosine", "warmup_epochs": 2}}},
            "search_space.scheduler.warmup_epochs: must be less than asha.max_t=2 (got 2.0)",
        ),
        (
            {"version": 1, "search_space": {"scheduler": {"choice": ["cosine", {"kind": "one_cycle", "rise": 2}]}}},
            "search_space.scheduler.choice[1].rise: must be less than 1 (got 2)",
        ),
    ],
)
def test_problems_are_reported_where_they_were_written(document: dict[str, Any], line: str) -> None:
    with pytest.raises(SpecError) as caught:
        validate({"name": "x"} | document)
    assert str(caught.value) == line


@pytest.mark.parametrize("version", [{}, {"version": 1}])
@pytest.mark.parametrize(
    "asha", ["none", "asha", 5, True, [], {"kind": "none", "max_t": 5}, {"kind": "asha"}, {"kind": None}]
)
def test_what_version_1_refused_gets_no_other_meaning(asha: Any, version: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=r"^asha: is not a known field; write early_stopping"):
        validate({"name": "x", "asha": asha} | version)


def test_a_whole_number_that_is_written_as_a_fraction_is_the_same_version() -> None:
    given = ONE | {"version": 1.0, "asha": {"max_t": 5}}
    assert validate(given) == validate(ONE | {"max_epochs": 5})
    assert warnings(validate(given), given) == [DEPRECATED]
    with pytest.raises(SpecError, match="version: must be 2"):
        validate({"name": "x", "version": True})


def test_a_warning_has_the_names_of_the_document() -> None:
    given = ONE | {"asha": {"max_t": 9}, "search_space": {"scheduler": {"kind": "cosine", "epochs": 5}}}
    _, warning = warnings(validate(given), given)
    assert warning.startswith("search_space.scheduler.epochs: the schedule ends after 5 epochs")
    assert "but a trial has asha.max_t=9" in warning


@pytest.mark.parametrize(
    ("document", "old"),
    [
        ({}, False),
        ({"version": 2}, False),
        ({"max_epochs": 5}, False),
        ({"version": 1}, True),
        ({"asha": {"max_t": 5}}, True),
        ({"search_space": {"scheduler": {"kind": "one_cycle", "rise": 0.4}}}, True),
        ({"search_space": {"scheduler": {"choice": [{"kind": "cosine", "epochs": 20}]}}}, True),
    ],
)
def test_one_warning_says_that_a_spec_is_of_version_1(document: dict[str, Any], old: bool) -> None:
    given = ONE | document
    assert warnings(validate(given), given) == ([DEPRECATED] if old else [])


def test_a_document_of_version_2_knows_nothing_of_version_1() -> None:
    with pytest.raises(SpecError, match="asha: is not a known field"):
        validate({"name": "x", "version": 2, "asha": {"max_t": 5}})


@pytest.mark.parametrize("new", [{"max_epochs": 8}, {"early_stopping": "none"}])
def test_a_document_with_a_field_of_both_versions_is_refused(new: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="asha: is not a known field"):
        validate({"name": "x", "asha": {"max_t": 5}} | new)


@pytest.mark.parametrize(
    ("patch", "upgraded"),
    [
        ({"asha": {"max_t": 5}}, {"max_epochs": 5}),
        ({"asha": {"grace_period": 2}}, {"early_stopping": {"kind": "asha", "grace_period": 2}}),
        ({"asha": None}, {"max_epochs": None, "early_stopping": None}),
        ({"asha": {"kind": "none"}}, {"asha": {"kind": "none"}}),
        ({"max_epochs": 5}, {"max_epochs": 5}),
    ],
)
def test_merge_patches_are_upgraded_too(patch: dict[str, Any], upgraded: dict[str, Any]) -> None:
    assert upgrade(patch).document == upgraded
