"""Packing: how many trials of an experiment share a GPU, measured by training some at once before the search."""
