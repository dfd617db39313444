"""Experiments: train several recipes on the same images and compare them with a baseline."""
