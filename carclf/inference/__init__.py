"""Predictions of a trained model and what explains them."""
