"""Datasets: archives, the index of images, checks, near-duplicates, label fixes and splits."""
