"""The service's database: what was asked, its state, attempts, allowances, and the last known line of each trial."""
