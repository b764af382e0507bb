"""Explanation: what to show of an insight, as labeled lines for a person.

Pure functions. It must not know how text is drawn, nor how an insight is computed.
"""

from __future__ import annotations

from collections.abc import Iterable

from search_spaces.finalist_ties import tie
from search_spaces.insight import Bar, Finding, Insight, Interval
from search_spaces.phrases import counted, listed
from search_spaces.replicates import is_replicate, replicated
from service.presentation.text import Fact, figure, one_line

MOST_STEPS = 4  # of the path from the defaults to the winner
MOST_BARS = 3  # of the hyperparameters that matter
MOST_TIES = 10  # numbers of trials on one line
OF_IMAGES = "dataset: "  # with which a warning about a data set begins
SHORT_CURVES = "curves of fewer than five epochs are not examined"
MOST_FINDINGS = 4  # about the search space: the whole must fit on one screen


def explain(insight: Insight, experiment_id: str, warnings: Iterable[str] = ()) -> list[Fact]:
    """Why this one, how sure, and what next, on one screen. `warnings` are the experiment's: those of its images count
    here too."""
    choice = insight.choice
    facts = [Fact("winner", _won(insight))]
    if choice.parameters:
        facts.append(Fact("with", ", ".join(f"{name} {figure(value)}" for name, value in choice.parameters.items())))
    facts += [*_replicated(insight), *_why(insight), *_path(insight, experiment_id), *_trained(insight)]
    facts += [*_sure(insight), *_classes(insight)]
    facts += [Fact("warning", one_line(warning)) for warning in warnings if warning.startswith(OF_IMAGES)]
    facts += _curves(insight)
    facts += [Fact("space", one_line(finding.text)) for finding in insight.space[:MOST_FINDINGS]]
    if len(insight.space) > MOST_FINDINGS:
        more = counted(len(insight.space) - MOST_FINDINGS, "more finding")
        facts.append(Fact("space", f"{more}: --json shows them"))
    return [*facts, _next(insight, experiment_id)]


def in_short(insight: Insight, experiment_id: str) -> Fact:
    """The insight on one line."""
    sure = insight.sureness
    parts = [_tested(insight)] if sure.test else []
    if tied := tie(insight.replication):
        parts.append(tied)
    if sure.ties is not None:
        parts.append(_ties(insight))
    if sure.overtuned:
        parts.append("the test accuracy is lower than expected")
    if insight.warning:
        parts.append(one_line(insight.warning))
    return Fact("insight", "; ".join([*parts, f"`rung insight {experiment_id}` says why"]))


def _won(insight: Insight) -> str:
    """Which trial won, by what, and the value and epoch of the run that was measured on the test set."""
    choice = insight.choice
    of = counted(choice.trials, "trial")
    if choice.without_value:
        of += f" with a value (of {choice.trials + choice.without_value})"
    reached = f"{figure(choice.value)} at epoch {choice.epoch}"
    if choice.run is None and insight.replication and insight.replication.chosen != choice.trial:
        # An earlier version wrote of the best trial of the search, whichever trial had won.
        won = f"trial {insight.replication.chosen} won by fresh seeds; what follows is of trial {choice.trial}"
        return f"{won}, the best in the search of {of}: {reached}; only the test accuracy is of the winner"
    if choice.run is None or not is_replicate(choice.run):
        return f"trial {choice.trial} has the best {insight.metric} of {of}: {reached}"
    best = "ties for the best" if tie(insight.replication) else "has the best"
    text = f"trial {choice.trial} of {of} {best} mean {insight.metric} over fresh seeds; registered is seed "
    text += f"{replicated(choice.run)[1]}: {reached}"
    if choice.best_of_search not in {None, choice.trial}:
        text += f"; the best in the search was trial {choice.best_of_search}"
    return text


def _why(insight: Insight) -> Iterable[Fact]:
    importance = insight.importance
    for group in importance.groups:
        shown = [bar for bar in group.bars if not bar.noise]
        where = f"of the differences at epoch {importance.epoch}, {counted(group.trials, 'trial')}"
        where += f" with {group.within}" if group.within else ""
        if shown:
            text = ", ".join(map(_bar, shown[:MOST_BARS]))
            yield Fact("matters", f"{text} {where}")
        if noise := [bar.name for bar in group.bars if bar.noise]:
            yield Fact("noise", f"{listed(noise, 6)}: no more than chance {where}")
    if importance.note:
        yield Fact("matters", importance.note)


def _path(insight: Insight, experiment_id: str) -> Iterable[Fact]:
    """What led from the defaults to the winner, the largest gains first; the others are left to --json."""
    found = insight.path
    if found is None:
        return
    largest = sorted(found.steps, key=lambda step: -abs(step.gain))[:MOST_STEPS]
    steps = ", ".join(
        f"{listed(step.names, 2)} {step.gain:+.4f} ({step.low:+.4f} to {step.high:+.4f})" for step in largest
    )
    text = f"from the defaults, {figure(found.start)} by the forest at epoch {found.epoch}, to {figure(found.end)}: "
    yield Fact("path", f"{text}{steps}; rung insight {experiment_id} --path > path.yaml trains it")


def _trained(insight: Insight) -> Iterable[Fact]:
    """A path that was trained, a line for each configuration."""
    for step in insight.trained:
        if step.mean is None:
            yield Fact("trained", f"trial {step.trial}, {listed(step.names, 2)}: no run completed")
            continue
        text = f"trial {step.trial}: {figure(step.mean)}, the mean of {counted(len(step.values), 'run')}"
        if step.names:
            text += f"; {listed(step.names, 2)}"
        if step.gain:
            text += f" {step.gain.value:+.4f} ({step.gain.low:+.4f} to {step.gain.high:+.4f})"
        yield Fact("trained", text)


def _sure(insight: Insight) -> Iterable[Fact]:
    sure = insight.sureness
    if sure.expected:
        of = counted(sure.validation_images or 0, "validation image")
        run = insight.choice.run or 0
        chosen = "of a finalist that its fresh seeds chose" if is_replicate(run) else "of a trial chosen in this way"
        yield Fact("expected", f"{_interval(sure.expected)} {chosen}, by {of}")
    if sure.test:
        yield Fact("test", _tested(insight).removeprefix("test "))
    if sure.overtuned:
        yield Fact("overtuned", "the test accuracy is lower than expected of a trial that was chosen, beyond chance")
        yield Fact("overtuned", "either the test images or their labels differ from those of validation,")
        yield Fact("overtuned", "or these chose more than the trial: its epoch, or the space after earlier searches")
    if sure.ties is not None:
        numbers = f": {listed(map(str, sure.ties), MOST_TIES)}" if sure.ties else ""
        yield Fact("ties", f"{_ties(insight)}{numbers}")
    for note in (*sure.notes, *insight.notes):
        yield Fact("note", one_line(note))


def _replicated(insight: Insight) -> Iterable[Fact]:
    found = insight.replication
    if found is None:
        return
    first, *others = found.finalists
    seeds = counted(len(first.values), "fresh seed")
    spread = f" (sd {figure(first.sd)})" if first.sd is not None else ""
    tied = tie(found)
    text = tied or f"trial {first.trial} won by the mean over {seeds}: {figure(first.mean)}{spread}"
    for second in others[:1] if not tied else []:
        text += f", against {figure(second.mean)} of trial {second.trial}"
    if not others:
        text += "; every other finalist diverged with a fresh seed, or was not trained with all of them"
    if found.difference:
        low, high = 100 * found.difference.low, 100 * found.difference.high
        text += f"; the difference is {100 * found.difference.value:.2f} ({low:.2f} to {high:.2f}) percentage points"
    if found.expected is None:
        yield Fact("seeds", f"{text}; one seed does not tell how much seeds differ")
        return
    yield Fact("seeds", f"{text}; with one more seed, {figure(found.expected)} is to be expected on the same images")


def _classes(insight: Insight) -> Iterable[Fact]:
    if insight.scores:
        test = insight.scores.test
        values = {
            "balanced accuracy": test.balanced_accuracy,
            "macro F1": test.macro_f1,
            "top-5 accuracy": test.top5_accuracy,
            "calibration error": test.calibration_error,
        }
        known = (f"{name} {value:.4f}" for name, value in values.items() if value is not None)
        yield Fact("classes", f"on the test images: {', '.join(known)}")
    if insight.warning:
        yield Fact("warning", one_line(insight.warning))


def _curves(insight: Insight) -> Iterable[Fact]:
    for finding in _of_winner(insight):
        yield Fact("curves", f"the winner, {finding.kind}: {one_line(finding.text)}")
    if insight.counts:
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(insight.counts.items(), key=lambda one: -one[1]))
        yield Fact("curves", f"of the trials that were examined: {counts}")


def _of_winner(insight: Insight) -> list[Finding]:
    """What the curves of the winner show."""
    return next((one.findings for one in insight.curves if one.trial == insight.choice.trial), [])


def _next(insight: Insight, experiment_id: str) -> Fact:
    if insight.next.spec is None:
        if insight.sureness.overtuned:
            return Fact("next", "compare images and labels of test and validation: no change of the space mends that")
        if found := _of_winner(insight):
            return Fact(
                "next", f"the winner is {listed(one.kind for one in found)}: see what its curves ask for, above"
            )
        if 0 < len(insight.sureness.ties or ()) == insight.sureness.compared - 1:
            return Fact("next", "no trial can be distinguished from the winner: try another space, or more images")
        if insight.sureness.ties:
            more = "fresh seeds or validation images may" if insight.replication else "validation images would"
            return Fact("next", f"nothing that was found asks for a change of the space; more {more} separate ties")
        if insight.space:
            return Fact("next", "no valid change of the space follows from what was found")
        return Fact("next", f"nothing that was found asks for a change; {SHORT_CURVES}")
    changes = "; ".join(map(one_line, insight.next.changes))
    return Fact("next", f"{changes}: rung insight {experiment_id} --next > next.yaml")


def _tested(insight: Insight) -> str:
    test, images = insight.sureness.test, insight.sureness.test_images
    return f"test {_interval(test)} of {counted(images or 0, 'test image')}" if test else ""


def _ties(insight: Insight) -> str:
    sure = insight.sureness
    ties = len(sure.ties or ())
    of = counted(max(0, sure.compared - 1), "other trial")
    return f"{ties} of {of} cannot be distinguished from trial {insight.choice.trial}"


def _bar(bar: Bar) -> str:
    return f"{bar.name} {100 * bar.share:.0f} % ({100 * bar.low:.0f} to {100 * bar.high:.0f})"


def _interval(found: Interval) -> str:
    """A share and the ends of its interval."""
    return f"{found.value:.4f} ({found.low:.4f} to {found.high:.4f})"
