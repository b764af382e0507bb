"""Pool names: the pool that is always there. It imports nothing heavy, because the command line needs it at once."""

#: The pool of all nodes.
DEFAULT_POOL = "default"
