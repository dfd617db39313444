"""Kaggle: competition data, submissions and scores."""
