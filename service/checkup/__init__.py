"""Checkup: what the service finds when it examines the installation: its own parts, and the nodes of the cluster."""
