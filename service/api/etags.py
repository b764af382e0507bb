"""Preconditions: an experiment's revision as its ETag, and `If-Match`, which guards a change with one (RFC 9110).

It must not know what is changed, nor the database.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from search_spaces.problems import shorten
from service.contract.errors import BadRequestError, PreconditionFailedError
from service.store.models import Experiment

_TAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
_LIST = re.compile(rf"[ \t,]*{_TAG}(?:[ \t]*,[ \t,]*{_TAG})*[ \t,]*")


def etag(revision: int) -> str:
    """The strong tag of a revision. Progress of trials does not change it."""
    return f'"{revision}"'


@dataclass(frozen=True)
class Precondition:
    """The tags of which one must be the experiment's; None where any will do."""

    tags: tuple[str, ...] | None = None

    def check(self, experiment: Experiment) -> None:
        """Raise PreconditionFailedError when the experiment is at none of these revisions. Weak tags match nothing."""
        tag = etag(experiment.revision)
        if self.tags is not None and tag not in self.tags:
            asked = shorten(", ".join(self.tags))
            raise PreconditionFailedError(
                f"If-Match asks for {asked}, but experiment {experiment.id} is at {tag}: "
                "look at it again, and decide anew"
            )


def parse(header: str | None) -> Precondition:
    """What an If-Match header says; without one, or with `*`, everything matches. Raises BadRequestError."""
    if header is None or header.strip() == "*":
        return Precondition()
    if not _LIST.fullmatch(header):
        raise BadRequestError(
            f'If-Match: "REVISION" in double quotes, a list of them or * required, got {shorten(header)}'
        )
    return Precondition(tuple(re.findall(_TAG, header)))
