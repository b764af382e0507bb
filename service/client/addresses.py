"""Addresses: the paths of what has routes in several modules, and the header for a revision."""

from __future__ import annotations

from search_spaces.protocol import API_PREFIX
from service.client.encoding import path_part, whole_number


def experiment_path(experiment_id: str) -> str:
    return f"{API_PREFIX}/experiments/{path_part(experiment_id, 'experiment_id')}"


def trial_path(experiment_id: str, trial: int) -> str:
    return f"{experiment_path(experiment_id)}/trials/{whole_number(trial, 'trial')}"


def preset_path(name: str) -> str:
    return f"{API_PREFIX}/presets/{path_part(name, 'name')}"


def if_match(revision: int | None) -> dict[str, str]:
    return {} if revision is None else {"If-Match": f'"{whole_number(revision, "revision")}"'}
