"""Tracking: how the journal's events get to MLflow."""
