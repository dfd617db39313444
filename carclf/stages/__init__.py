"""The stages, one verb per file."""
