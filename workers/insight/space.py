"""Space: what the results show of the search space, each finding with the figures that it rests on.

Owns when a winner counts as being at a bound, and when an alternative counts as one that never won. It must not know
files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy import stats

from search_spaces.domains import Choice, Interval, count
from search_spaces.insight import Finding
from search_spaces.positions import place_of
from search_spaces.sampling import domains, without_indices
from workers.insight.evidence import Evidence
from workers.insight.hyperparameters import label
from workers.state.trial_table import Trial

AT_BOUND = 0.05  # of the domain
OUTER = 1 / 3  # of the domain, in which the median of the best trials must be too: one trial may be there by chance
BEST = 0.2  # share of the trials that count as the best, and at least FEWEST_BEST
FEWEST_BEST = 5
FEWEST_CANDIDATES = 3  # of a domain with steps: of two, one is always at a bound
BY_CHANCE = 0.05  # largest probability that none of the best trials has an alternative although it is as good


def space_findings(evidence: Evidence) -> dict[str, Finding]:
    """The findings by path of the domain; of an alternative by `path[index]`."""
    trials = [trial for trial in evidence.trials if trial.sample]
    if len(trials) < 2 * FEWEST_BEST:
        return {}
    best = trials[: max(FEWEST_BEST, math.ceil(BEST * len(trials)))]
    knows_winner = best[0] is evidence.won.trial  # an early version recorded no samples
    found: dict[str, Finding] = {}
    for path, domain in domains(evidence.spec.search_space):
        if knows_winner and isinstance(domain, Interval) and (finding := _at_bound(path, domain, best)):
            found[path] = finding
        if isinstance(domain, Choice):
            found |= _never_won(path, domain, trials, best)
    return found


def _at_bound(path: str, domain: Interval, best: Sequence[Trial]) -> Finding | None:
    values = [trial.sample[path] for trial in best if path in trial.sample]
    if path not in best[0].sample or len(values) < 3:
        return None
    if domain.step is not None and count(domain) < FEWEST_CANDIDATES:
        return None
    value, name = values[0], without_indices(path)
    places = sorted(place_of(domain, value) for value in values)
    place, median = place_of(domain, value), places[len(places) // 2]
    is_low = value == domain.low or place <= AT_BOUND
    is_high = value == domain.high or place >= 1 - AT_BOUND
    if not (is_low and median <= OUTER) and not (is_high and median >= 1 - OUTER):
        return None
    bound, end = (domain.low, "lower") if is_low else (domain.high, "upper")
    text = (
        f"the winner's {name} {value:.6g} is at the {end} bound {bound:.6g}, and half of the best {len(values)} trials "
        f"are in that third of the domain: the best value may be beyond it"
    )
    figures = {"value": value, "bound": bound, "position": place, "median_position": median, "trials": len(values)}
    return Finding(kind="at-bound", subject=name, text=text, figures=figures)


def _never_won(path: str, domain: Choice, trials: Sequence[Trial], best: Sequence[Trial]) -> dict[str, Finding]:
    """Alternatives of which none of the best trials has one although chance would have brought one there."""
    offered = [trial for trial in trials if path in trial.sample]
    top = [trial for trial in best if path in trial.sample]
    by_index: dict[int, list[int]] = {}
    for rank, trial in enumerate(offered, 1):
        by_index.setdefault(int(trial.sample[path]), []).append(rank)
    found: dict[str, Finding] = {}
    for index, ranks in sorted(by_index.items()):
        if ranks[0] <= len(top):
            continue
        by_chance = float(stats.hypergeom.pmf(0, len(offered), len(ranks), len(top)))
        if by_chance > BY_CHANCE / (len(domain.choice) - 1):  # each that lost is one more occasion for chance
            continue
        name, value = without_indices(path), offered[ranks[0] - 1].best_value or 0.0
        text = (
            f"{name} {label(domain, index)} was tried {len(ranks)} times, its best trial has rank {ranks[0]} of "
            f"{len(offered)} with {value:.4g} (the first has {offered[0].best_value:.4g}), and none is among the best "
            f"{len(top)}, which chance would do in {100 * by_chance:.2g} % of searches"
        )
        figures = {"trials": len(ranks), "best_rank": ranks[0], "best_value": value, "by_chance": by_chance}
        found[f"{path}[{index}]"] = Finding(kind="never-won", subject=name, text=text, figures=figures)
    return found
