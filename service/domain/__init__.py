"""Domain: what may happen to experiments, attempts and trials, as functions over rows of the database."""
