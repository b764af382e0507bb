"""ETags: an experiment's revision as its ETag, and `If-Match`, which limits a change to one (RFC 9110).

It must not know what is changed, nor the database.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from search_spaces.problems import Problem, shorten
from service.contract.errors import BadRequestError, PreconditionFailedError

_TAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
_LIST = re.compile(rf"[ \t,]*{_TAG}(?:[ \t]*,[ \t,]*{_TAG})*[ \t,]*")
#: What `parse` accepts, as a pattern of JSON Schema.
PATTERN = rf"^(?:\*|{_LIST.pattern})$"


def etag(revision: int) -> str:
    """The strong tag of a revision. Progress of trials does not change it."""
    return f'"{revision}"'


@dataclass(frozen=True)
class IfMatch:
    """The tags of which one must be the experiment's; None where any will do."""

    tags: tuple[str, ...] | None = None

    def check(self, experiment_id: str, revision: int) -> None:
        """Raise PreconditionFailedError when the revision has none of these tags. Weak tags match nothing."""
        tag = etag(revision)
        if self.tags is not None and tag not in self.tags:
            sent = shorten(", ".join(self.tags))
            raise PreconditionFailedError(
                f"If-Match is {sent}, but experiment {experiment_id} is at revision {tag}: read it again before you "
                "change it",
                [Problem("If-Match", f"must be {tag}, the current revision", sent)],
            )


def parse(header: str | None) -> IfMatch:
    """The value of an If-Match header; without one, or with `*`, everything matches. Raises BadRequestError."""
    if header is None or header.strip() == "*":
        return IfMatch()
    if not _LIST.fullmatch(header):
        problem = Problem("If-Match", 'must be "REVISION" in double quotes, a list of them, or *', shorten(header))
        raise BadRequestError(str(problem), [problem])
    return IfMatch(tuple(re.findall(_TAG, header)))
