"""Contract: what the server, the client and the command line agree on: states, responses and errors."""
