"""Early stopping: which trials end before their last epoch. One module per rule.

The modules of this package are the registry: a new rule is a new module with one subclass of
`base.EarlyStoppingSpec`, and nothing else changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.early_stopping.base import EarlyStoppingSpec
from search_spaces.spec import family_of_package

if TYPE_CHECKING:
    EarlyStopping = EarlyStoppingSpec
else:
    EarlyStopping = family_of_package(__name__, EarlyStoppingSpec)
