"""How good the networks are that a search finds with a given budget: searchers on recorded tasks, without training."""
