"""Predictions of a trained model, their calibration, and heatmaps that explain them."""
