"""Checks of the data before training: label errors and drift."""
