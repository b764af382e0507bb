"""The root spec: defaults, cross-field checks, seeds, warnings, and what was stored is read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from search_spaces import cross_field_rules, sampling
from search_spaces.asha import AshaSpec
from search_spaces.augmentation import Augmentation
from search_spaces.experiment import ExperimentSpec, SearchSpace, TrialSpec
from search_spaces.models import Model
from search_spaces.normalization import Normalization
from search_spaces.optimizers import Optimizer
from search_spaces.problems import SpecError
from search_spaces.schedulers import Scheduler
from search_spaces.searchers import Searcher
from search_spaces.spec import kinds, members
from search_spaces.validation import validate

#: As version 1 was stored first. It must be readable forever: never edit it, add the next version beside it.
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

ADDED_SINCE: set[str] = set()  # kinds that version 1 learnt later: they are not in its first file


def test_a_name_is_enough() -> None:
    spec = validate({"name": "x"})
    assert spec.version == 1
    assert spec.search_space.optimizer.kind == "adam"
    assert spec.search_space.optimizer.lr == 3e-4
    assert spec.search_space.scheduler.kind == "plateau"
    assert ExperimentSpec.model_validate_json(spec.model_dump_json()) == spec


def test_what_was_stored_is_read_back() -> None:
    spec = ExperimentSpec.model_validate_json(STORED)
    assert ExperimentSpec.model_validate_json(spec.model_dump_json()) == spec
    assert spec.budget.wall_clock == 7200.0
    trial = spec.bind({"model.width": 1, "model.depth": 2, "optimizer": 1, "scheduler.factor": 0.3})
    assert trial.hyperparameters.model.width == 16
    assert TrialSpec.model_validate_json(trial.model_dump_json()) == trial


def test_everything_that_version_1_could_say_when_it_was_first_stored_is_read_back() -> None:
    """`stored/version-1.json` has every member of every family, with the fields of the beginning. Never edit it."""
    stored = json.loads((Path(__file__).parent / "stored" / "version-1.json").read_text())
    for old in stored:
        spec = ExperimentSpec.model_validate(old)
        now = spec.model_dump(mode="json")
        assert _without_what_came_later(now, old) == old, f"{old['name']} means something else now"
    said = json.dumps(stored)
    for family in (Model, Optimizer, Scheduler, Normalization, Searcher):
        assert all(f'"kind": "{kind}"' in said for kind in set(kinds(family)) - ADDED_SINCE)


def test_what_was_stored_is_not_judged_by_rules_that_came_later() -> None:
    """`stored/version-1-before-later-rules.json` was accepted once; a person who gives it now is told the rule."""
    stored = Path(__file__).parent / "stored" / "version-1-before-later-rules.json"
    for old, field in zip(json.loads(stored.read_text()), ("objective", "search_space.model.name"), strict=True):
        spec = ExperimentSpec.model_validate(old)
        assert _without_what_came_later(spec.model_dump(mode="json"), old) == old
        trial = spec.bind({})
        assert TrialSpec.model_validate_json(trial.model_dump_json()) == trial
        with pytest.raises(SpecError) as caught:
            validate(old)
        assert [problem.field for problem in caught.value.problems] == [field]


def _without_what_came_later(now: Any, old: Any) -> Any:
    if isinstance(now, dict) and isinstance(old, dict):
        return {key: _without_what_came_later(value, old[key]) for key, value in now.items() if key in old}
    return now


def test_specs_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        validate({"name": "x"}).seed = 1


@pytest.mark.parametrize(
    ("change", "field", "rule"),
    [
        (
            {"asha": {"max_t": 2, "grace_period": 3}},
            "asha",
            "grace_period <= max_t required, got grace_period=3, max_t=2",
        ),
        (
            {"searcher": "grid", "search_space": {"optimizer": {"kind": "adam", "lr": {"loguniform": [0.1, 1]}}}},
            "search_space.optimizer.lr",
            "a grid needs finite domains, got loguniform: [0.1, 1.0]",
        ),
        (
            {
                "searcher": "grid",
                "search_space": {"optimizer": {"choice": ["sgd", {"kind": "adam", "lr": {"uniform": [0.1, 1]}}]}},
            },
            "search_space.optimizer.choice[1].lr",
            "a grid needs finite domains",
        ),
        (
            {
                "searcher": "grid",
                "search_space": {
                    "label_smoothing": {"quniform": [0, 0.5, 0.0001]},
                    "gradient_clip_norm": {"quniform": [0, 10, 0.001]},
                },
            },
            "searcher.num_samples",
            "at most 100000 trials required",
        ),
        (
            {"search_space": {"scheduler": {"kind": "cosine", "warmup_epochs": {"choice": [1, 20]}}}},
            "search_space.scheduler.warmup_epochs",
            "warmup_epochs < asha.max_t required, got 20.0 and 20",
        ),
        (
            {"search_space": {"normalization": "group", "model": {"kind": "cnn", "width": {"int_range": [8, 16]}}}},
            "search_space.model.width",
            "got width=9",
        ),
        (
            {"search_space": {"normalization": "group", "model": {"kind": "cnn", "hidden": 100}}},
            "search_space.model.hidden",
            "got hidden=100",
        ),
        (
            {"search_space": {"batch_size": {"choice": [64] * 1001}}},
            "search_space.batch_size",
            "at most 1000 alternatives required, got 1001",
        ),
        (
            {"objective": {"metric": "validation_loss", "mode": "max"}},
            "objective",
            "mode min required of validation_loss",
        ),
        ({"asha": {"reduction_factor": 1.00001}}, "asha.reduction_factor", "1.25"),
        ({"resources": {"gpus_per_trial": 1.5}}, "resources", "a whole number of GPUs required"),
        ({"resources": {"gpus_per_trial": 1e-5}}, "resources", "0, or 0.01 to 1, or a whole number of GPUs required"),
        ({"budget": {"wall_clock": "2 weeks"}}, "budget.wall_clock", "seconds, or a number with s, m, h or d"),
        ({"version": 2}, "version", "1 required"),
    ],
)
def test_fields_must_fit_together(change: dict[str, Any], field: str, rule: str) -> None:
    with pytest.raises(SpecError) as caught:
        validate({"name": "x"} | change)
    (problem,) = caught.value.problems
    assert problem.field == field
    assert rule in problem.rule


def test_groups_and_widths_are_walked_once_and_not_in_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    walks: list[str] = []

    def counted(node: Any, field: str, root: str = "") -> Any:
        walks.append(field)
        return sampling.possible_values(node, field, root)

    monkeypatch.setattr(cross_field_rules, "possible_values", counted)
    model = {"kind": "cnn", "width": {"choice": [8] * 1000}, "hidden": {"int_range": [0, 4096, 8]}}
    normalization = {"kind": "group", "groups": {"choice": [1, 2, 4] * 300}}
    validate({"name": "x", "search_space": {"normalization": normalization, "model": model}})
    assert len(walks) < 20


def test_widths_that_no_group_divides_are_named_with_their_alternative() -> None:
    space = {
        "normalization": {"choice": ["batch", {"kind": "group", "groups": {"int_range": [1, 100_000]}}]},
        "model": {"choice": ["resnet", {"kind": "cnn", "width": 1024}]},
    }
    with pytest.raises(SpecError) as caught:
        validate({"name": "x", "search_space": space})
    (problem,) = caught.value.problems
    assert problem.field == "search_space.model.choice[0].width"
    assert "groups=3" in problem.rule


def test_arguments_of_a_plugin_are_not_taken_for_fields_of_ours() -> None:
    families = (SearchSpace, Model, Optimizer, Scheduler, Normalization, Augmentation)
    ours = sorted({name for family in families for cls in members(family) for name in cls.model_fields})
    for arguments in (ours[start : start + 32] for start in range(0, len(ours), 32)):
        for value in ("wide", 50, {"choice": ["wide", 50]}, {"a": [1]}):
            model = {"kind": "plugin", "name": "mine", "arguments": dict.fromkeys(arguments, value)}
            for normalization in ("batch", "group"):
                spec = validate({"name": "x", "search_space": {"model": model, "normalization": normalization}})
                assert spec.warnings() == []


@pytest.mark.parametrize(
    ("given", "seconds"), [("90m", 5400), ("2h", 7200), ("1.5d", 129600), ("30 s", 30), (45, 45), (None, None)]
)
def test_durations(given: Any, seconds: float | None) -> None:
    assert validate({"name": "x", "budget": {"wall_clock": given}}).budget.wall_clock == seconds


def test_the_mode_follows_the_metric() -> None:
    assert validate({"name": "x", "objective": {"metric": "validation_loss"}}).objective.mode == "min"


def test_an_augmentation_of_ones_own_replaces_that_of_the_data_set() -> None:
    given = {"name": "x", "dataset": "cifar10"}
    assert validate(given).search_space.augmentation.crop_padding == 4
    own = validate(given | {"search_space": {"augmentation": {"rotation": 5}}}).search_space.augmentation
    assert (own.crop_padding, own.rotation) == (0, 5)
    off = validate(given | {"search_space": {"augmentation": "none"}}).search_space.augmentation
    assert off.crop_padding == 0


def test_number_of_trials() -> None:
    space = {"batch_size": {"choice": [32, 64, 128]}, "normalization": {"choice": ["batch", "layer"]}}
    assert validate({"name": "x", "search_space": space, "searcher": "grid"}).num_samples == 6
    limited = {"kind": "grid", "num_samples": 4}
    assert validate({"name": "x", "search_space": space, "searcher": limited}).num_samples == 4
    assert validate({"name": "x", "search_space": space}).num_samples == 20


def test_huge_grids_are_counted_at_once() -> None:
    space = {field: {"quniform": [0, 0.99, 0.00001]} for field in ("label_smoothing", "gradient_clip_norm")}
    searcher = {"kind": "grid", "num_samples": 10}
    assert validate({"name": "x", "search_space": space, "searcher": searcher}).num_samples == 10


def test_trials_differ_in_their_seed_and_share_the_split() -> None:
    spec = validate({"name": "x", "seed": 3})
    trials = [spec.bind({}, number) for number in range(50)]
    assert len({trial.seed for trial in trials}) == 50
    assert {trial.split_seed for trial in trials} == {3}
    assert spec.bind({}, 4) == trials[4]
    assert validate({"name": "x", "seed": 4}).bind({}, 4).seed != trials[4].seed


def test_momentum_may_be_drawn_as_zero() -> None:
    spec = validate({"name": "x", "search_space": {"optimizer": {"kind": "sgd", "momentum": {"choice": [0.0, 0.9]}}}})
    plain, heavy = (spec.bind({"optimizer.momentum": index}).hyperparameters.optimizer for index in (0, 1))
    assert plain.arguments()["nesterov"] is False
    assert heavy.arguments()["nesterov"] is True


def test_warnings_name_the_field() -> None:
    mirrored = validate({"name": "x", "search_space": {"augmentation": {"horizontal_flip": {"choice": [0.0, 0.5]}}}})
    assert [text.partition(":")[0] for text in mirrored.warnings()] == ["search_space.augmentation.horizontal_flip"]
    assert validate({"name": "x"}).warnings() == []


@pytest.mark.parametrize(
    ("declared", "usual"), [({}, 0.0), ({"mirror_safe": False}, 0.0), ({"mirror_safe": True}, 0.5)]
)
def test_pictures_of_a_folder_are_mirrored_where_their_owner_declares_it_safe(
    declared: dict[str, bool], usual: float
) -> None:
    dataset = {"name": "image_folder", "path": "signs", **declared}
    spec = validate({"name": "x", "dataset": dataset})
    assert spec.search_space.augmentation.horizontal_flip == usual
    assert spec.warnings() == []
    asked = validate({"name": "x", "dataset": dataset, "search_space": {"augmentation": {"horizontal_flip": 0.5}}})
    warned = [text.partition(":")[0] for text in asked.warnings()]
    assert warned == ([] if usual else ["search_space.augmentation.horizontal_flip"])
    assert "dataset.mirror_safe" in "".join(asked.warnings()) or usual
    assert validate({"name": "x", "dataset": spec.dataset}) == spec


@pytest.mark.parametrize(
    ("scheduler", "warned"),
    [
        ({"kind": "cosine", "epochs": 10}, "scheduler.epochs"),
        ({"kind": "cosine", "epochs": 20, "warmup_epochs": 5}, "scheduler.epochs"),
        ({"kind": "cosine", "epochs": 15, "warmup_epochs": 5}, None),
        ({"kind": "cosine", "epochs": 15, "warmup_epochs": {"choice": [1, 5]}}, "scheduler.epochs"),
        ({"kind": "cosine", "epochs": {"uniform": [10, 20]}}, None),
        ({"choice": ["plateau", {"kind": "cosine", "epochs": 10}]}, "scheduler[1].epochs"),
    ],
)
def test_a_cosine_that_ends_elsewhere_than_the_trial_is_warned_of(scheduler: Any, warned: str | None) -> None:
    found = validate({"name": "x", "search_space": {"scheduler": scheduler}}).warnings()
    assert [text.partition(":")[0] for text in found] == ([f"search_space.{warned}"] if warned else [])
    assert all("cosine" in text and "max_t=20" in text for text in found)


@pytest.mark.parametrize(
    ("dataset", "rotation", "warned"),
    [("digits", 30, 0), ("digits", 45, 1), ("mnist", {"uniform": [0, 180]}, 1), ("fashion_mnist", 90, 0)],
)
def test_turned_digits_are_warned_of_by_name(dataset: str, rotation: Any, warned: int) -> None:
    found = validate({"name": "x", "dataset": dataset, "search_space": {"augmentation": {"rotation": rotation}}})
    about = [text for text in found.warnings() if text.startswith("search_space.augmentation.rotation: ")]
    assert len(about) == warned
    assert all(dataset in text for text in about)


@pytest.mark.parametrize(
    ("model", "normalization", "field"),
    [
        ("torchvision", "layer", "search_space.normalization"),
        ("torchvision", {"kind": "batch", "momentum": 0.5}, "search_space.normalization"),
        ("torchvision", {"kind": "batch", "eps": {"loguniform": [1e-5, 1e-3]}}, "search_space.normalization"),
        ({"choice": ["cnn", "torchvision"]}, {"choice": ["batch", "group"]}, "search_space.normalization.choice[1]"),
        ({"choice": ["cnn", "torchvision"]}, {"choice": ["batch"]}, None),
        ("torchvision", "batch", None),
    ],
)
def test_models_of_torchvision_keep_their_own_normalization(model: Any, normalization: Any, field: str | None) -> None:
    document = {"name": "x", "search_space": {"model": model, "normalization": normalization}}
    if field is None:
        validate(document)
        return
    with pytest.raises(SpecError) as caught:
        validate(document)
    assert [problem.field for problem in caught.value.problems] == [field]


@pytest.mark.parametrize(
    ("model", "gpus", "field"),
    [
        ({"kind": "torchvision", "name": "alexnet"}, None, "search_space.model.name"),
        ({"kind": "torchvision", "name": "vgg16_bn"}, 0.5, "search_space.model.name"),
        ({"kind": "torchvision", "name": {"choice": ["resnet18", "vgg11"]}}, 1, "search_space.model.name"),
        ({"choice": ["cnn", {"kind": "torchvision", "name": "vgg11"}]}, 1, "search_space.model.choice[1].name"),
        ({"kind": "torchvision", "name": "vgg11"}, 0, None),
        ({"kind": "torchvision", "name": "resnet18"}, 1, None),
        ("vgg", 1, None),
        ({"kind": "plugin", "name": "vgg11"}, 1, None),
    ],
)
def test_models_without_deterministic_gradients_are_refused_where_these_are_asked_for(
    model: Any, gpus: float | None, field: str | None
) -> None:
    document = {"name": "x", "search_space": {"model": model}, "resources": {"gpus_per_trial": gpus}}
    validate(document)
    document["execution"] = {"deterministic": True}
    if field is None:
        validate(document)
        return
    with pytest.raises(SpecError) as caught:
        validate(document)
    (problem,) = caught.value.problems
    assert problem.field == field
    assert "execution.deterministic=true" in problem.rule


@pytest.mark.parametrize(
    ("asha", "rungs"),
    [
        (AshaSpec(max_t=8, grace_period=1, reduction_factor=3), [1, 3]),
        (AshaSpec(max_t=9, grace_period=1, reduction_factor=3), [1, 3]),
        (AshaSpec(max_t=10, grace_period=10), []),
        (AshaSpec(max_t=20, grace_period=1, reduction_factor=2.5), [1, 3, 7, 16]),
        (AshaSpec(max_t=100, grace_period=5, reduction_factor=4), [5, 20, 80]),
    ],
)
def test_rungs_lie_below_max_t(asha: AshaSpec, rungs: list[int]) -> None:
    assert asha.rungs() == rungs


@pytest.mark.parametrize(("metric", "goal"), [("validation_accuracy", 95), ("validation_loss", -0.1)])
def test_a_goal_that_no_trial_can_reach_is_refused(metric: str, goal: float) -> None:
    with pytest.raises(SpecError) as caught:
        validate({"name": "x", "objective": {"metric": metric, "goal": goal}})
    (problem,) = caught.value.problems
    assert problem.field == "objective"
    assert f"required of {metric}, got goal={goal}" in problem.rule
