"""Measuring a model on the validation images."""
