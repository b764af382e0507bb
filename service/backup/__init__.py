"""Backup: a consistent set of an installation's database, its MLflow and its storage, made and restored."""
