"""Measure a model on the validation images."""
