"""Recipes compared: which, by how much, and is it real."""
