"""Upgrade: documents of version 1, as version 2 writes them.

Owns everything that is known of version 1, which is accepted for ever: in requests, patches, database rows, journals
and trial folders. `upgrade` only moves and renames what a document has. It judges nothing, so a document that was
wrong in version 1 is wrong in version 2, and fields that nobody wrote keep their defaults, which are the same in both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

VERSION = 2
#: In characters: more than the paths of fields have that version 2 renamed.
LONGEST_PATH = 1_000

DEPRECATED = (
    "version: this spec is of version 1 and was read as version 2: `asha.max_t` is now `max_epochs`, the rest of "
    "`asha` is `early_stopping`, and the fields of schedulers have torch's names"
)

#: Fields of image folders that did not exist while version 1 of their reader was the only one.
_AFTER_READER_1 = {"background", "reader_version"}
_DRAWN_FIRST = {"repeat_configurations": True, "startup": "random"}
#: kind of the searcher -> fields that did not exist at first, with the rules of that time.
_FIRST_RULES: dict[str, dict[str, Any]] = {
    "random": _DRAWN_FIRST,
    "tpe": {
        **_DRAWN_FIRST,
        "choices_of_numbers": "unordered",
        "learn_from": "ended_trials",
        "avoid_divergence": False,
    },
    "gp": {**_DRAWN_FIRST, "choices_of_numbers": "unordered", "avoid_divergence": False},
    "auto": {"dependent": "tpe", "startup_trials": 10},
}
#: The fields of version 2 that `asha` became.
_REPLACE_ASHA = {"max_epochs", "early_stopping"}

#: kind of the scheduler -> its fields in version 1 -> in version 2, which names them as torch does.
_SCHEDULER_FIELDS: dict[str, dict[str, str]] = {
    "step": {"step_epochs": "step_size"},
    "cosine": {"epochs": "t_max"},
    "warm_restarts": {"cycle_epochs": "t_0", "cycle_mult": "t_mult"},
    "one_cycle": {"rise": "pct_start", "start_divisor": "div_factor", "end_divisor": "final_div_factor"},
}
_SCHEDULER_PATH = re.compile(
    rf"(scheduler(?:\[\d+\])?\.)({'|'.join(name for names in _SCHEDULER_FIELDS.values() for name in names)})"
    r"((?:\[\d+\])*)"  # an interval inside a choice
)
_FIELD_PATH = re.compile(r"(?<![\w.\]])[a-z]\w*(?:\.\w+|\[\d+\])*")
_NEW_NAMES = {old: new for names in _SCHEDULER_FIELDS.values() for old, new in names.items()}


@dataclass(frozen=True)
class Upgraded:
    """A document of version 2.

    `written` maps paths in it to the paths in the document that was given, so that problems are reported where the
    person wrote them. It is empty for a document of version 2.
    """

    document: Any
    written: dict[str, str] = field(default_factory=dict)

    @property
    def was_upgraded(self) -> bool:
        return bool(self.written)

    def as_written(self, path: str) -> str:
        """The path of a field in the document that was given."""
        ends = [match.start() for match in re.finditer(r"[.\[]", path[:LONGEST_PATH])]
        for end in (len(path), *reversed(ends)):
            if path[:end] in self.written:
                return self.written[path[:end]] + path[end:]
        return path

    def in_text(self, text: str) -> str:
        """A sentence about this document, with the paths of the document that was given."""
        return _FIELD_PATH.sub(lambda path: self.as_written(path[0]), text) if self.written else text


def restore_defaults(document: dict[str, Any]) -> dict[str, Any]:
    """A stored experiment spec or trial spec, with the values of fields that did not exist when it was stored.

    What is stored has every field. A search that began without a field continues as it began, whatever the default of
    new searches is.
    """
    restored = dict(document)
    dataset = document.get("dataset")
    if isinstance(dataset, dict) and dataset.get("name") == "image_folder" and not _AFTER_READER_1 & dataset.keys():
        restored["dataset"] = {**dataset, "reader_version": 1}
    if "hyperparameters" in document:  # a trial has no searcher
        return restored
    searcher = document.get("searcher", "tpe")
    searcher = {"kind": searcher} if isinstance(searcher, str) else searcher
    if isinstance(searcher, dict) and isinstance(kind := searcher.get("kind"), str):
        restored["searcher"] = {**_FIRST_RULES.get(kind, {}), **searcher}
    restored.setdefault("finalists", {"trials": 0})
    stopping = "asha" if "asha" in document else "early_stopping"
    rule = document.get(stopping, "asha")
    rule = {"kind": rule} if isinstance(rule, str) else rule
    if isinstance(rule, dict) and (stopping == "asha" or rule.get("kind") == "asha"):
        restored[stopping] = {"ties": "continue", **rule}
    return restored


def upgrade(document: Any) -> Upgraded:
    """A spec, trial spec or merge patch in version 2. The document itself is not changed.

    A document is of version 1 if it says so, or if it says no version and has a field that only version 1 has.
    """
    if not isinstance(document, dict) or not _is_version_1(document):
        return Upgraded(document)
    written = {"version": "version"}
    new = dict(document)
    if "version" in new:
        new["version"] = VERSION
    if _has_known_asha(new):
        _upgrade_asha(new, written)
    for name in ("search_space", "hyperparameters"):
        space = new.get(name)
        if isinstance(space, dict) and "scheduler" in space:
            path = f"{name}.scheduler"
            new[name] = {**space, "scheduler": _upgrade_scheduler(space["scheduler"], path, written)}
    return Upgraded(new, written)


def upgrade_sample(sample: Mapping[str, Any]) -> dict[str, Any]:
    """A stored sample or flat parameters, with the paths of version 2. Those of version 2 are returned as they are."""
    return {_upgrade_path(path): value for path, value in sample.items()}


def _upgrade_path(path: str) -> str:
    match = _SCHEDULER_PATH.fullmatch(path)
    return match[1] + _NEW_NAMES[match[2]] + match[3] if match else path


def _is_version_1(document: dict[str, Any]) -> bool:
    if "version" in document:
        version = document["version"]
        return isinstance(version, int | float) and not isinstance(version, bool) and version == 1
    if "asha" in document:
        return True
    space = document.get("search_space")
    return isinstance(space, dict) and any(map(_old_fields, _alternatives(space.get("scheduler"))))


def _has_known_asha(document: dict[str, Any]) -> bool:
    """Whether `asha` has a form that version 1 accepted. What it refused stays, and is refused as an unknown field."""
    asha = document.get("asha", "")
    known = asha is None or (isinstance(asha, dict) and "kind" not in asha)
    return known and not document.keys() & _REPLACE_ASHA  # with both, it would be unclear which one is meant


def _upgrade_asha(new: dict[str, Any], written: dict[str, str]) -> None:
    asha = new.pop("asha")
    written["early_stopping"] = "asha"
    if asha is None:  # in a merge patch: back to the defaults
        new["max_epochs"], new["early_stopping"] = None, None
        written["max_epochs"] = "asha"
        return
    rest = dict(asha)
    written["max_epochs"] = "asha.max_t"
    if "max_t" in rest:
        new["max_epochs"] = rest.pop("max_t")
    if rest:
        new["early_stopping"] = {"kind": "asha", **rest}


def _upgrade_scheduler(node: Any, path: str, written: dict[str, str]) -> Any:
    if isinstance(node, dict) and isinstance(node.get("choice"), list):
        items = [
            _upgrade_scheduler(item, f"{path}.choice[{index}]", written) for index, item in enumerate(node["choice"])
        ]
        return {**node, "choice": items}
    renamed = _old_fields(node)
    written |= {f"{path}.{new}": f"{path}.{old}" for old, new in renamed.items()}
    return {renamed.get(name, name): value for name, value in node.items()} if renamed else node


def _old_fields(scheduler: Any) -> dict[str, str]:
    """The fields of version 1 that a scheduler has, with their new names."""
    kind = scheduler.get("kind") if isinstance(scheduler, dict) else None
    names = _SCHEDULER_FIELDS.get(kind, {}) if isinstance(kind, str) else {}
    return {old: new for old, new in names.items() if old in scheduler and new not in scheduler}


def _alternatives(node: Any) -> list[Any]:
    return node["choice"] if isinstance(node, dict) and isinstance(node.get("choice"), list) else [node]
