"""Compare validation and held-out accuracy of a head: the best of all epochs, as selected before, and the last epoch.

The images are split at random into training, validation and held-out images, once for each seed. Both procedures use
the same trainings. ``optimism`` is the validation accuracy minus the held-out accuracy. They agree if the 95% interval
of their difference contains 0.
"""

import argparse
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.head_training import read_index
from benchmarks.label_error_quality import compute_features
from carclf.config import load_config
from carclf.stats import Proportion, newcombe_interval, wilson_interval
from carclf.training.compile import make_deterministic
from carclf.training.heads import build_head, fit_head
from carclf.training.validation import Objective, Validation

VAL_FRACTION, HELD_OUT_FRACTION = 0.15, 0.45
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class EpochRecorder(Objective):
    """Record which images are classified correctly after each epoch."""

    correct: list[Mask] = field(default_factory=list)

    def measure(self, logits: npt.NDArray[Any], labels: npt.NDArray[np.integer]) -> Validation:
        """Measure the logits and record the correct predictions."""
        self.correct.append(logits.argmax(1) == labels)
        return super().measure(logits, labels)


def split(labels: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.object_]:
    """Return the subset of each image: train, val or held_out, in the same proportions in each class."""
    random = np.random.default_rng(seed)
    subsets = np.full(len(labels), "train", object)
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))
        num_val, num_held_out = (round(fraction * len(rows)) for fraction in (VAL_FRACTION, HELD_OUT_FRACTION))
        subsets[rows[:num_val]] = "val"
        subsets[rows[num_val:num_val + num_held_out]] = "held_out"
    return subsets


def compare(correct: npt.NDArray[np.bool_], num_val: int, epoch: int) -> dict[str, float | bool]:
    """Return validation and held-out accuracy of an epoch; ``correct`` has the shape (epochs, images)."""
    val, held_out = (
        Proportion(float(part.mean()), *wilson_interval(int(part.sum()), len(part)))
        for part in (correct[epoch, :num_val], correct[epoch, num_val:])
    )
    low, high = newcombe_interval(val, held_out)
    return {"val": val.value, "held_out": held_out.value, "optimism": val.value - held_out.value,
            "agree": low <= 0 <= high, "in_val_interval": val.low <= held_out.value <= val.high}


def measure(features: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], seed: int) -> list[dict[str, Any]]:
    """Train a head; return a row for the best epoch by validation accuracy and a row for the last epoch."""
    config = load_config("cpu", {"seed": seed})
    make_deterministic(seed)
    subsets = split(labels, seed)
    train, val, held_out = (np.flatnonzero(subsets == name) for name in ("train", "val", "held_out"))
    measured = np.concatenate([val, held_out])
    recorder = EpochRecorder()
    head = build_head(features.shape[1], int(labels.max()) + 1, config.model)
    fit_head(head, (features[train], labels[train]), (features[measured], labels[measured]), config.head, recorder)
    keras.backend.clear_session()
    correct = np.array(recorder.correct)
    epochs = {"best epoch": int(correct[:, : len(val)].mean(1).argmax()), "last epoch": len(correct) - 1}
    return [{"seed": seed, "procedure": name, "epoch": epoch + 1, **compare(correct, len(val), epoch)}
            for name, epoch in epochs.items()]


def summarize(rows: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return mean optimism in points with its standard error, and the numbers of seeds that agree."""
    return {
        str(name): {
            "optimism_points": round(100 * group["optimism"].mean(), 2),
            "standard_error": round(100 * float(group["optimism"].sem()), 2),
            "agree": int(group["agree"].sum()), "in_val_interval": int(group["in_val_interval"].sum()),
            "held_out": round(group["held_out"].mean(), 4), "num_seeds": len(group),
        }
        for name, group in rows.groupby("procedure")
    }


def main() -> None:
    """Measure each seed and print the rows and their summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="A folder in the layout of the competition.")
    parser.add_argument("--weights", required=True, help="ImageNet weights of EfficientNetV2B0 without top.")
    parser.add_argument("--features", type=Path, help="A .npy file with the features; written if it is missing.")
    parser.add_argument("--seeds", type=int, default=20, help="Number of seeds.")
    parser.add_argument("--quick", action="store_true", help="Two seeds, 40 images of each class.")
    options = parser.parse_args()
    index = read_index(options.data)
    if options.quick:
        index, options.seeds = index.groupby("label").head(40).reset_index(drop=True), 2
    if options.features and options.features.exists():
        features = np.load(options.features)
    else:
        features = compute_features(index, options.data, load_config("cpu", {"model.weights": options.weights}))
        if options.features:
            np.save(options.features, features)
    labels = index["class_index"].to_numpy()
    rows: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        rows += measure(features, labels, seed)
        print(*map(json.dumps, rows[-2:]), sep="\n", flush=True)
    print(json.dumps(summarize(pd.DataFrame(rows))))


if __name__ == "__main__":
    main()
