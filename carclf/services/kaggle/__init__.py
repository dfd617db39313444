"""Kaggle: archive, submissions and scores."""
