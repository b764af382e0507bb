"""Storage: the protocols of what keeps an experiment's data, and one module for each backend."""
