"""The service: what runs, and when; its client and its command line."""
