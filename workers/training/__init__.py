"""Training: the training loop in pure torch."""
