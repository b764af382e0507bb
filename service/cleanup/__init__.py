"""Cleanup: what happens to an experiment after its end, and what is removed when."""
