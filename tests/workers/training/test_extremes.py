"""Values at the limits of the spec: each is refused by validation, or trials of it run."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import nn

from search_spaces.augmentation import AugmentationSpec
from search_spaces.domains import MAX_INTEGER
from search_spaces.early_stopping import EarlyStopping
from search_spaces.early_stopping.base import Comparison
from search_spaces.experiment import ExperimentSpec, SearchSpace
from search_spaces.models import Model
from search_spaces.normalization import Normalization
from search_spaces.optimizers import Optimizer
from search_spaces.problems import SpecError
from search_spaces.schedulers import Scheduler
from search_spaces.searchers import Searcher
from search_spaces.searchers.base import Finding, SearchProblem, TrialResult
from search_spaces.spec import Spec
from search_spaces.validation import validate
from tests.support.families import kinds
from tests.support.trainings import splits
from workers.models.build import build_model
from workers.training.build import build_optimizer
from workers.training.loop import Training
from workers.training.schedule import Schedule

MAX_EPOCHS = 3
BATCHES = 4
LARGEST = 1.7e308  # of a number without a limit


def extremes(model: type[Spec]) -> dict[str, list[Any]]:
    """Field -> the smallest and the largest number that its schema allows."""
    found = {}
    for field, schema in model.model_json_schema()["properties"].items():
        options = [schema, *schema.get("anyOf", ())]
        values = [end for option in options if "const" not in option for end in _ends(option)]
        if values:
            found[field] = list(dict.fromkeys(values))
    return found


def _ends(schema: Mapping[str, Any]) -> Iterator[Any]:
    match schema.get("type"):
        case "number":
            low, high = schema.get("exclusiveMinimum", -LARGEST), schema.get("exclusiveMaximum", LARGEST)
            yield schema.get("minimum", math.nextafter(low, math.inf))
            yield schema.get("maximum", math.nextafter(high, -math.inf))
        case "integer" if "enum" not in schema:
            yield schema.get("minimum", -MAX_INTEGER)
            yield schema.get("maximum", MAX_INTEGER)


def single(family: Any) -> Iterator[dict[str, Any]]:
    """Blocks of a family with one value at its limit."""
    for kind, cls in kinds(family).items():
        for field, values in extremes(cls).items():
            yield from ({"kind": kind, field: value} for value in values)


def together(family: Any) -> Iterator[dict[str, Any]]:
    """Blocks of a family with all values at their limits, in every combination."""
    for kind, cls in kinds(family).items():
        ends = extremes(cls)
        for values in itertools.product(*ends.values()):
            yield {"kind": kind, **dict(zip(ends, values, strict=True))}


def accepted(**fields: Any) -> ExperimentSpec | None:
    """None where validation refuses it with rules."""
    try:
        return validate({"name": "x", "max_epochs": MAX_EPOCHS, **fields})
    except SpecError as error:
        found = error.problems
    assert [str(problem) for problem in found if not problem.rule.startswith("must ")] == []
    return None


@pytest.mark.parametrize("kind", kinds(Scheduler))
def test_schedules_at_their_limits_give_rates(kind: str) -> None:
    count = 0
    for block in together(Scheduler):
        spec = accepted(search_space={"scheduler": block}) if block["kind"] == kind else None
        if spec is None:
            continue
        count += 1
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
        schedule = Schedule(spec.search_space.scheduler, optimizer, BATCHES, MAX_EPOCHS, 0.1, "max")
        for epoch in range(MAX_EPOCHS):
            for _ in range(BATCHES):
                schedule.batch_done()
                assert 0 <= schedule.rate < math.inf, block
            schedule.epoch_done(float(epoch))
    assert count


def test_optimizers_at_all_their_limits_are_no_errors_of_torch() -> None:
    for block in together(Optimizer):
        spec = accepted(search_space={"optimizer": block})
        if spec is None:
            continue
        layer = nn.Linear(3, 2)
        optimizer = build_optimizer(spec.search_space.optimizer, layer)
        for _ in range(3):
            layer.zero_grad()
            layer(torch.ones(4, 3)).square().sum().backward()
            optimizer.step()


@pytest.mark.parametrize(
    "space",
    [
        *({"normalization": block} for block in single(Normalization)),
        *({"augmentation": {field: value}} for field, ends in extremes(AugmentationSpec).items() for value in ends),
        *(
            {"augmentation": dict(zip(extremes(AugmentationSpec), values, strict=True))}
            for values in zip(*extremes(AugmentationSpec).values(), strict=True)
        ),
        *({field: value} for field, ends in extremes(SearchSpace).items() for value in ends),
        {"model": {"kind": "cnn", "width": 8, "depth": 1, "hidden": 8, "dropout": math.nextafter(1, 0)}},
    ],
    ids=str,
)
def test_trials_at_the_limits_of_a_search_space_are_trained(space: dict[str, Any]) -> None:
    spec = accepted(search_space={"batch_size": 16, "model": {"kind": "cnn", "width": 8, "depth": 1}} | space)
    if spec is None:
        return
    training = Training(spec.bind({}), splits(train=40, validation=16))
    for _ in range(2):
        assert set(training.run_epoch()) >= {"train_loss", "validation_loss"}


@pytest.mark.parametrize("block", [*single(Model)], ids=str)
def test_models_at_their_limits_are_built(block: dict[str, Any]) -> None:
    """Without memory: the largest have more weights than a machine holds."""
    spec = accepted(search_space={"model": {"name": "x"} | block if block["kind"] == "plugin" else block})
    if spec is None:
        return
    space = spec.search_space
    with torch.device("meta"):
        model = build_model(space.model, space.normalization, 3, 10, 32)
        assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_stopping_rules_at_their_limits_decide() -> None:
    for block in together(EarlyStopping):
        spec = accepted(early_stopping=block, objective={"metric": "validation_loss"})
        if spec is None:
            continue
        rule = spec.early_stopping.rule(Comparison("validation_loss", -1, MAX_EPOCHS))
        for epoch, trial in itertools.product(range(1, MAX_EPOCHS), range(4)):
            rule.decide(trial, epoch, [1.7e308, 0.0, math.nan, 0.5][trial], 0.5)


@pytest.mark.parametrize("block", [*together(Searcher)], ids=str)
def test_searchers_at_their_limits_propose(block: dict[str, Any]) -> None:
    arguments = {
        "wide": {"uniform": [-LARGEST / 2, LARGEST / 2]},
        "tiny": {"loguniform": [5e-324, 1e-320]},
        "large": {"loguniform": [5e-324, LARGEST]},
        "steps": {"quniform": [0, 1e-300, 1e-304]},
        "whole": {"int_range": [-MAX_INTEGER, MAX_INTEGER, MAX_INTEGER // 1024]},
    }
    if block["kind"] == "grid":
        arguments = {"steps": arguments["steps"], "whole": arguments["whole"]}
    space = {"model": {"kind": "plugin", "name": "x", "arguments": arguments}}
    spec = accepted(search_space=space, searcher=block)
    if spec is None:
        return
    algorithm = spec.searcher.algorithm(SearchProblem(spec.search_space, 1, 0, (1,)))
    for number in range(6):
        sample = algorithm.propose(number)
        assert sample is not None
        spec.bind(sample, number)
        algorithm.report(number, 1, 0.1 * number)
        algorithm.observe(TrialResult(number, Finding.COMPLETED, (0.1 * number,), 0.1 * number))
