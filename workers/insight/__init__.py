"""Insight: why the winner won, and how sure that is, from what the journal and the trials left behind."""
