"""Outside systems, one per package."""
