"""Ray patches: what we change in Ray, one reason in each module."""
