"""Checks of a run's data that need features: label errors and drift."""
