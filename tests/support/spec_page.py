"""The tables of docs/spec.md, read from the JSON Schema of a spec: `python -m tests.support.spec_page` writes them.

Owns the form of the tables. The text around them is written by hand; a test compares the page with the schema.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from search_spaces.controls import SPEC_PATHS
from search_spaces.datasets import Dataset
from search_spaces.experiment import ExperimentSpec
from search_spaces.spec import members
from service.domain.continuation import SHARED

PAGE = Path(__file__).parents[2] / "docs" / "spec.md"
TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
SCHEMA: dict[str, Any] = ExperimentSpec.model_json_schema()
DEFINITIONS: dict[str, dict[str, Any]] = SCHEMA["$defs"]
#: Blocks that have one form.
BLOCKS = {
    "experiment": SCHEMA,
    "search_space": DEFINITIONS["SearchSpace"],
    "augmentation": DEFINITIONS["AugmentationSpec"],
    "objective": DEFINITIONS["Objective"],
    "finalists": DEFINITIONS["Finalists"],
    "resources": DEFINITIONS["Resources"],
    "budget": DEFINITIONS["Budget"],
    "execution": DEFINITIONS["Execution"],
}
#: Blocks that have alternatives, which `kind` or `name` selects.
FAMILIES = {
    **dict.fromkeys(("dataset", "searcher", "early_stopping"), SCHEMA),
    **dict.fromkeys(("model", "optimizer", "scheduler", "normalization"), DEFINITIONS["SearchSpace"]),
}
DOMAINS = ("Uniform", "LogUniform", "QUniform", "IntRange", "LogIntRange")
#: A longer list of names is not printed.
MOST_NAMES = 20


def fill(page: str) -> str:
    """The page with the tables that the present schema gives."""
    return TABLE.sub(lambda match: match[1] + table(match[2]) + match[3], page)


def tables(page: str) -> set[str]:
    """The names of the tables on a page."""
    return {match[2] for match in TABLE.finditer(page)}


def table(name: str) -> str:
    if name == "default_augmentation":
        return _rows("data set", "augmentation", rows=[_default_augmentation(member) for member in members(Dataset)])
    if name == "changes":
        return _rows("field of the spec", "`rung change ID`", "`rung continue ID`", rows=[*_changes()])
    if name in BLOCKS:
        fields = [_field(BLOCKS[name], field) for field in BLOCKS[name]["properties"]]
        return _rows("field", "values", "default", "meaning", rows=fields)
    return _family(name)


def _changes() -> Iterator[tuple[str, str, str]]:
    """Each field of a spec, with its name in `rung change` and in `rung continue`, where it may change."""
    controls = {path: name for name, path in SPEC_PATHS.items()}
    split = {path.partition(".")[0] for path in (*controls, *SHARED) if "." in path}
    fields = {name: members(ExperimentSpec.model_fields[name].annotation) for name in split}
    for name in ExperimentSpec.model_fields:
        inner = dict.fromkeys(field for cls in fields.get(name, ()) for field in cls.model_fields)
        for path in [f"{name}.{field}" for field in inner] or [name]:
            if path != "version":
                changed = f"`{controls[path]}`" if path in controls else "no"
                yield f"`{path}`", changed, "no" if path in SHARED else f"`{path}`"


def _default_augmentation(dataset: type[Any]) -> tuple[str, ...]:
    name = dataset.model_fields["name"].default
    declared = {"path": "x", "mirror_safe": True} if "path" in dataset.model_fields else {}
    default = dataset(**declared).usual_augmentation()
    shown = ", ".join(f"`{field}: {value}`" for field, value in default.items()) or "none"
    return f"`{name}`", shown + (", if `mirror_safe` is true" if declared else "")


def _family(name: str) -> str:
    """The alternatives of a block, and then their fields: equal ones of several alternatives in one row."""
    alternatives = _alternatives(FAMILIES[name]["properties"][name])
    summaries, owners = [], dict[tuple[str, ...], list[str]]()
    for kind, block in alternatives.items():
        summaries.append((f"`{kind}`", _line(block["description"].split("\n\n")[0])))
        for field, schema in block["properties"].items():
            if "const" not in schema:
                owners.setdefault(_field(block, field), []).append(f"`{kind}`")
    order = [field for block in alternatives.values() for field in block["properties"]]
    fields = [
        (field, "all" if len(kinds) == len(alternatives) else ", ".join(kinds), *rest)
        for (field, *rest), kinds in sorted(owners.items(), key=lambda item: order.index(item[0][0].strip("`")))
    ]
    head = _rows("name" if name == "dataset" else "kind", "what it is", rows=summaries)
    return head + "\n" + _rows("field", "of", "values", "default", "meaning", rows=fields)


def _alternatives(schema: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Name or kind -> definition, in the order of the union."""
    if "discriminator" in schema:
        mapping = schema["discriminator"]["mapping"]
        kind_of = {reference.rpartition("/")[2]: kind for kind, reference in mapping.items()}
        names = [arm["$ref"].rpartition("/")[2] for arm in schema["oneOf"]]
        return {kind_of[name]: DEFINITIONS[name] for name in names}
    return next(found for arm in schema.get("anyOf", ()) if (found := _alternatives(arm))) if "anyOf" in schema else {}


def _field(block: dict[str, Any], name: str) -> tuple[str, ...]:
    schema = block["properties"][name]
    values = "a block (below)" if name in {*BLOCKS, *FAMILIES} else _values(schema)
    default = "required" if name in block.get("required", ()) else _default(schema)
    return f"`{name}`", values, default, _line(schema["description"])


def _values(schema: dict[str, Any]) -> str:
    """The values that a schema allows, without domains and null."""
    if arms_of := schema.get("anyOf") or schema.get("oneOf"):
        arms = [_values(arm) for arm in arms_of if not _is_domain(arm) and arm.get("type") != "null"]
        return " or ".join(dict.fromkeys(filter(None, arms)))
    if "const" in schema or "enum" in schema:
        names = schema.get("enum", [schema.get("const")])
        return ", ".join(f"`{name}`" for name in names) if len(names) <= MOST_NAMES else f"one of {len(names)} names"
    kind = schema.get("type")
    if kind == "array":
        return f"list of: {_values(schema['items'])}"
    if kind == "object":
        return "mapping"
    if kind in {"boolean", "string"}:
        return "`true`, `false`" if kind == "boolean" else "text"
    limits = [
        f"{sign} {schema[key]}"
        for key, sign in (("exclusiveMinimum", ">"), ("minimum", "≥"), ("exclusiveMaximum", "<"), ("maximum", "≤"))
        if key in schema
    ]
    return " ".join([str(kind), ", ".join(limits)]).strip() if kind else "any value"


def _is_domain(schema: dict[str, Any]) -> bool:
    return schema.get("$ref", "").rpartition("/")[2] in DOMAINS or "choice" in schema.get("properties", {})


def _default(schema: dict[str, Any]) -> str:
    value = schema.get("default")
    if value in (None, "", []):
        return ""
    if isinstance(value, dict):
        return f"`{value['kind']}`" if "kind" in value else f"`{value['name']}`" if "name" in value else ""
    return f"`{json.dumps(value)}`" if not isinstance(value, str) else f"`{value}`"


def _line(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").strip()


def _rows(*heads: str, rows: Sequence[tuple[str, ...]]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


if __name__ == "__main__":
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
