"""Rung in MLflow's server: how it learns from Rung's service who may do what. Installed beside MLflow."""
