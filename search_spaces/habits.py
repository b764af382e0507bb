"""Habits: what people write who know Optuna, sweeps of Weights & Biases, or Ray Tune, and what a spec has in its place.

Owns the table and the hints. A hint only follows a problem: nothing here decides whether a document is valid. It must
not know pydantic, nor the classes of a spec.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

#: Field at the root of a spec, as other tools name it -> what to write.
ROOT_FIELDS = {
    "asha": "early_stopping: {kind: asha, ...} and max_epochs; asha is of version 1",
    "config": "search_space: {...}",
    "direction": "objective: {mode: max} or {mode: min}",
    "directions": "objective: {mode: max} or {mode: min}; there is one objective",
    "early_terminate": "early_stopping: {kind: asha, ...}",
    "epochs": "max_epochs: N",
    "goal": "objective: {goal: VALUE}",
    "gpus": "resources: {gpus_per_trial: N}",
    "hyperparameters": "search_space: {...}",
    "max_concurrent_trials": "resources: {max_concurrent_trials: N}",
    "max_t": "max_epochs: N",
    "method": "searcher: gp, tpe, random or grid; for bayes, gp",
    "metric": "objective: {metric: NAME}; `rung schema` lists the metrics",
    "mode": "objective: {mode: max} or {mode: min}",
    "n_jobs": "resources: {max_concurrent_trials: N}",
    "n_trials": "searcher: {kind: tpe, num_samples: N}",
    "num_samples": "searcher: {kind: tpe, num_samples: N}",
    "param_space": "search_space: {...}",
    "parameters": "search_space: {...}",
    "params": "search_space: {...}",
    "patience": "early_stopping: {kind: asha, patience: N}; for the search, budget: {trials_without_improvement: N}",
    "pruner": "early_stopping: asha or none",
    "run_cap": "searcher: {kind: tpe, num_samples: N}",
    "sampler": "searcher: gp, tpe, random or grid",
    "search_alg": "searcher: gp, tpe, random or grid",
    "timeout": "budget: {wall_clock: 2h}",
}
#: Domain of another tool -> the notation of a spec, without its ends.
DISTRIBUTIONS = {
    "categorical": "choice",
    "choice": "choice",
    "grid_search": "choice",
    "suggest_categorical": "choice",
    "float": "uniform",
    "suggest_float": "uniform",
    "suggest_uniform": "uniform",
    "uniform": "uniform",
    "log_uniform": "loguniform",
    "log_uniform_values": "loguniform",
    "loguniform": "loguniform",
    "suggest_loguniform": "loguniform",
    "q_uniform": "quniform",
    "quniform": "quniform",
    "int": "int_range",
    "int_uniform": "int_range",
    "randint": "int_range",
    "suggest_int": "int_range",
    "lograndint": "log_int_range",
}
#: What stands between the brackets of a notation.
FORMS = {
    "choice": "[A, B, ...]",
    "uniform": "[LOW, HIGH]",
    "loguniform": "[LOW, HIGH]",
    "quniform": "[LOW, HIGH, STEP]",
    "int_range": "[LOW, HIGH]",
    "log_int_range": "[LOW, HIGH]",
}
#: Notation -> that of the other type of numbers.
OTHER_TYPE = {
    "uniform": "int_range",
    "quniform": "int_range",
    "loguniform": "log_int_range",
    "int_range": "uniform",
    "log_int_range": "loguniform",
}
#: `tune.loguniform(1e-4, 1e-1)`, `trial.suggest_float(...)`.
_CALL = re.compile(r"(?:\w+\.)*(\w+)\(.*\)", re.DOTALL)
_LOW, _HIGH = ("min", "low", "lower"), ("max", "high", "upper")
#: Most alternatives that a hint repeats.
MAX_SHOWN = 6


def root_hint(name: str) -> str:
    """What to write for a field at the root that a spec does not have; empty where it is not known."""
    return f"write {ROOT_FIELDS[name]}" if name in ROOT_FIELDS else ""


def domain_hint(node: Any, allowed: Sequence[str]) -> str:
    """What to write for a value that was probably meant as a domain; empty where it is not known. `allowed` are the
    notations that the field accepts."""
    written = _domain(node, allowed)
    return f"to search several values, write {written}" if written else ""


def _domain(node: Any, allowed: Sequence[str]) -> str:
    if isinstance(node, list):
        return _choice(node)
    if isinstance(node, str):
        call = _CALL.fullmatch(node.strip())
        return _form(call[1], allowed) if call else ""
    if not isinstance(node, dict):
        return ""
    if isinstance(values := node.get("values"), list):
        return _choice(values)
    if isinstance(items := node.get("grid_search"), list):
        return _choice(items)
    low, high = (next((node[name] for name in names if name in node), None) for names in (_LOW, _HIGH))
    named = next((node[name] for name in ("distribution", "type") if isinstance(node.get(name), str)), "")
    is_log = node.get("log") is True
    if low is None or high is None:
        return _form(named, allowed)
    whole = all(isinstance(end, int) for end in (low, high))
    default = ("log_int_range" if whole else "loguniform") if is_log else ("int_range" if whole else "uniform")
    keyword = _accepted(DISTRIBUTIONS.get(named, default), allowed)
    step = ", STEP" if keyword == "quniform" else ""
    ends = FORMS["choice"] if keyword == "choice" else f"[{_shown(low)}, {_shown(high)}{step}]"
    return f"{{{keyword}: {ends}}}"


def _form(name: str, allowed: Sequence[str]) -> str:
    if name not in DISTRIBUTIONS:
        return ""
    keyword = _accepted(DISTRIBUTIONS[name], allowed)
    return f"{{{keyword}: {FORMS[keyword]}}}"


def _accepted(keyword: str, allowed: Sequence[str]) -> str:
    """The notation, or that of the field's own type of numbers; a choice where it accepts no interval."""
    return next((one for one in (keyword, OTHER_TYPE.get(keyword, "")) if one in allowed), "choice")


def _choice(values: list[Any]) -> str:
    if not values or len(values) > MAX_SHOWN or not all(isinstance(value, str | int | float) for value in values):
        return "{choice: [A, B, ...]}"
    return f"{{choice: [{', '.join(map(_shown, values))}]}}"


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)[:40]
