"""State: what a driver knows of its trials, and how it survives a crash."""
