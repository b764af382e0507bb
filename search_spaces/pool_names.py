"""Pool names: the pool that is always there, and how names look. It imports nothing, as the command line needs it."""

#: The pool of the nodes that no other pool has.
DEFAULT_POOL = "default"
#: What a name must match, and that in words.
POOL_NAME = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
POOL_NAME_RULE = "must be 1 to 63 characters: a-z, 0-9 and - in between"
