"""Thirty days of three busy teams, simulated: the allocator against first come first served and against that of 0.1."""
