"""Environment: the settings in environment variables RUNG_*, and the variables that are none.

`read_settings` reads an environment when it is called; nothing is read at import. It must not know what settings mean.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from pydantic import ValidationError

from search_spaces.problems import shorten
from search_spaces.validation import rule_of
from service.settings import PREFIX, Settings, variable

#: Variables with the prefix that are no settings of the service: the command line reads them.
OTHER_VARIABLES = frozenset({"RUNG_URL", "RUNG_TOKEN"})
#: Variables of the tests begin with this.
TEST_PREFIX = "RUNG_TEST_"
SIMILARITY = 0.7  # a ratio of difflib: tolerates one or two wrong letters or a missing suffix
#: Settings that are numbers or flags.
PLAIN = frozenset(
    name
    for name, field in Settings.model_fields.items()
    if not {str, Path} & {field.annotation, *get_args(field.annotation)}
)
#: The setting of each environment variable.
VARIABLES = {variable(setting): setting for setting in Settings.model_fields}


class SettingsError(Exception):
    """Settings that cannot be used. `problems` has one line for each.

    Values are shown where a setting is a number or a flag; a text may be a password.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def read_settings(environment: Mapping[str, str]) -> Settings:
    """The settings in an environment. Raises SettingsError, which names every invalid and every misspelled variable."""
    problems = [
        f"{name}: there is no such setting; did you mean {similar}?"
        for name, similar in unknown_variables(environment).items()
        if similar
    ]
    given = {VARIABLES[name.upper()]: value for name, value in environment.items() if name.upper() in VARIABLES}
    try:
        settings = Settings.model_validate(given)
    except ValidationError as error:
        for one in error.errors():
            rule = rule_of(one)
            name = str((one["loc"] or ("home",))[0])
            shown = f" (got {shorten(given[name])!r})" if name in PLAIN & given.keys() else ""
            problems.append(f"{variable(name)}: {rule}{shown}")
    if problems:
        raise SettingsError(problems)
    return settings


def unknown_variables(environment: Mapping[str, str]) -> dict[str, str | None]:
    """The variables that have the prefix and are not known, each with the known one that it resembles, if any."""
    known = {name.removeprefix(PREFIX) for name in (*VARIABLES, *OTHER_VARIABLES)}
    found: dict[str, str | None] = {}
    for name in sorted(environment):
        upper = name.upper()
        if upper.startswith(PREFIX) and not upper.startswith(TEST_PREFIX) and upper.removeprefix(PREFIX) not in known:
            similar = difflib.get_close_matches(upper.removeprefix(PREFIX), sorted(known), n=1, cutoff=SIMILARITY)
            found[name] = PREFIX + similar[0] if similar else None
    return found
