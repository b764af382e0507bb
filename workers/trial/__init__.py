"""Trial: the process that trains trials, at the edge of Ray Tune."""
