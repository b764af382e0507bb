"""Searchers: who proposes the next trial. One module per searcher.

The modules of this package are the registry: a new searcher is a new module with one subclass of
`base.SearcherSpec`, and nothing else changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.searchers.base import SearcherSpec
from search_spaces.spec import family_of_package

if TYPE_CHECKING:
    Searcher = SearcherSpec
else:
    Searcher = family_of_package(__name__, SearcherSpec)
