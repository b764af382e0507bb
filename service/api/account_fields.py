"""Account fields: the texts that requests about people, teams and tokens have in common, with their limits."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path
from pydantic import AfterValidator, Field, WithJsonSchema

from service.api.dependencies import TEXT
from service.identity.names import PATTERN, check_name
from service.store.accounts import EMAIL_CHARACTERS, LOGIN_CHARACTERS, NAME_CHARACTERS, TEAM_CHARACTERS

#: As long as the columns that hold them. What a login or a short name must be is a rule of `service.identity`.
Name = Annotated[
    str,
    Field(max_length=NAME_CHARACTERS),
    AfterValidator(check_name),
    WithJsonSchema({"type": "string", "maxLength": NAME_CHARACTERS, "pattern": PATTERN}),
]
Email = Annotated[
    str,
    Field(max_length=EMAIL_CHARACTERS),
    AfterValidator(check_name),
    WithJsonSchema({"type": "string", "maxLength": EMAIL_CHARACTERS, "pattern": PATTERN}),
]
#: Longer than any password and any ID token that is accepted.
Secret = Annotated[str, Field(max_length=20_000)]
TeamPath = Annotated[
    str, Path(max_length=TEAM_CHARACTERS, pattern=TEXT, description="Short name of the team.", examples=["vision"])
]
LoginPath = Annotated[
    str, Path(max_length=LOGIN_CHARACTERS, pattern=TEXT, description="Login of the person.", examples=["ada"])
]
TokenPath = Annotated[str, Path(max_length=32, pattern=TEXT, description="Identifier of the token.")]
