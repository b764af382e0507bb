"""The root spec: defaults, cross-field checks, seeds, warnings, and reading stored specs."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from search_spaces.augmentation import Augmentation
from search_spaces.experiment import ExperimentSpec, SearchSpace
from search_spaces.models import Model
from search_spaces.normalization import Normalization
from search_spaces.optimizers import Optimizer
from search_spaces.problems import SpecError
from search_spaces.schedulers import Scheduler
from search_spaces.spec import members
from search_spaces.stored import read_spec
from search_spaces.validation import validate, warnings

#: A search that has nothing to search and no trial too many.
ONE: dict[str, Any] = {"name": "x", "searcher": {"kind": "random", "num_samples": 1}}


def test_a_name_is_enough() -> None:
    spec = validate({"name": "x"})
    assert spec.version == 2
    assert spec.search_space.optimizer.kind == "adam"
    assert spec.search_space.optimizer.lr == 3e-4
    assert spec.search_space.scheduler.kind == "plateau"
    assert ExperimentSpec.model_validate_json(spec.model_dump_json()) == spec


def test_specs_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        validate({"name": "x"}).seed = 1


@pytest.mark.parametrize(
    ("change", "field", "rule"),
    [
        (
            {"max_epochs": 2, "early_stopping": {"kind": "asha", "grace_period": 3}},
            "early_stopping.grace_period",
            "must be at most max_epochs=2",
        ),
        (
            {"searcher": "grid", "search_space": {"optimizer": {"kind": "adam", "lr": {"loguniform": [0.1, 1]}}}},
            "search_space.optimizer.lr",
            "must be finite for a grid",
        ),
        (
            {
                "searcher": "grid",
                "search_space": {"optimizer": {"choice": ["sgd", {"kind": "adam", "lr": {"uniform": [0.1, 1]}}]}},
            },
            "search_space.optimizer.choice[1].lr",
            "must be finite for a grid",
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
            "at most 100000",
        ),
        (
            {"search_space": {"scheduler": {"kind": "cosine", "warmup_epochs": {"choice": [1, 20]}}}},
            "search_space.scheduler.warmup_epochs",
            "must be less than max_epochs=20",
        ),
        (
            {"search_space": {"normalization": "group", "model": {"kind": "cnn", "width": {"int_range": [8, 16]}}}},
            "search_space.model.width",
            "must be a multiple of the 8 groups",
        ),
        (
            {"search_space": {"normalization": "group", "model": {"kind": "cnn", "hidden": 100}}},
            "search_space.model.hidden",
            "larger multiple of the 8 groups",
        ),
        (
            {"search_space": {"batch_size": {"choice": [64] * 1001}}},
            "search_space.batch_size",
            "must have at most 1000 alternatives (got 1001)",
        ),
        (
            {"objective": {"metric": "validation_loss", "mode": "max"}},
            "objective.mode",
            "must be min for validation_loss",
        ),
        (
            {"early_stopping": {"kind": "asha", "reduction_factor": 1.00001}},
            "early_stopping.reduction_factor",
            "must be at least 1.25",
        ),
        ({"early_stopping": {"kind": "asha", "smoothing": 0.6}}, "early_stopping.smoothing", "must be at most 0.5"),
        ({"early_stopping": {"kind": "none", "patience": 0}}, "early_stopping.patience", "must be at least 1"),
        ({"early_stopping": {"kind": "none", "min_delta": -0.1}}, "early_stopping.min_delta", "must be at least 0"),
        (
            {"early_stopping": {"kind": "asha", "patience": 3, "min_delta": 1}},
            "early_stopping.min_delta",
            "must be less than 1 for validation_accuracy",
        ),
        ({"early_stopping": {"kind": "asha", "ties": "none"}}, "early_stopping.ties", "must be 'loss' or 'continue'"),
        (
            {"resources": {"gpus_per_trial": 1.5}},
            "resources.gpus_per_trial",
            "must be auto, 0, between 0.01 and 1, or a whole number up to 16",
        ),
        ({"resources": {"gpus_per_trial": 1e-5}}, "resources.gpus_per_trial", "must be auto, 0, between 0.01"),
        ({"resources": {"gpus_per_trial": "all"}}, "resources.gpus_per_trial", "must be auto, 0, between 0.01"),
        ({"resources": {"gpus_per_trial": True}}, "resources.gpus_per_trial", "must be a number"),
        ({"resources": {"gpus_per_trial": 17}}, "resources.gpus_per_trial", "must be at most 16"),
        ({"budget": {"wall_clock": "2 weeks"}}, "budget.wall_clock", "must be seconds, or a number with s, m, h or d"),
        ({"version": 3}, "version", "must be 2"),
        ({"version": True}, "version", "must be 2"),
    ],
)
def test_fields_must_fit_together(change: dict[str, Any], field: str, rule: str) -> None:
    with pytest.raises(SpecError) as caught:
        validate({"name": "x"} | change)
    (problem,) = caught.value.problems
    assert problem.field == field
    assert rule in problem.rule


def test_the_problem_of_a_width_that_groups_do_not_divide_has_the_place_of_its_alternative() -> None:
    space = {
        "normalization": {"choice": ["batch", {"kind": "group", "groups": {"int_range": [1, 100_000]}}]},
        "model": {"choice": ["resnet", {"kind": "cnn", "width": 1024}]},
    }
    with pytest.raises(SpecError) as caught:
        validate({"name": "x", "search_space": space})
    first, second = caught.value.problems
    assert (first.field, second.field) == ("search_space.model.choice[0].width", "search_space.model.choice[1].width")
    assert "3 groups" in first.rule


def test_arguments_of_a_plugin_are_not_checked_as_fields_of_a_spec() -> None:
    families = (SearchSpace, Model, Optimizer, Scheduler, Normalization, Augmentation)
    ours = sorted({name for family in families for cls in members(family) for name in cls.model_fields})
    for arguments in (ours[start : start + 32] for start in range(0, len(ours), 32)):
        for value in ("wide", 50, {"choice": ["wide", 50]}, {"a": [1]}):
            model = {"kind": "plugin", "name": "mine", "arguments": dict.fromkeys(arguments, value)}
            for normalization in ("batch", "group"):
                space = {"model": model, "normalization": normalization}
                spec = validate(ONE | {"search_space": space})
                assert warnings(spec) == []


@pytest.mark.parametrize(
    ("given", "seconds"), [("90m", 5400), ("2h", 7200), ("1.5d", 129600), ("30 s", 30), (45, 45), (None, None)]
)
def test_durations(given: Any, seconds: float | None) -> None:
    assert validate({"name": "x", "budget": {"wall_clock": given}}).budget.wall_clock == seconds


def test_the_mode_follows_the_metric() -> None:
    assert validate({"name": "x", "objective": {"metric": "validation_loss"}}).objective.mode == "min"


def test_a_given_augmentation_replaces_that_of_the_data_set() -> None:
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


def test_a_domain_of_momentum_may_contain_zero() -> None:
    spec = validate({"name": "x", "search_space": {"optimizer": {"kind": "sgd", "momentum": {"choice": [0.0, 0.9]}}}})
    plain, heavy = (spec.bind({"optimizer.momentum": index}).hyperparameters.optimizer for index in (0, 1))
    assert plain.arguments()["nesterov"] is False
    assert heavy.arguments()["nesterov"] is True


def test_warnings_contain_the_field() -> None:
    mirrored = validate({"name": "x", "search_space": {"augmentation": {"horizontal_flip": {"choice": [0.0, 0.5]}}}})
    assert "search_space.augmentation.horizontal_flip" in [text.partition(":")[0] for text in warnings(mirrored)]
    assert warnings(validate(ONE)) == []


@pytest.mark.parametrize(
    ("declared", "usual"), [({}, 0.0), ({"mirror_safe": False}, 0.0), ({"mirror_safe": True}, 0.5)]
)
def test_images_of_a_folder_are_mirrored_if_the_spec_declares_it_safe(declared: dict[str, bool], usual: float) -> None:
    dataset = {"name": "image_folder", "path": "signs", **declared}
    spec = validate(ONE | {"dataset": dataset})
    assert spec.search_space.augmentation.horizontal_flip == usual
    assert warnings(spec) == []
    asked = validate(ONE | {"dataset": dataset, "search_space": {"augmentation": {"horizontal_flip": 0.5}}})
    warned = [text.partition(":")[0] for text in warnings(asked)]
    assert warned == ([] if usual else ["search_space.augmentation.horizontal_flip"])
    assert "dataset.mirror_safe" in "".join(warnings(asked)) or usual
    assert validate(ONE | {"dataset": spec.dataset}) == spec


@pytest.mark.parametrize(
    ("scheduler", "warned"),
    [
        ({"kind": "cosine", "t_max": 10}, "scheduler.t_max"),
        ({"kind": "cosine", "t_max": 20, "warmup_epochs": 5}, "scheduler.t_max"),
        ({"kind": "cosine", "t_max": 15, "warmup_epochs": 5}, None),
        ({"kind": "cosine", "t_max": 15, "warmup_epochs": {"choice": [1, 5]}}, "scheduler.t_max"),
        ({"kind": "cosine", "t_max": {"uniform": [10, 20]}}, None),
        ({"choice": ["plateau", {"kind": "cosine", "t_max": 10}]}, "scheduler.choice[1].t_max"),
    ],
)
def test_a_cosine_that_does_not_end_with_the_trial_causes_a_warning(scheduler: Any, warned: str | None) -> None:
    found = warnings(validate(ONE | {"search_space": {"scheduler": scheduler}}))
    assert [text.partition(":")[0] for text in found] == ([f"search_space.{warned}"] if warned else [])
    assert all("the schedule ends after" in text and "max_epochs=20" in text for text in found)


@pytest.mark.parametrize(
    ("dataset", "rotation", "warned"),
    [("digits", 30, 0), ("digits", 45, 1), ("mnist", {"uniform": [0, 180]}, 1), ("fashion_mnist", 90, 0)],
)
def test_large_rotations_of_digits_cause_a_warning_with_the_name_of_the_data_set(
    dataset: str, rotation: Any, warned: int
) -> None:
    found = validate({"name": "x", "dataset": dataset, "search_space": {"augmentation": {"rotation": rotation}}})
    about = [text for text in warnings(found) if text.startswith("search_space.augmentation.rotation: ")]
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
def test_models_without_deterministic_gradients_are_refused_with_execution_deterministic(
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
    assert "if execution.deterministic is true" in problem.rule


@pytest.mark.parametrize(("metric", "goal"), [("validation_accuracy", 95), ("validation_loss", -0.1)])
def test_a_goal_that_no_trial_can_reach_is_refused(metric: str, goal: float) -> None:
    with pytest.raises(SpecError) as caught:
        validate({"name": "x", "objective": {"metric": metric, "goal": goal}})
    (problem,) = caught.value.problems
    assert problem.field == "objective.goal"
    assert f"for {metric}" in problem.rule
    assert problem.value == goal


def test_gray_is_the_same_color_as_grey() -> None:
    folder = {"name": "image_folder", "path": "pets"}
    spec = validate({"name": "x", "dataset": {**folder, "color": "gray"}})
    assert spec == validate({"name": "x", "dataset": {**folder, "color": "grey"}})
    assert spec.dataset.model_dump()["color"] == "grey"


def test_a_trial_with_several_gpus_is_not_compiled_but_older_specs_are_still_read() -> None:
    document = {"name": "x", "resources": {"gpus_per_trial": 2}}
    assert validate(document).resources.gpus == 2
    document["execution"] = {"compile": True}
    with pytest.raises(SpecError) as caught:
        validate(document)
    (problem,) = caught.value.problems
    assert (problem.field, problem.value) == ("execution.compile", True)
    assert "must be false if resources.gpus_per_trial is more than 1" in problem.rule
    assert read_spec(document).resources.gpus_per_trial == 2
