"""Attempt errors: why an attempt cannot continue, and whether another one could.

It must not know who raises them.
"""

from __future__ import annotations

from search_spaces.phrases import counted


class AttemptError(Exception):
    """An attempt cannot continue. The message is for the user.

    `blocked`: another attempt cannot succeed before a person acts.
    """

    blocked = False


class ModelNameTakenError(AttemptError):
    """The name of the registered model belongs to something else in MLflow, where models and prompts share names."""

    blocked = True

    def __init__(self, name: str) -> None:
        super().__init__(
            f"the winner's model cannot be registered: the name {name} is that of a prompt in MLflow, not of a model. "
            "Delete the prompt or register it under another name, then resume."
        )


class MisplacedJournalError(AttemptError):
    """The storage has the journal of another experiment."""

    blocked = True

    def __init__(self, storage: str, why: str) -> None:
        super().__init__(
            f"the journal in {storage} cannot be used: {why}. Put that of this experiment back, then resume."
        )


class NewerJournalError(AttemptError):
    """A later attempt has written the journal, so another driver replaced this one, or the database is an older one."""

    blocked = True

    def __init__(self, why: str) -> None:
        super().__init__(
            f"the journal cannot be used: {why}. The service's database is older than RUNG_STORAGE_ROOT: restore both "
            "from the same time, then resume."
        )


class MissingJournalError(AttemptError):
    """The storage has no journal, although the service knows trials of the experiment."""

    blocked = True

    def __init__(self, storage: str, trials: int) -> None:
        super().__init__(
            f"there is no journal in {storage}, although the service has {counted(trials, 'trial')} of this "
            "experiment. Check that RUNG_STORAGE_ROOT is correct and mounted on this node."
        )
