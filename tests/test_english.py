"""Texts use the field's standard terms: the words that the project once used in their place do not come back."""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: What must not be written, and what to write in its place.
REPLACED = {
    r"\b(is|are|was|were|while|stays?|remains?) away\b": "unavailable, unreachable",
    r"\baway\b(?= (for|from|at|while|and|,))": "unavailable, unreachable",
    r"\b(is|are|was|were) (told|said)\b(?! (to|how|that|which)\b)": "reports, is reported",
    r"\blast words?\b": "final heartbeat",
    r"\bgoes on\b|\bgo on\b|\bwent on\b|\bgoing on\b": "continues, resumes",
    r"\bgiven up\b|\bgives? up\b": "superseded, lost, abandoned",
    r"\bg(ives?|ave|iving|iven) way\b": "yields its slot",
    r"\bcall(s|ed|ing)? away\b": "asked to stop",
    r"\b(is|are) borne\b|\bbears?\b": "tolerated, tolerates",
    r"\bcrown(s|ed|ing)?\b": "registered",
    r"(?<!--)(?<!,)\bforks?\b": "continuation",  # except the options of unshare and socat
    r"\b(is|are|was|were) taken over\b": "imported",
    r"\bdoubled (run|runs|model|models|trial|trials)\b": "duplicate",
    r"\banew\b": "again",
    r"(?<!left )\balone\b": "only",
    r"\bbut for\b|\b(all|nothing|none|nobody|no one|everything) but\b": "except",
    r"\bat rest\b": "inactive",
    r"\brequired, got\b": "must be X (got Y)",
    r"\bnotwithstanding\b|\bheed(s|ed)?\b|\bwhoever\b|\bhowever often\b": "plain English",
    r"(?-i:(?<!there )\bis none\b)|\bhas not\b(?= *[.,;)])": "a whole sentence",
    r"\blecture('s|s)?\b": "the course material that this project implements",
    r"\bnobody is blamed\b|\bblam(e|es|ed|ing)\b": "counts as lost",
    r"\bbetween two looks\b|\bat most so many\b": "a standard description",
}
#: British spellings. The values `grey` of specs and results stay.
BRITISH = {
    r"colour": "color",
    r"\bcentre[ds]?\b|\bcentring\b": "center",
    r"cancell(ed|ing)\b": "canceled, canceling",
    r"(behavi|neighb|fav|hon|lab)our": "behavior, neighbor, favor, honor, labor",
    r"\b(label|model|signal|travel)l(ed|ing)\b": "labeled, modeled, signaled",
    r"\b(mis)?spelt\b|\blearnt\b": "spelled, learned",
    r"\blicence\b|\bartefacts?\b|\bcatalogue\b": "license, artifact, catalog",
    r"(?<!`)\bgrey\b(?=[ -]\w)": "gray",
    r"\b(organ|recogn|normal|initial|quant|optim|serial|real|general|synchron|summar|standard|minim|maxim|final|util|"
    r"author|categor|character|emphas|special|vector|random|custom|visual|parallel|token|memor|priorit|stabil|local)"
    r"is(e[ds]?|ing|ers?|ations?)\b": "-ize, -ization",
}

PATTERNS = {re.compile(pattern, re.IGNORECASE): better for pattern, better in (REPLACED | BRITISH).items()}


CONFIGURATION = ("Makefile", "pyproject.toml", "docker/Caddyfile", "docker/Dockerfile", "docker/env.example")


def documents() -> list[Path]:
    """Files of which every line is read."""
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
    configuration = [*sorted((ROOT / "docker").rglob("*.y*ml")), *(ROOT / name for name in CONFIGURATION)]
    return [
        *pages,
        *sorted((ROOT / "docker").glob("*.md")),
        *sorted(ROOT.glob("search_spaces/presets/*.yaml")),
        *configuration,
    ]


def modules() -> list[Path]:
    folders = ("rung", "rung_mlflow", "search_spaces", "service", "workers", "tests")
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path for path in found if path != Path(__file__)]


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a document; the string literals, comments and names of tests of a module. Each with its line."""
    if path.suffix != ".py":
        yield from enumerate(path.read_text().splitlines(), 1)
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, re.sub(r"\s+", " ", node.value)
        elif isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield node.lineno, node.name.replace("_", " ")
    with tokenize.open(path) as source:
        for token in tokenize.generate_tokens(source.readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string


def replaced_words(path: Path) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line}: {match.group()!r}; write: {better}"
        for line, text in texts(path)
        for pattern, better in PATTERNS.items()
        for match in pattern.finditer(text)
    ]


@pytest.mark.parametrize("path", [*documents(), *modules()], ids=lambda path: str(path.relative_to(ROOT)))
def test_no_text_uses_a_word_that_was_replaced(path: Path) -> None:
    assert not replaced_words(path)


def test_the_scan_finds_a_replaced_word_wherever_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    document, module = tmp_path / "page.md", tmp_path / "module.py"
    document.write_text("# Page\nMLflow is away.\n")
    module.write_text('"""The winner is\ncrowned."""\nLIMIT = f"at most {1} required, got {2}"  # told anew\n')
    assert [found.partition(": ")[0] for found in replaced_words(document)] == ["page.md:2"]
    preset = tmp_path / "preset.yaml"
    preset.write_text("color: grey\n# A grid takes finite domains alone, of grey images whose centre is normalised.\n")
    assert [found.partition(": ")[0] for found in replaced_words(preset)] == ["preset.yaml:2"] * 4
    assert [found.partition(": ")[0] for found in replaced_words(module)] == [
        "module.py:1",
        "module.py:3",
        "module.py:3",
    ]
