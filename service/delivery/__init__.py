"""Delivery: the notifications of teams, sent to their webhooks."""
