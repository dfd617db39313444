"""Self-contained HTML reports of artifacts."""
