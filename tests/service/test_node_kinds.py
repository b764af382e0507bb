"""Which nodes Ray can add is a setting, because Ray does not say it."""

from __future__ import annotations

import pytest

from service.environment import SettingsError, read_settings
from service.node_kinds import NodeKind, parse


def test_kinds_have_amounts_and_labels() -> None:
    text = " gpus=8, cpus=64 ; cpus=32,label:zone=a,label:ray.io/accelerator-type=H100;"
    labels = {"zone": "a", "ray.io/accelerator-type": "H100"}
    assert parse(text) == (NodeKind(64, 8), NodeKind(32, 0, labels))
    assert parse("") == ()


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("gpus=8", "each kind needs CPUs (got 'gpus=8')"),
        ("cpus=8,gpu=1", "(got 'gpu=1')"),
        ("cpus=8,memory=256GiB", "(got 'memory=256GiB')"),
        ("cpus=8,cpus=9", "(got 'cpus=9')"),
        ("cpus=8,label:=a", "(got 'label:=a')"),
        ("cpus=many", "cpus must be a number of at most 1000000 (got 'many')"),
        ("cpus=inf", "cpus must be a number of at most 1000000 (got 'inf')"),
        ("cpus=8,gpus=0.5", "gpus must be a whole number of at most 1000000 (got '0.5')"),
        ("cpus=1;" * 17, "must have at most 16 kinds of nodes (got 17)"),
    ],
)
def test_other_texts_are_refused_by_name(text: str, rule: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings({"RUNG_LARGEST_NODE": text})
    [problem] = caught.value.problems
    assert problem.startswith("RUNG_LARGEST_NODE: ")
    assert rule in problem
