"""Retrains a car classifier and competes with it on Kaggle."""

import os

# TensorFlow reads this when it is imported. Without it, oneDNN's kernels are off on CPUs without AVX512-VNNI, and
# training takes almost three times as long (benchmarks/training_step). A value that the user sets wins.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
