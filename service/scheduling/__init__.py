"""Scheduling: which experiment gets which slots, and when a driver is launched or lost."""
