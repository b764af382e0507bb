"""Cross-field warnings: settings that are valid and probably mistakes, such as a search that cannot find anything.

Owns every warning that looks at more than one part of an experiment; those of a single searcher, stopping rule or
scheduler are on its class. Nothing here counts the candidates of a domain, so the cost of a spec is bounded by its
size. It must not change a spec.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING

from pydantic import BaseModel

from search_spaces.cross_field_rules import alternatives, schedulers
from search_spaces.datasets.shares import MIN_IMAGES
from search_spaces.domains import Interval, bounds_of
from search_spaces.normalization import NoNormalization
from search_spaces.optimizers import SGD, Rprop
from search_spaces.phrases import counted
from search_spaces.problems import Problem, shorten
from search_spaces.replicates import Finalists
from search_spaces.sampling import choices, count_distinct, distinct
from search_spaces.schedulers import FAINT, MAX_FAINT_SHARE, Constant, Plateau
from search_spaces.searchers.drawn import DrawnSearcherSpec

if TYPE_CHECKING:
    from search_spaces.experiment import ExperimentSpec

SHORT_S = 60.0  # of a search
LARGE_DELTA = 0.1  # of a share: an improvement by ten percentage points
MAGNITUDES = 100  # high / low of a domain, from which on its lower end is hardly ever drawn uniformly


def warnings(spec: ExperimentSpec) -> Iterator[str]:
    """One sentence each, after the path of the field: what should be changed, and what happens otherwise."""
    yield from _label_warnings(spec)
    found = (
        _goal(spec),
        _equal_alternatives(spec),
        _configurations(spec),
        _stagnation(spec),
        _limits(spec),
        _wall_clock(spec),
        _seeds(spec),
        _min_delta(spec),
        _magnitudes(spec),
        _balancing(spec),
        _precision(spec),
        spec.searcher.warnings(spec.search_space),
        spec.early_stopping.warnings(spec.max_epochs),
        _schedules(spec),
        _rises(spec),
        _patience(spec),
        _momentum(spec),
        _eps(spec),
        _rprop(spec),
        _shifts(spec),
        _batches(spec),
        _validation(spec),
        _processes(spec),
    )
    yield from map(str, chain.from_iterable(found))


def _label_warnings(spec: ExperimentSpec) -> Iterator[str]:
    dataset = spec.dataset
    augmentations = [value for _, value in alternatives(spec.search_space.augmentation, "search_space.augmentation")]
    flip = max(bounds_of(value.horizontal_flip)[1] for value in augmentations)
    if not dataset.keeps_labels_mirrored() and flip > 0:
        declarable = "mirror_safe" in type(dataset).model_fields
        yield (
            f"search_space.augmentation.horizontal_flip: mirrored {dataset.name} images may no longer match their "
            "label; set it to 0" + (", or declare dataset.mirror_safe: true if yours keep theirs" if declarable else "")
        )
    rotation = max(bounds_of(value.rotation)[1] for value in augmentations)
    if rotation > dataset.safe_rotation:
        yield (
            f"search_space.augmentation.rotation: {dataset.name} images rotated by up to {rotation:g} degrees may no "
            f"longer match their label, as 6 and 9 do; use at most {dataset.safe_rotation:g}"
        )


def _goal(spec: ExperimentSpec) -> Iterator[Problem]:
    """A goal that a network reaches which guesses: the search ends with its first epoch."""
    goal, classes = spec.objective.goal, spec.dataset.classes
    if goal is None:
        return
    chance = 1 / classes if classes else 0.0
    ends = "which guessing reaches: the search ends once a trial has it"
    if spec.objective.is_share and goal <= chance:
        yield Problem("objective.goal", f"should be more than {chance:g}, {ends}", goal)
    elif not spec.objective.is_share and classes and goal >= (loss := math.log(classes)):
        yield Problem("objective.goal", f"should be less than {loss:.3g}, {ends}", goal)


def _equal_alternatives(spec: ExperimentSpec) -> Iterator[Problem]:
    """A grid trains an equal alternative again; another searcher draws it more often and learns of it separately."""
    for path, choice in choices(spec.search_space, "search_space"):
        if len(first := distinct(choice)) < len(choice.choice):
            again = next(item for index, item in enumerate(choice.choice) if index not in first)
            rule = f"should list each alternative once, but {len(first)} of its {len(choice.choice)} are different"
            yield Problem(path, rule, shorten(again.model_dump(mode="json") if isinstance(again, BaseModel) else again))


def _configurations(spec: ExperimentSpec) -> Iterator[Problem]:
    """A grid has no trials beyond its combinations."""
    if spec.searcher.exhaustive or (count := count_distinct(spec.search_space)) >= spec.num_samples:
        return
    if count == 1:
        rule = (
            "should be 1, because no hyperparameter has a domain and all trials train the same configuration with "
            "different seeds; to search, give one a domain such as {choice: [...]}"
        )
    else:
        repeats = isinstance(spec.searcher, DrawnSearcherSpec) and spec.searcher.repeat_configurations
        then = "further trials repeat one with another seed" if repeats else "the search ends when all were tried"
        rule = (
            f"should be at most {count:g}, the number of different configurations, because {then}; lower it, or search "
            "more values"
        )
    yield Problem("searcher.num_samples", rule, spec.num_samples)


def _stagnation(spec: ExperimentSpec) -> Iterator[Problem]:
    """The trial with the best value does not count."""
    limit = spec.budget.trials_without_improvement
    if limit is not None and limit >= spec.num_samples - 1:
        rule = f"should be less than {spec.num_samples - 1}, because the search ends after {spec.num_samples} trials"
        yield Problem("budget.trials_without_improvement", rule, limit)
    elif limit == 1:
        rule = "should be larger, because the search ends with the first trial that is not better than all before it"
        yield Problem("budget.trials_without_improvement", rule, limit)


def _limits(spec: ExperimentSpec) -> Iterator[Problem]:
    """Limits that no search of this spec can reach."""
    if spec.budget.gpu_hours is not None and spec.resources.gpus_per_trial == 0:
        rule = "has no effect, because resources.gpus_per_trial is 0: use budget.slot_hours or budget.wall_clock"
        yield Problem("budget.gpu_hours", rule, spec.budget.gpu_hours)
    if spec.searcher.exhaustive:
        return  # a grid knows its number of trials itself
    if spec.budget.failures is not None and spec.budget.failures > spec.num_samples:
        rule = f"should be at most {spec.num_samples}, the number of trials"
        yield Problem("budget.failures", rule, spec.budget.failures)
    if spec.finalists.trials > max(spec.num_samples, Finalists().trials):
        rule = f"should be at most {spec.num_samples}, the number of trials"
        yield Problem("finalists.trials", rule, spec.finalists.trials)


def _wall_clock(spec: ExperimentSpec) -> Iterator[Problem]:
    limit_s = spec.budget.wall_clock
    if limit_s is not None and limit_s <= SHORT_S:
        rule = "should be longer: a number without a unit is of seconds; write minutes as 90m, and hours as 2h"
        yield Problem("budget.wall_clock", rule, limit_s)


def _seeds(spec: ExperimentSpec) -> Iterator[Problem]:
    """Finalists that train for longer than the search can. All trials are trained again to compare them, as a path."""
    finalists, trials = spec.finalists, spec.num_samples
    runs = finalists.trials * finalists.seeds
    may_run = finalists.max_share is None or runs <= finalists.max_share * trials
    if may_run and finalists.trials < trials < runs:
        rule = (
            f"should be less, because {finalists.trials} finalists with {counted(finalists.seeds, 'seed')} each train "
            f"for {counted(runs * spec.max_epochs, 'epoch')}, and the whole search for at most "
            f"{trials * spec.max_epochs}; or set finalists.max_share"
        )
        yield Problem("finalists.seeds", rule, finalists.seeds)


def _min_delta(spec: ExperimentSpec) -> Iterator[Problem]:
    """A percentage, probably. Without patience it has no effect, which the rule says itself."""
    early_stopping = spec.early_stopping
    if spec.objective.is_share and early_stopping.patience is not None and early_stopping.min_delta > LARGE_DELTA:
        rule = (
            f"should be at most {LARGE_DELTA:g}, because {spec.objective.metric} is a fraction: only an epoch that is "
            "better by so much counts as an improvement"
        )
        yield Problem("early_stopping.min_delta", rule, early_stopping.min_delta)


def _magnitudes(spec: ExperimentSpec) -> Iterator[Problem]:
    for path, optimizer in alternatives(spec.search_space.optimizer, "search_space.optimizer"):
        for name in ("lr", "weight_decay"):
            for inner, domain in alternatives(getattr(optimizer, name), f"{path}.{name}"):
                if isinstance(domain, Interval) and not domain.log and 0 < MAGNITUDES * domain.low <= domain.high:
                    rule = (
                        "should be loguniform, because its values differ in magnitude, and nine of ten uniform draws "
                        f"are above {domain.high / 10:g}"
                    )
                    yield Problem(inner, rule, {domain.keyword: list(domain.bounds)})


def _balancing(spec: ExperimentSpec) -> Iterator[Problem]:
    """Where one of the two is searched, trials with only one of them are compared."""
    space = spec.search_space
    weights, sampling = alternatives(space.class_weights, ""), alternatives(space.balanced_sampling, "")
    if all(value == "balanced" for _, value in weights) and all(value for _, value in sampling):
        rule = (
            "should be none, because search_space.balanced_sampling draws all classes equally often already: with "
            "both, a class counts the more, the fewer images it has"
        )
        yield Problem("search_space.class_weights", rule, "balanced")


def _precision(spec: ExperimentSpec) -> Iterator[Problem]:
    if spec.resources.gpus_per_trial == 0 and spec.execution.precision not in {"auto", "float32"}:
        rule = "has no effect, because resources.gpus_per_trial is 0 and a CPU computes in float32"
        yield Problem("execution.precision", rule, spec.execution.precision)


def _schedules(spec: ExperimentSpec) -> Iterator[Problem]:
    rates = [bounds_of(optimizer.lr) for _, optimizer in alternatives(spec.search_space.optimizer, "")]
    lowest, highest = min(low for low, _ in rates), max(high for _, high in rates)
    for path, scheduler in schedulers(spec):
        for found in scheduler.warnings(spec.max_epochs):
            yield Problem(f"{path}.{found.field}", found.rule, found.value)
        if isinstance(scheduler, Plateau) and (floor := bounds_of(scheduler.min_lr)[1]) >= lowest:
            rule = (
                f"should be less than every learning rate of search_space.optimizer, of which the lowest is {lowest:g}"
            )
            yield Problem(f"{path}.min_lr", rule, floor)
        metric = spec.objective.metric
        if isinstance(scheduler, Plateau) and spec.objective.is_share and bounds_of(scheduler.threshold)[0] >= 1:
            rule = f"should be less than 1, because {metric} is a fraction: no epoch would count as an improvement"
            yield Problem(f"{path}.threshold", rule, bounds_of(scheduler.threshold)[0])
        if isinstance(scheduler, Plateau) and (factor := bounds_of(scheduler.factor)[0]) < FAINT:
            yield from _single_reduction(scheduler, f"{path}.factor", factor, highest, spec.max_epochs)


def _single_reduction(
    scheduler: Plateau, path: str, factor: float, highest: float, max_epochs: int
) -> Iterator[Problem]:
    """The first epoch sets the mark, and patience + 1 others miss it."""
    earliest = bounds_of(scheduler.warmup_epochs)[0] + bounds_of(scheduler.patience)[0] + 2
    if bounds_of(scheduler.min_lr)[0] < FAINT * highest and earliest < MAX_FAINT_SHARE * max_epochs:
        rule = (
            f"should be at least {FAINT:g}, otherwise a single reduction, which may come after epoch "
            f"{math.ceil(earliest)} of {max_epochs}, leaves a learning rate with which a trial learns almost nothing"
        )
        yield Problem(path, rule, factor)


def _rises(spec: ExperimentSpec) -> Iterator[Problem]:
    """While the rate rises, the order of trials says little about their end (docs/decisions/0029)."""
    rungs = spec.early_stopping.rungs(spec.max_epochs)
    end, path = max((round(one.rise_end(spec.max_epochs), 6), path) for path, one in schedulers(spec))
    safe = math.ceil(end)
    if spec.num_samples > 1 and rungs and rungs[0] < safe:
        epochs = counted(end, "epoch")
        rule = (
            f"should be at least {safe}, because the learning rate of {path} rises for up to {epochs}, in which the "
            "order of trials says little about their end"
        )
        yield Problem("early_stopping.grace_period", rule, rungs[0])


def _patience(spec: ExperimentSpec) -> Iterator[Problem]:
    """More than the scheduler's patience of epochs reduce the rate, and the trial needs one more to profit from it."""
    patience = spec.early_stopping.patience
    waits = [bounds_of(one.patience)[1] for _, one in schedulers(spec) if isinstance(one, Plateau)]
    if patience is not None and waits and patience < (least := int(max(waits)) + 2):
        rule = (
            f"should be at least {least}, otherwise a trial is stopped before search_space.scheduler has reduced its "
            "learning rate"
        )
        yield Problem("early_stopping.patience", rule, patience)
    rises = math.ceil(max(round(one.rise_end(spec.max_epochs), 6) for _, one in schedulers(spec)))
    if patience is not None and patience < rises and not waits:
        rule = f"should be at least {rises}, otherwise a trial is stopped while its learning rate still rises"
        yield Problem("early_stopping.patience", rule, patience)


def _momentum(spec: ExperimentSpec) -> Iterator[Problem]:
    """torch refuses Nesterov momentum without momentum; a trial then trains without it."""
    for path, optimizer in alternatives(spec.search_space.optimizer, "search_space.optimizer"):
        if not isinstance(optimizer, SGD) or "nesterov" not in optimizer.model_fields_set:
            continue
        if bounds_of(optimizer.momentum)[1] == 0 and any(value for _, value in alternatives(optimizer.nesterov, "")):
            rule = "should be false, because it has no effect while momentum is 0; or set momentum, such as 0.9"
            yield Problem(f"{path}.nesterov", rule, True)


def _eps(spec: ExperimentSpec) -> Iterator[Problem]:
    """The field is common to all normalizations; only a value that somebody chose is worth a word."""
    for path, value in alternatives(spec.search_space.normalization, "search_space.normalization"):
        if isinstance(value, NoNormalization) and value != NoNormalization():
            rule = "has no effect for none, and configurations that differ in it are equal: omit it"
            yield Problem(f"{path}.eps", rule)


def _rprop(spec: ExperimentSpec) -> Iterator[Problem]:
    others = [one.kind for _, one in schedulers(spec) if one not in (Constant(), Plateau())]  # somebody chose it
    for path, optimizer in alternatives(spec.search_space.optimizer, "search_space.optimizer"):
        if isinstance(optimizer, Rprop) and others:
            rule = (
                f"should be another optimizer, or search_space.scheduler constant: rprop ignores {others[0]} after its "
                "first step, so configurations that differ in the scheduler are equal"
            )
            yield Problem(path, rule, optimizer.kind)


def _shifts(spec: ExperimentSpec) -> Iterator[Problem]:
    """Crops and shifts after which little of an image may be left."""
    side = spec.dataset.image_side
    for path, value in alternatives(spec.search_space.augmentation, "search_space.augmentation"):
        padding, shift = bounds_of(value.crop_padding)[1], bounds_of(value.translation)[1]
        if side is not None and padding > side / 2:
            rule = (
                f"should be at most {side // 2}, because a crop of {side} pixels may show less than half of the image"
            )
            yield Problem(f"{path}.crop_padding", rule, padding)
        if shift > 0.5:
            rule = "should be at most 0.5, otherwise less than half of the image may be left"
            yield Problem(f"{path}.translation", rule, shift)


def _batches(spec: ExperimentSpec) -> Iterator[Problem]:
    """Data sets whose number of images is unknown until they are read have no warning here."""
    images, largest = spec.dataset.training_images, bounds_of(spec.search_space.batch_size)[1]
    if images is not None and largest > (left := round(images * (1 - spec.dataset.validation_fraction))):
        rule = f"should be at most {left}, the number of training images: an epoch would be a single step"
        yield Problem("search_space.batch_size", rule, largest)


def _validation(spec: ExperimentSpec) -> Iterator[Problem]:
    """Data sets whose number of images is unknown until they are read have no warning here."""
    images = spec.dataset.training_images
    if images is None or (count := images * spec.dataset.validation_fraction) >= MIN_IMAGES:
        return
    least = math.ceil(1000 * MIN_IMAGES / images) / 1000
    rule = (
        f"should be at least {least:g}, because with about {counted(max(1, round(count)), 'validation image')}, one "
        "is more than 1 % of the accuracy"
    )
    yield Problem("dataset.validation_fraction", rule, spec.dataset.validation_fraction)


def _processes(spec: ExperimentSpec) -> Iterator[Problem]:
    """With several GPUs, a trial has a process for each."""
    cpus, gpus = spec.resources.cpus_per_trial, spec.resources.gpus or 0
    if gpus > 1 and cpus < gpus:
        rule = f"should be at least {gpus:g}, because each of the {gpus:g} GPUs of a trial has a process of its own"
        yield Problem("resources.cpus_per_trial", rule, cpus)
