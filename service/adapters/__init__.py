"""Adapters: everything outside the service that it talks to: Ray, MLflow and the experiments' files."""
