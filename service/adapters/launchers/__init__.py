"""Launchers: what runs drivers. One module per launcher; `RUNG_LAUNCHER` names it.

A new launcher is a new module with `open_launcher(settings: Settings) -> Launcher`, and nothing else changes.
"""
