"""Cross-field rules: rules between fields of an experiment.

Owns every rule that looks at more than one part of an experiment, except those of a single searcher or stopping rule,
which are on its class. Of a plugin's arguments, which are its own, only names and hidden domains are
looked at. Nothing here counts the candidates of a
domain, so the cost of a spec is bounded by its size. It must not change a spec.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from search_spaces.domains import KEYWORDS, Choice, Interval, bounds_of
from search_spaces.models import NEVER_DETERMINISTIC, ModelSpec, PluginModel, TorchvisionModel
from search_spaces.normalization import Batch, Group
from search_spaces.optimizers import NAdam
from search_spaces.phrases import counted, listed
from search_spaces.problems import Problem, shorten
from search_spaces.schedulers import SchedulerSpec

if TYPE_CHECKING:
    from search_spaces.experiment import ExperimentSpec

#: Path and value of what a field may become.
Alternative = tuple[str, Any]


@dataclass(frozen=True)
class Rule:
    """`find` yields the problems of a spec. It looks at nothing except the parts that are named in `reads`."""

    find: Callable[[ExperimentSpec], Iterator[Problem]]
    reads: tuple[str, ...]


def problems(spec: ExperimentSpec, unread: Collection[str] = ()) -> Iterator[Problem]:
    """The problems of all rules. Rules that read a part in `unread` are left out: that part has problems of its own."""
    for rule in RULES:
        if not set(rule.reads) & set(unread):
            yield from rule.find(spec)


def _goal(spec: ExperimentSpec) -> Iterator[Problem]:
    if spec.objective.goal is not None and (rule := spec.objective.rule_broken_by(spec.objective.goal)):
        yield Problem("objective.goal", rule, spec.objective.goal)


def _early_stopping(spec: ExperimentSpec) -> Iterator[Problem]:
    yield from spec.early_stopping.problems(spec.max_epochs)


def _min_delta(spec: ExperimentSpec) -> Iterator[Problem]:
    """A percentage, probably: with it every trial would stop."""
    if spec.objective.is_share and spec.early_stopping.min_delta >= 1:
        rule = f"must be less than 1 for {spec.objective.metric}, which is a fraction"
        yield Problem("early_stopping.min_delta", rule, spec.early_stopping.min_delta)


def _searcher(spec: ExperimentSpec) -> Iterator[Problem]:
    yield from spec.searcher.problems(spec.search_space)


def _warmup(spec: ExperimentSpec) -> Iterator[Problem]:
    for path, scheduler in schedulers(spec):
        longest = bounds_of(scheduler.warmup_epochs)[1]
        if longest >= spec.max_epochs:
            yield Problem(f"{path}.warmup_epochs", f"must be less than max_epochs={spec.max_epochs}", longest)


def _own_normalization(spec: ExperimentSpec) -> Iterator[Problem]:
    """torchvision's models keep their own layers: `normalization` must have its default wherever one may be drawn."""
    models = [path for path, model in _models(spec) if isinstance(model, TorchvisionModel)]
    for path, value in alternatives(spec.search_space.normalization, "search_space.normalization"):
        if models and value != Batch():
            rule = f"must be left at its default, because the torchvision model of {models[0]} keeps its own layers"
            yield Problem(path, rule, value.model_dump(mode="json"))


def _groups(spec: ExperimentSpec) -> Iterator[Problem]:
    """Group normalization needs every width that it may meet to be a multiple of its number of groups."""
    widths, hidden = [], []
    for path, model in _models(spec):
        if isinstance(model, ModelSpec):
            widths += [one for name in model.width_fields for one in _field(model, name, path)]
            hidden += [one for name in model.hidden_fields for one in _field(model, name, path)]
    largest = max((int(bounds_of(value)[1]) for _, value in (*widths, *hidden)), default=0)
    groups = _distinct_groups(spec, largest)
    common = math.lcm(*groups)
    for path, value in widths:
        if _not_a_multiple(value, common) is not None:
            group, width = _undivided(value, groups)
            yield Problem(
                path, f"must be a multiple of the {counted(group, 'group')} of search_space.normalization", width
            )
    for path, value in hidden:
        if _not_a_multiple(value, common) is not None:
            group, features = _undivided(value, groups)
        elif (equal := next((group for group in groups if _may_be(value, group)), None)) is not None:
            group = features = equal
        else:
            continue
        rule = f"must be 0 or a larger multiple of the {counted(group, 'group')} of search_space.normalization"
        yield Problem(path, rule, features)


def _deterministic(spec: ExperimentSpec) -> Iterator[Problem]:
    """Torch raises at the first gradient of a model that has no deterministic form, but only on a GPU."""
    if not spec.execution.deterministic or spec.resources.gpus_per_trial == 0:
        return
    for path, model in _models(spec):
        for where, name in _field(model, "name", path) if isinstance(model, TorchvisionModel) else ():
            if name.startswith(NEVER_DETERMINISTIC):
                yield Problem(
                    where,
                    "must not be an AlexNet or VGG model if execution.deterministic is true, because these have no "
                    "deterministic backward pass on a GPU: choose another model, or set resources.gpus_per_trial to 0",
                    name,
                )


def _nadam(spec: ExperimentSpec) -> Iterator[Problem]:
    """Not a rule of the field, because stored specs may break it."""
    for path, optimizer in alternatives(spec.search_space.optimizer, "search_space.optimizer"):
        if isinstance(optimizer, NAdam) and (beta := bounds_of(optimizer.beta1)[1]) > optimizer.LARGEST_BETA1:
            rule = f"must be at most {optimizer.LARGEST_BETA1}, because nadam divides by 1 - beta1 in single precision"
            yield Problem(f"{path}.beta1", rule, beta)


def _plugin_arguments(spec: ExperimentSpec) -> Iterator[Problem]:
    """Not rules of the fields, because stored specs may break them."""
    for path, model in _models(spec):
        if not isinstance(model, PluginModel):
            continue
        names = set(model.arguments)
        if len(names) == 1 and names < KEYWORDS and isinstance(next(iter(model.arguments.values())), list):
            rule = (
                "must not be a domain: each argument may be one, and to choose between several arguments, write a "
                "choice between plugins, {choice: [{kind: plugin, ...}, ...]}"
            )
            yield Problem(f"{path}.arguments", rule, shorten(model.arguments))
        for name, argument in model.arguments.items():
            where = f"{path}.arguments.{name}"
            if name in model.GIVEN:
                rule = f"must have another name, because Rung calls every plugin with {listed(model.GIVEN)}"
                yield Problem(where, rule)
            for inner, value in alternatives(argument, where):
                if isinstance(value, Interval) and not math.isfinite(value.high - value.low):
                    yield Problem(
                        inner, f"must have high - low of at most {sys.float_info.max:.3g}", list(value.bounds)
                    )
                yield from _hidden_domains(value, inner, name)


def _hidden_domains(value: Any, path: str, name: str) -> Iterator[Problem]:
    """What is written as a domain inside an argument, where nothing would be drawn."""
    if isinstance(value, dict):
        if len(value) == 1 and value.keys() <= KEYWORDS:
            whole = f"only the whole argument may be one, as in {name}: {{choice: [[1, 2], [2, 4]]}}"
            rule = f"must not be a domain inside an argument: {whole}"
            yield Problem(path, rule, shorten(value))
            return
        for key, item in value.items():
            yield from _hidden_domains(item, f"{path}.{key}", name)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _hidden_domains(item, f"{path}[{index}]", name)


def _compile(spec: ExperimentSpec) -> Iterator[Problem]:
    """Stored specs may break it: these trials are then not compiled."""
    if spec.execution.compile and (spec.resources.gpus or 0) > 1:
        rule = (
            "must be false if resources.gpus_per_trial is more than 1, as only the training of one process is compiled"
        )
        yield Problem("execution.compile", rule, True)


RULES = (
    Rule(_compile, ("execution", "resources")),
    Rule(_goal, ("objective",)),
    Rule(_early_stopping, ("early_stopping", "max_epochs")),
    Rule(_min_delta, ("early_stopping", "objective")),
    Rule(_searcher, ("searcher", "search_space")),
    Rule(_warmup, ("search_space.scheduler", "max_epochs")),
    Rule(_own_normalization, ("search_space.model", "search_space.normalization")),
    Rule(_groups, ("search_space.model", "search_space.normalization")),
    Rule(_nadam, ("search_space.optimizer",)),
    Rule(_plugin_arguments, ("search_space.model",)),
    Rule(_deterministic, ("search_space.model", "execution", "resources")),
)


def _models(spec: ExperimentSpec) -> list[Alternative]:
    return alternatives(spec.search_space.model, "search_space.model")


def schedulers(spec: ExperimentSpec) -> Iterator[tuple[str, SchedulerSpec]]:
    yield from alternatives(spec.search_space.scheduler, "search_space.scheduler")


def alternatives(node: Any, path: str) -> list[Alternative]:
    """What a field may become, each with its path: the alternatives of a choice, or the value itself."""
    if isinstance(node, Choice):
        return [(f"{path}.choice[{index}]", item) for index, item in enumerate(node.choice)]
    return [(path, node)]


def _field(node: Any, name: str, path: str) -> list[Alternative]:
    """What a field of a member of a family may become. Alternatives that are single values share the field's path."""
    value = getattr(node, name)
    return [(f"{path}.{name}", item) for _, item in alternatives(value, "")]


def _distinct_groups(spec: ExperimentSpec, largest: int) -> list[int]:
    """Numbers of groups that may be drawn, ascending, as many as it takes to decide for widths of at most `largest`.

    A number that divides several others below `largest` has their least common multiple below it too, so once that
    multiple is larger, no width can satisfy all of them and the numbers so far name one that it breaks.
    """
    found: set[int] = set()
    common = 1
    for _, value in alternatives(spec.search_space.normalization, "search_space.normalization"):
        for _, groups in _field(value, "groups", "") if isinstance(value, Group) else ():
            for number in _numbers(groups):
                if number not in found:
                    found.add(number)
                    common = math.lcm(common, number)
                if common > largest:
                    return sorted(found)
    return sorted(found)


def _numbers(value: Any) -> Iterator[int]:
    """The whole numbers of a value or a domain, ascending."""
    if isinstance(value, Interval):
        yield from range(int(value.low), int(value.high) + 1, int(value.step or 1))
    else:
        yield int(value)


def _not_a_multiple(value: Any, of: int) -> int | None:
    """A number that a value or a domain may become and that is no multiple of `of`, or None."""
    if not isinstance(value, Interval):
        return int(value) if value % of else None
    low, step = int(value.low), int(value.step or 1)
    return next((number for number in (low, low + step) if number % of), None)


def _undivided(value: Any, groups: list[int]) -> tuple[int, int]:
    """The first number of groups that does not divide everything that a value may become, and what it does not."""
    undivided = ((group, _not_a_multiple(value, group)) for group in groups)
    return next((group, number) for group, number in undivided if number is not None)


def _may_be(value: Any, number: int) -> bool:
    if not isinstance(value, Interval):
        return bool(value == number)
    return value.low <= number <= value.high and (number - int(value.low)) % int(value.step or 1) == 0
