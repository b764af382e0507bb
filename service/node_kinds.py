"""Node kinds: the nodes that Ray's autoscaler can add, as an operator names them in a setting. Pure.

Ray does not say over its REST interface what its autoscaler could add, so a person does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

LABEL = "label:"
MAX_KINDS = 16
FORM = "must be like cpus=64,gpus=8 or cpus=64,gpus=8,label:zone=a; several kinds are separated by ;"


@dataclass(frozen=True)
class NodeKind:
    """What one node of the kind has. Its labels decide of which pool it is."""

    cpus: float
    gpus: float = 0
    labels: Mapping[str, str] = field(default_factory=dict)


def parse(text: str) -> tuple[NodeKind, ...]:
    """The kinds in a text such as `cpus=64,gpus=8; cpus=32,label:zone=a`. Raises ValueError for any other text."""
    kinds = tuple(_kind(one) for one in map(str.strip, text.split(";")) if one)
    if len(kinds) > MAX_KINDS:
        raise ValueError(f"must have at most {MAX_KINDS} kinds of nodes (got {len(kinds)})")
    return kinds


def _kind(text: str) -> NodeKind:
    amounts: dict[str, float] = {}
    labels: dict[str, str] = {}
    for pair in filter(None, map(str.strip, text.split(","))):
        name, _, value = (part.strip() for part in pair.partition("="))
        label = name.removeprefix(LABEL).strip()
        if name.startswith(LABEL) and label and value and label not in labels:
            labels[label] = value
        elif name in ("cpus", "gpus") and name not in amounts:
            amounts[name] = _amount(name, value)
        else:
            raise ValueError(f"{FORM} (got {pair!r})")
    if not amounts.get("cpus"):
        raise ValueError(f"{FORM}: each kind needs CPUs (got {text!r})")
    return NodeKind(amounts["cpus"], amounts.get("gpus", 0), labels)


def _amount(name: str, value: str) -> float:
    try:
        amount = float(value)
    except ValueError:
        amount = math.nan
    if not 0 <= amount <= 1e6 or (name == "gpus" and amount % 1):
        whole = "a whole number" if name == "gpus" else "a number"
        raise ValueError(f"{name} must be {whole} of at most 1000000 (got {value!r})")
    return amount
