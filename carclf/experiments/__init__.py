"""Recipes compared with a baseline."""
