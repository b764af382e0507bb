"""Warnings of valid specs that waste a search: each has the field, and what to do."""

from __future__ import annotations

from typing import Any

import pytest

from search_spaces.problems import SpecError
from search_spaces.schedulers import Scheduler
from search_spaces.validation import validate, warnings
from tests.support.families import kinds

WIDE = {"label_smoothing": {"uniform": [0, 0.1]}, "scheduler": "constant"}
LISTED = {"batch_size": {"choice": [16, 32]}, "label_smoothing": {"quniform": [0, 0.2, 0.1]}, "scheduler": "constant"}
FOUR = {"kind": "random", "num_samples": 4}


def warned(**document: Any) -> list[str]:
    document = {"name": "x", "search_space": WIDE, **document}
    return warnings(validate(document), document)


def only(found: list[str], field: str, *words: str) -> None:
    (text,) = found
    assert text.startswith(f"{field}: ")
    assert [word for word in words if word not in text] == []


def test_more_configurations_than_a_float_can_count() -> None:
    milestones = [{"quniform": [share / 200, share / 200 + 0.004, 1e-7]} for share in range(1, 100)]
    space = {"scheduler": {"kind": "multistep", "milestones": milestones, "gamma": 0.99}}
    common = {"max_epochs": 5000}
    assert warned(search_space=space, **common) == []
    assert warned(search_space=space | {"label_smoothing": {"uniform": [0.0, 0.1]}}, **common) == []
    grid = {"kind": "grid", "num_samples": 10}
    only(warned(search_space=space, searcher=grid, **common), "searcher.num_samples", "more than 1e+300 combinations")
    with pytest.raises(
        SpecError, match=r"searcher.num_samples: .* because the grid has more than 1e\+300 combinations"
    ):
        warned(search_space=space, searcher="grid", **common)


def test_fewer_different_configurations_than_samples() -> None:
    random = {"kind": "random", "num_samples": 7}
    only(warned(search_space=LISTED, searcher=random), "searcher.num_samples", "at most 6", "ends when", "(got 7)")
    repeated = random | {"repeat_configurations": True}
    only(warned(search_space=LISTED, searcher=repeated), "searcher.num_samples", "at most 6", "repeat", "(got 7)")
    assert warned(search_space=LISTED, searcher={"kind": "random", "num_samples": 6}) == []
    assert warned(search_space=LISTED, searcher="grid") == []
    only(warned(search_space={}), "searcher.num_samples", "no hyperparameter has a domain", "(got 20)")
    assert warned(search_space={}, searcher={"kind": "tpe", "num_samples": 1}) == []


def test_configurations_of_equal_alternatives_count_once() -> None:
    space = {"optimizer": {"choice": ["adam", {"kind": "adam", "lr": 3e-4}, "sgd"]}, "scheduler": "constant"}
    equal, few = warned(search_space=space, searcher={"kind": "random", "num_samples": 3})
    assert equal.startswith("search_space.optimizer: ")
    assert few.startswith("searcher.num_samples: should be at most 2,")


@pytest.mark.parametrize(
    ("space", "field"),
    [
        ({"batch_size": {"choice": [16, 32, 16]}}, "search_space.batch_size"),
        ({"label_smoothing": {"choice": [0, 0.1, 0.0]}}, "search_space.label_smoothing"),
        (
            {"optimizer": {"choice": ["sgd", {"kind": "adam", "lr": {"choice": [0.1, 0.1]}}]}},
            "search_space.optimizer.choice[1].lr",
        ),
        (
            {"model": {"kind": "plugin", "name": "m", "arguments": {"a": {"choice": [[1], [1]]}}}},
            "search_space.model.arguments.a",
        ),
    ],
)
def test_equal_alternatives(space: dict[str, Any], field: str) -> None:
    only(warned(search_space={"scheduler": "constant", **space}, searcher="grid"), field, "each alternative once")


def test_values_of_other_types_are_other_alternatives_of_a_plugin() -> None:
    model = {"kind": "plugin", "name": "m", "arguments": {"a": {"choice": [1, 1.0, True, "1"]}}}
    assert warned(search_space={"model": model, "scheduler": "constant"}, searcher="grid") == []


def test_a_grid_that_is_cut_off() -> None:
    cut = {"kind": "grid", "num_samples": 5}
    only(warned(search_space=LISTED, searcher=cut), "searcher.num_samples", "6 combinations", "(got 5)")
    assert warned(search_space=LISTED, searcher={"kind": "grid", "num_samples": 6}) == []


@pytest.mark.parametrize(("samples", "startup", "count"), [(10, 10, 1), (11, 10, 0), (8, 10, 1), (8, 4, 0)])
def test_a_tpe_that_never_uses_its_model(samples: int, startup: int, count: int) -> None:
    found = warned(searcher={"kind": "tpe", "num_samples": samples, "startup_trials": startup})
    assert len(found) == count
    if found:
        only(found, "searcher.startup_trials", f"num_samples={samples}", f"(got {startup})")


def test_an_early_stopping_that_never_stops() -> None:
    last = {"kind": "asha", "grace_period": 8}
    only(warned(max_epochs=8, early_stopping=last), "early_stopping.grace_period", "max_epochs=8", "(got 8)")
    assert warned(max_epochs=9, early_stopping=last) == []
    assert warned(max_epochs=1) == []


@pytest.mark.parametrize(("samples", "count"), [(8, 1), (9, 0)])
def test_a_search_that_ends_before_it_can_be_stagnant(samples: int, count: int) -> None:
    searcher = {"kind": "random", "num_samples": samples}
    found = warned(searcher=searcher, budget={"trials_without_improvement": 7})
    assert len(found) == count
    if found:
        only(found, "budget.trials_without_improvement", "less than 7", "8 trials", "(got 7)")


@pytest.mark.parametrize("kind", ["asha", "none"])
def test_a_patience_that_never_stops_a_trial(kind: str) -> None:
    patient = {"kind": kind, "patience": 7}
    assert warned(max_epochs=9, early_stopping=patient) == []
    only(warned(max_epochs=8, early_stopping=patient), "early_stopping.patience", "at most 6", "8 epochs", "(got 7)")
    only(warned(max_epochs=2, early_stopping=patient), "early_stopping.patience", "omitted", "2 epochs")
    only(warned(early_stopping={"kind": kind, "min_delta": 0.01}), "early_stopping.min_delta", "(got 0.01)")
    with_loss = {"metric": "validation_loss"}
    assert warned(objective=with_loss, early_stopping={"kind": kind, "patience": 3, "min_delta": 2}) == []


@pytest.mark.parametrize(("patience", "count"), [(4, 1), (5, 0), (None, 0)])
def test_a_patience_that_ends_before_the_learning_rate_is_reduced(patience: int | None, count: int) -> None:
    """The rate is reduced after 4 epochs without an improvement, and the fifth trains with it."""
    space = WIDE | {"scheduler": {"choice": ["constant", {"kind": "plateau", "patience": {"int_range": [1, 3]}}]}}
    found = warned(search_space=space, early_stopping={"kind": "none", "patience": patience})
    assert len(found) == count
    if found:
        only(found, "early_stopping.patience", "at least 5", "search_space.scheduler", "(got 4)")


@pytest.mark.parametrize(
    ("scheduler", "field", "words"),
    [
        ({"kind": "plateau", "patience": 8}, "patience", ("at most 7", "10 epochs", "(got 8)")),
        ({"kind": "plateau", "patience": 6, "warmup_epochs": 1.5}, "patience", ("at most 5", "8.5 epochs")),
        ({"kind": "plateau", "patience": {"int_range": [1, 9]}}, "patience", ("at most 7", "(got 9)")),
        ({"kind": "plateau", "min_lr": 3e-4}, "min_lr", ("search_space.optimizer", "(got 0.0003)")),
        ("step", "step_size", ("less than the 10 epochs", "(got 10)")),
        ({"kind": "step", "step_size": 9, "warmup_epochs": 1}, "step_size", ("less than the 9 epochs",)),
        ({"kind": "step", "step_size": {"choice": [2, 30]}}, "step_size", ("(got 30)",)),
        ({"kind": "multistep", "milestones": [0.5, 0.96]}, "milestones[1]", ("(got 0.96)",)),
        ({"kind": "cosine", "t_max": {"uniform": [5, 11]}}, "t_max", ("ends after 11 epochs", "max_epochs=10")),
        ({"kind": "cosine", "min_factor": 1}, "min_factor", ("less than 1",)),
        ({"kind": "warm_restarts", "t_0": 10}, "t_0", ("does not restart", "(got 10.0)")),
        ({"kind": "triangular", "half_cycle_epochs": 12}, "half_cycle_epochs", ("never falls", "(got 12.0)")),
        ({"kind": "constant", "warmup_epochs": 5.5}, "warmup_epochs", ("max_epochs=10", "(got 5.5)")),
        ({"kind": "one_cycle", "warmup_epochs": {"uniform": [0, 9]}}, "warmup_epochs", ("(got 9.0)",)),
    ],
)
def test_a_schedule_that_never_acts(scheduler: Any, field: str, words: tuple[str, ...]) -> None:
    def of(scheduler: Any) -> list[str]:
        return warned(search_space=WIDE | {"scheduler": scheduler}, max_epochs=10, early_stopping="none")

    only(of(scheduler), f"search_space.scheduler.{field}", *words)
    only(of({"choice": ["one_cycle", scheduler]}), f"search_space.scheduler.choice[1].{field}")


@pytest.mark.parametrize(
    "scheduler",
    [
        {"kind": "plateau", "patience": 7},
        {"kind": "plateau", "patience": 5, "warmup_epochs": 1.5},
        {"kind": "step", "step_size": 9},
        "multistep",
        "exponential",
        {"kind": "warm_restarts", "t_0": 9.5},
        {"kind": "triangular", "half_cycle_epochs": 5},
        {"kind": "cosine", "t_max": {"uniform": [5, 10]}},
        {"kind": "constant", "warmup_epochs": 5},
    ],
)
def test_a_schedule_that_acts_causes_no_warning(scheduler: Any) -> None:
    assert warned(search_space=WIDE | {"scheduler": scheduler}, max_epochs=10, early_stopping="none") == []


FADING: list[tuple[dict[str, Any], str, int]] = [
    ({"kind": "exponential", "gamma": 1e-10}, "gamma", 2),
    ({"kind": "exponential", "gamma": {"loguniform": [1e-10, 0.9]}}, "gamma", 2),
    ({"kind": "exponential", "gamma": 0.4, "warmup_epochs": 1}, "gamma", 10),
    ({"kind": "step", "step_size": 1, "gamma": 0.01}, "gamma", 3),
    ({"kind": "multistep", "milestones": [0.1, 0.2, 0.3, 0.4, 0.9], "gamma": 0.1}, "gamma", 9),
    ({"kind": "multistep", "milestones": [0.01], "gamma": 1e-30}, "gamma", 2),
    ({"kind": "polynomial", "power": 10}, "power", 11),
    ({"kind": "cosine", "t_max": {"choice": [1, 20]}}, "t_max", 2),
    ({"kind": "warm_restarts", "peak_decay": 1e-9}, "peak_decay", 8),
    ({"kind": "warm_restarts", "t_0": 0.1, "peak_decay": 0.9}, "peak_decay", 8),
    ({"kind": "warm_restarts", "t_0": 1, "t_mult": 2, "peak_decay": 0.02}, "peak_decay", 4),
    ({"kind": "triangular", "half_cycle_epochs": 0.25, "min_factor": 0, "halve": True}, "halve", 6),
]


@pytest.mark.parametrize(("scheduler", "field", "epoch"), FADING)
def test_a_schedule_that_soon_reduces_the_learning_rate_to_nothing(
    scheduler: dict[str, Any], field: str, epoch: int
) -> None:
    found = warned(search_space=WIDE | {"scheduler": scheduler}, early_stopping="none")
    only(found, f"search_space.scheduler.{field}", f"less than 0.001 of its base from epoch {epoch} of 20 on")


def test_a_plateau_whose_single_reduction_leaves_nothing() -> None:
    def of(**fields: Any) -> list[str]:
        space = WIDE | {"scheduler": {"kind": "plateau", "factor": 1e-9, **fields}}
        return warned(search_space=space, early_stopping="none")

    only(of(patience=0), "search_space.scheduler.factor", "at least 0.001", "after epoch 2 of 20", "(got 1e-09)")
    only(of(min_lr=1e-12), "search_space.scheduler.factor", "after epoch 4 of 20")
    assert of(patience=8) == [], "most epochs come before it"
    assert of(min_lr=1e-4) == [], "the rate is never lower than a tenth of it"
    assert of(factor=1e-3) == []


@pytest.mark.parametrize("max_epochs", [5, 20, 60])
@pytest.mark.parametrize("kind", kinds(Scheduler))
def test_no_default_reduces_the_learning_rate_to_nothing(kind: str, max_epochs: int) -> None:
    found = warned(search_space=WIDE | {"scheduler": kind}, max_epochs=max_epochs, early_stopping="none")
    assert [text for text in found if "of its base" in text] == []


@pytest.mark.parametrize(
    "scheduler",
    [
        {"kind": "exponential", "gamma": 0.5},
        {"kind": "step", "step_size": 5, "gamma": 0.1},
        {"kind": "multistep", "milestones": [0.5, 0.75], "gamma": 1e-4},
        {"kind": "polynomial", "power": 9},
        {"kind": "cosine", "t_max": {"uniform": [10, 20]}},
        {"kind": "cosine", "t_max": {"uniform": [1, 20]}, "min_factor": 0.001},
        {"kind": "warm_restarts", "t_0": 5, "peak_decay": 0.01},
        {"kind": "warm_restarts", "t_0": 0.1, "t_mult": 1000, "peak_decay": 1 - 1e-16},
        {"kind": "triangular", "half_cycle_epochs": 0.25, "halve": True},
        {"kind": "triangular", "half_cycle_epochs": 0.25, "min_factor": 0},
        {"kind": "one_cycle", "div_factor": 1e10, "final_div_factor": 1e10, "pct_start": 0.05},
    ],
)
def test_a_schedule_that_trains_half_of_the_epochs_causes_no_warning(scheduler: Any) -> None:
    assert warned(search_space=WIDE | {"scheduler": scheduler}, early_stopping="none") == []


def test_a_schedule_of_whole_epochs_in_a_trial_of_one() -> None:
    for kind in ("exponential", "step", "plateau", "multistep"):
        (text,) = warned(search_space=WIDE | {"scheduler": kind}, max_epochs=1)
        assert text.startswith("search_space.scheduler.")
        assert "cosine" in text


@pytest.mark.parametrize(
    ("scheduler", "max_epochs", "safe", "path", "epochs"),
    [
        ("one_cycle", 40, 12, "", "12 epochs"),
        ("one_cycle", 15, 5, "", "4.5 epochs"),
        ({"kind": "one_cycle", "pct_start": {"uniform": [0.1, 0.4]}}, 30, 12, "", "12 epochs"),
        ({"kind": "one_cycle", "pct_start": 0.5, "warmup_epochs": {"uniform": [0, 2]}}, 10, 6, "", "6 epochs"),
        ({"kind": "cosine", "warmup_epochs": 2.5}, 20, 3, "", "2.5 epochs"),
        ({"choice": ["constant", {"kind": "plateau", "warmup_epochs": 2}, "one_cycle"]}, 20, 6, ".choice[2]", "6"),
    ],
)
def test_a_rung_at_which_the_learning_rate_still_rises(
    scheduler: Any, max_epochs: int, safe: int, path: str, epochs: str
) -> None:
    def of(**early_stopping: Any) -> list[str]:
        space = WIDE | {"scheduler": scheduler}
        return warned(search_space=space, max_epochs=max_epochs, early_stopping=early_stopping)

    words = f"at least {safe},", f"search_space.scheduler{path} rises", epochs, f"(got {safe - 1})"
    only(of(kind="asha", grace_period=safe - 1), "early_stopping.grace_period", *words)
    assert of(kind="asha", grace_period=safe) == []
    assert of(kind="none") == []


def test_a_small_validation_split() -> None:
    small = {"name": "digits", "validation_fraction": 0.069}
    only(warned(dataset=small), "dataset.validation_fraction", "at least 0.07", "about 99", "1 %", "(got 0.069)")
    assert warned(dataset=small | {"validation_fraction": 0.07}) == []
    assert warned(dataset={"name": "mnist", "validation_fraction": 0.002}) == []


def test_nesterov_momentum_without_momentum() -> None:
    def sgd(**fields: Any) -> dict[str, Any]:
        return {**WIDE, "optimizer": {"choice": ["adam", {"kind": "sgd", **fields}]}}

    field = "search_space.optimizer.choice[1].nesterov"
    only(warned(search_space=sgd(momentum=0.0, nesterov=True)), field, "no effect", "(got true)")
    assert warned(search_space=sgd(momentum=0.0)) == [], "nobody asked for it"
    assert warned(search_space=sgd(momentum={"choice": [0.0, 0.9]}, nesterov=True)) == []


def test_fewer_cpus_than_processes_of_a_trial() -> None:
    resources = {"gpus_per_trial": 4, "cpus_per_trial": 3}
    only(warned(resources=resources), "resources.cpus_per_trial", "at least 4", "(got 3)")
    assert warned(resources=resources | {"cpus_per_trial": 4}) == []
    assert warned(resources={"gpus_per_trial": 1}) == []


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        ({"goal": 0.1}, ["more than 0.1", "guessing"]),
        ({"goal": 0}, ["more than 0.1"]),
        ({"metric": "validation_loss", "goal": 2.31}, ["less than 2.3", "guessing"]),
        ({"goal": 0.11}, []),
        ({"metric": "validation_loss", "goal": 2.29}, []),
    ],
)
def test_a_goal_that_guessing_reaches(objective: dict[str, Any], words: list[str]) -> None:
    found = warned(objective=objective, dataset="digits")
    if words:
        only(found, "objective.goal", *words)
    else:
        assert found == []


def test_a_threshold_that_no_accuracy_exceeds() -> None:
    space = WIDE | {"scheduler": {"kind": "plateau", "threshold": 1}}
    field = "search_space.scheduler.threshold"
    only(warned(search_space=space), field, "less than 1", "is a fraction")
    assert warned(search_space=space, objective={"metric": "validation_loss"}) == []
    searched = WIDE | {"scheduler": {"kind": "plateau", "threshold": {"uniform": [0.1, 2]}}}
    assert warned(search_space=searched) == []


def test_patience_that_ends_while_the_rate_rises() -> None:
    space = WIDE | {"scheduler": {"kind": "cosine", "warmup_epochs": 5}}
    rule = {"kind": "asha", "grace_period": 5}
    only(warned(search_space=space, early_stopping=rule | {"patience": 4}), "early_stopping.patience", "at least 5")
    assert warned(search_space=space, early_stopping=rule | {"patience": 5}) == []


@pytest.mark.parametrize(
    ("document", "field", "words"),
    [
        ({"budget": {"gpu_hours": 5}, "resources": {"gpus_per_trial": 0}}, "budget.gpu_hours", ["budget.slot_hours"]),
        ({"budget": {"failures": 21}}, "budget.failures", ["at most 20", "(got 21)"]),
        ({"finalists": {"trials": 5}, "searcher": FOUR}, "finalists.trials", ["at most 4", "(got 5)"]),
        (
            {"execution": {"precision": "float16"}, "resources": {"gpus_per_trial": 0}},
            "execution.precision",
            ["float32", '(got "float16")'],
        ),
    ],
)
def test_limits_and_formats_that_never_act(document: dict[str, Any], field: str, words: list[str]) -> None:
    only(warned(**document), field, *words)


@pytest.mark.parametrize(
    ("document", "field", "words"),
    [
        ({"budget": {"wall_clock": 60}}, "budget.wall_clock", ["write minutes as 90m", "(got 60.0)"]),
        ({"budget": {"trials_without_improvement": 1}}, "budget.trials_without_improvement", ["larger", "(got 1)"]),
        (
            {"early_stopping": {"kind": "asha", "patience": 5, "min_delta": 0.5}},
            "early_stopping.min_delta",
            ["at most 0.1", "is a fraction", "(got 0.5)"],
        ),
        (
            {"finalists": {"trials": 10, "seeds": 10}},
            "finalists.seeds",
            ["10 finalists with 10 seeds", "2000 epochs", "at most 400", "finalists.max_share", "(got 10)"],
        ),
        ({"finalists": {"trials": 7, "seeds": 3, "max_share": 2}}, "finalists.seeds", ["420 epochs"]),
        (
            {"search_space": WIDE | {"class_weights": "balanced", "balanced_sampling": True}},
            "search_space.class_weights",
            ["search_space.balanced_sampling"],
        ),
    ],
)
def test_valid_values_that_are_probably_mistakes(document: dict[str, Any], field: str, words: list[str]) -> None:
    only(warned(**document), field, *words)


@pytest.mark.parametrize(
    "document",
    [
        {"budget": {"wall_clock": "2m", "trials_without_improvement": 2}},
        {"early_stopping": {"kind": "asha", "patience": 5, "min_delta": 0.1}},
        {"early_stopping": {"kind": "asha", "patience": 5, "min_delta": 2}, "objective": {"metric": "validation_loss"}},
        {"finalists": {"trials": 10, "seeds": 2}},
        {"finalists": {"trials": 10, "seeds": 10, "max_share": 0.25}},
        {"finalists": {"trials": 4, "seeds": 10}, "searcher": FOUR},
        {
            "search_space": WIDE
            | {"class_weights": {"choice": ["none", "balanced"]}, "balanced_sampling": {"choice": [False, True]}}
        },
        {"search_space": WIDE | {"class_weights": {"choice": ["none", "balanced"]}, "balanced_sampling": True}},
    ],
)
def test_values_that_may_be_meant(document: dict[str, Any]) -> None:
    assert warned(**document) == []


def test_a_uniform_domain_over_magnitudes() -> None:
    def of(**fields: Any) -> list[str]:
        return warned(search_space=WIDE | {"optimizer": {"choice": ["adam", {"kind": "sgd", **fields}]}})

    path = "search_space.optimizer.choice[1]"
    only(of(lr={"uniform": [1e-4, 0.1]}), f"{path}.lr", "loguniform", "above 0.01", '(got {"uniform": [0.0001, 0.1]})')
    only(of(weight_decay={"choice": [0, {"uniform": [1e-6, 1e-2]}]}), f"{path}.weight_decay.choice[1]", "loguniform")
    only(of(lr={"quniform": [0.001, 0.2, 0.001]}), f"{path}.lr", "loguniform")
    assert of(lr={"uniform": [0.01, 0.1]}, weight_decay={"loguniform": [1e-6, 0.1]}) == []
    assert of(weight_decay={"uniform": [0, 0.1]}) == [], "loguniform has no 0"


def test_limits_and_formats_that_may_act() -> None:
    on_any_node = {"budget": {"gpu_hours": 5, "failures": 20}, "execution": {"precision": "bfloat16"}}
    assert warned(**on_any_node) == []
    assert warned(searcher=FOUR, finalists={"trials": 4}) == []
    assert warned(searcher=FOUR | {"num_samples": 1}) == [], "the default number of finalists"
    assert warned(budget={"slot_hours": 5}, resources={"gpus_per_trial": 0}, execution={"precision": "float32"}) == []
    grid = {"searcher": "grid", "search_space": LISTED, "budget": {"failures": 7}, "finalists": {"trials": 7}}
    assert warned(**grid) == []


def test_domains_without_effect() -> None:
    none = {"kind": "none", "eps": {"loguniform": [1e-5, 1e-3]}}
    field = "search_space.normalization.choice[1].eps"
    only(warned(search_space=WIDE | {"normalization": {"choice": ["batch", none]}}), field, "no effect")
    assert warned(search_space=WIDE | {"normalization": {"choice": ["batch", "none"]}}) == []
    rprop = WIDE | {"optimizer": {"choice": ["sgd", "rprop"]}}
    scheduled = rprop | {"scheduler": {"choice": ["constant", "cosine"]}}
    only(warned(search_space=scheduled), "search_space.optimizer.choice[1]", "ignores cosine", '(got "rprop")')
    assert warned(search_space=rprop) == []
    assert warned(search_space=WIDE | {"optimizer": "rprop"}) == []


def test_augmentation_after_which_nothing_may_be_left() -> None:
    for dataset, padding, most in (("digits", 5, 4), ("cifar10", 64, 16), ("mnist", 15, 14)):
        space = WIDE | {"augmentation": {"crop_padding": {"choice": [1, padding]}}}
        field = "search_space.augmentation.crop_padding"
        only(warned(dataset=dataset, search_space=space), field, f"at most {most},", f"(got {padding})")
        assert warned(dataset=dataset, search_space=WIDE | {"augmentation": {"crop_padding": most}}) == []
    folder = {"name": "image_folder", "path": "x", "size": 16}
    only(
        warned(dataset=folder, search_space=WIDE | {"augmentation": {"crop_padding": 9}}),
        "search_space.augmentation.crop_padding",
        "at most 8,",
    )
    shifted = WIDE | {"augmentation": {"choice": ["none", {"translation": {"uniform": [0, 0.9]}}]}}
    only(warned(dataset="digits", search_space=shifted), "search_space.augmentation.choice[1].translation", "(got 0.9)")
    assert warned(dataset="digits", search_space=WIDE | {"augmentation": {"translation": 0.5}}) == []


def test_a_batch_larger_than_the_training_set() -> None:
    space = WIDE | {"batch_size": {"choice": [64, 2048]}}
    only(warned(dataset="digits", search_space=space), "search_space.batch_size", "at most 1294,", "(got 2048)")
    assert warned(dataset="digits", search_space=WIDE | {"batch_size": 1024}) == []
