"""The workers: how an experiment is run, from its driver down to the layers of its networks."""
