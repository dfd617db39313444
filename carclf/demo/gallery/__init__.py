"""Small rendered competitions and datasets, one per kind of layout, with known labels."""
