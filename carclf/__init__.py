"""Retrains an image classifier and competes with it on Kaggle. ``carclf.api`` documents the public names."""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from carclf.api import Model, Store, open_store, train

# TensorFlow reads this when it is imported. Without it, oneDNN's kernels are off on CPUs without AVX512-VNNI, and
# training takes almost three times as long (benchmarks/training_step). A value that the user sets wins.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

__all__ = ["Model", "Store", "open_store", "train"]


def __getattr__(name: str) -> Any:
    """Import the API when one of its names is used: commands and DAG files import this package as well."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from carclf import api

    return getattr(api, name)
