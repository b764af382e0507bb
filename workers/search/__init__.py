"""Search: which trials run, what each result means, and when the search is over."""
