"""Searched: which hyperparameters a search space searches, how they are named in short, and the space as text.

Pure functions over a complete spec as plain data, so that stored specs need not be read again. It must not know how
text is drawn.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from search_spaces.domains import KEYWORDS
from search_spaces.sampling import NOT_APPLICABLE, flatten

#: Parameters that are shown first.
FIRST_PARAMETERS = ("optimizer.kind", "optimizer.lr")


def searched_parameters(space: Any) -> set[str]:
    """Names of the parameters that have a domain in the search space of a complete spec, as trials name them.

    Of a choice of blocks, these are the kind and what differs between alternatives of one kind.
    """
    return set(_searched(space, ""))


def _searched(node: Any, path: str) -> Iterator[str]:
    if not isinstance(node, dict):
        if isinstance(node, list) and any(True for item in node for _ in _searched(item, path)):
            yield path
        return
    if not _is_domain(node):
        for name, value in node.items():
            yield from _searched(value, f"{path}.{name}" if path else name)
        return
    (keyword, alternatives), *_ = node.items()
    blocks = [item for item in alternatives if isinstance(item, dict) and not _is_domain(item)]
    if keyword != "choice" or len(blocks) < len(alternatives):
        yield path
    by_kind: dict[Any, list[dict[str, Any]]] = {}
    for block in blocks:
        yield from _searched(block, path)
        by_kind.setdefault(block.get("kind"), []).append(block)
    if len(by_kind) > 1:
        yield f"{path}.kind"
    for same in by_kind.values():
        first, *others = map(flatten, same)
        for name, value in ((name, value) for other in others for name, value in other.items()):
            if first.get(name) != value and not KEYWORDS & set(name.split(".")):
                yield f"{path}.{name}"


def importance_order(name: str) -> tuple[bool, bool, str]:
    """A sort key: the optimizer and its rate first, then other kinds."""
    return name not in FIRST_PARAMETERS, not name.endswith(".kind"), name


def short_name(name: str, names: Sequence[str]) -> str:
    """`lr` for `optimizer.lr`, and the family for its kind, unless two names would be the same."""
    family, _, last = name.rpartition(".")
    if last == "kind":
        return family
    return name if sum(other.rpartition(".")[2] == last for other in names) > 1 else last


def described(node: Any) -> dict[str, str]:
    """What a part of a complete spec says of each value, by dotted path: `loguniform(0.001, 0.1)`, or the value.

    Where alternatives of a choice say different things, all of them, separated by ` | `.
    """
    found: dict[str, dict[str, None]] = {}
    for name, text in _described(node, ""):
        found.setdefault(name, {})[text] = None
    return {name: " | ".join(texts) for name, texts in found.items()}


def _described(node: Any, path: str) -> Iterator[tuple[str, str]]:
    if not isinstance(node, dict):
        yield path, _text(node)
        return
    if not _is_domain(node):
        for name, value in node.items():
            yield from _described(value, f"{path}.{name}" if path else name)
        return
    blocks = [item for item in node.get("choice", ()) if isinstance(item, dict) and not _is_domain(item)]
    for block in blocks:
        yield from _described(block, path)
    if not blocks:
        yield path, _text(node)


def _is_domain(node: dict[str, Any]) -> bool:
    """Whether a block is a domain, written with its keyword: `{loguniform: [0.001, 0.1]}`."""
    return len(node) == 1 and all(keyword in KEYWORDS and isinstance(node[keyword], list) for keyword in node)


def _text(value: Any) -> str:
    if value is None:
        return NOT_APPLICABLE
    if isinstance(value, bool):
        return str(value).lower()  # as in a document
    if isinstance(value, dict):
        if _is_domain(value):
            return ", ".join(f"{keyword}({', '.join(map(_text, values))})" for keyword, values in value.items())
        return json.dumps(value)  # within a list
    return f"[{', '.join(map(_text, value))}]" if isinstance(value, list) else str(value)
