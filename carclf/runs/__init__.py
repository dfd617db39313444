"""Runs: record, index and live progress."""
