"""Retrains a car classifier and competes with it on Kaggle."""
