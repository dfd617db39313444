"""A new head on cached features of several views, compared with ``fit`` on the frozen, augmented network."""

import argparse
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import numpy as np
import pandas as pd

from benchmarks.timing import cpu_seconds
from carclf.config import load_config
from carclf.dataset.splits import stratified_holdout
from carclf.natural_order import sort_naturally
from carclf.pipeline.augmentation import Augmenter
from carclf.pipeline.batches import Examples, LetterboxedSource, TrainingSource, batches
from carclf.progress import Meter
from carclf.stats import class_positions
from carclf.training.backbones import build_backbone
from carclf.training.compile import make_deterministic
from carclf.training.feature_shards import extract_features
from carclf.training.feed import BatchSequence, BatchStream, without_autotune
from carclf.training.heads import build_head, fit_head, join_backbone_and_head
from carclf.training.weights import starting_weights

SIZE = (224, 224)
BATCH_SIZE = 32
BACKBONE = "EfficientNetV2B0"


@dataclass(frozen=True)
class HeadTask:
    """Training and validation images, and the weights and the seed to train a head with."""

    train: Examples
    val: Examples
    weights: str
    seed: int

    @property
    def num_classes(self) -> int:
        """The number of classes of the training images."""
        return int(self.train.labels.max()) + 1


def read_index(data: Path) -> pd.DataFrame:
    """Return the labeled images of a folder in the competition's layout: path, label, problem, sha256, id, cluster.

    ``class_index`` is the position of the label, as in a split.
    """
    paths = sorted(data.glob("train/*/*.jpg"))
    names = [path.name for path in paths]
    labels = [path.parent.name for path in paths]
    return pd.DataFrame({
        "path": [str(path.relative_to(data)) for path in paths], "label": labels,
        "class_index": class_positions(labels, sort_naturally(labels)),
        "problem": "", "source": "train", "id": names, "sha256": names, "cluster": range(len(paths)),
    })


def train_with_fit(task: HeadTask, epochs: int) -> float:
    """Fit the whole network with a frozen backbone; return the validation accuracy of the last epoch."""
    make_deterministic(task.seed)
    config = load_config("cpu")
    backbone = build_backbone(BACKBONE, starting_weights(task.weights), *SIZE)
    backbone.trainable = False
    head = build_head(backbone.output_shape[-1], task.num_classes, config.model)
    model = join_backbone_and_head(backbone, head)
    model.compile(keras.optimizers.AdamW(1e-3, weight_decay=1e-3),
                  loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    source = TrainingSource(task.train, Augmenter(config.augment), [SIZE] * epochs, BATCH_SIZE, epochs, task.seed)
    stream = BatchStream(lambda number: batches(source, BATCH_SIZE, start_batch=number))
    val = [pixels for pixels, _ in batches(LetterboxedSource(task.val, SIZE), BATCH_SIZE)]
    for epoch in range(epochs):
        sequence = BatchSequence(stream, epoch * source.steps_per_epoch, source.steps_per_epoch)
        model.fit(without_autotune(sequence), epochs=1, verbose=0, shuffle=False)
        predicted = np.concatenate([model.predict_on_batch(pixels).argmax(1) for pixels in val])
    return float((predicted == task.val.labels).mean())


def train_on_features(task: HeadTask, num_views: int) -> float:
    """Compute features of some views once, the plain one first, and fit the head to them; return its accuracy."""
    config = load_config("cpu", {"seed": task.seed})
    make_deterministic(task.seed)
    backbone = build_backbone(BACKBONE, starting_weights(task.weights), *SIZE)
    with Meter("features") as meter:
        views = [extract_features(backbone, task.train, config, view, meter) for view in range(num_views)]
        val_features = extract_features(backbone, task.val, config, 0, meter)
    head = build_head(val_features.shape[1], task.num_classes, config.model)
    labels = np.tile(task.train.labels, len(views))
    val = val_features, task.val.labels
    return fit_head(head, (np.concatenate(views), labels), val, config.head).validation.accuracy


def measure(task: HeadTask, epochs: int) -> Iterator[dict[str, Any]]:
    """Yield accuracy and time of each method."""
    methods = {
        "fit": lambda: train_with_fit(task, epochs),
        "one view": lambda: train_on_features(task, 1),
        "two views": lambda: train_on_features(task, 2),
    }
    for name, train in methods.items():
        started, cpu_started = time.perf_counter(), cpu_seconds()
        accuracy = train()
        seconds, used = time.perf_counter() - started, cpu_seconds() - cpu_started
        print(f"seed {task.seed}  {name:<10}{accuracy:.4f}  {seconds:.0f} s, CPU {used:.0f} s", flush=True)
        yield {"seed": task.seed, "method": name, "accuracy": accuracy, "seconds": seconds, "cpu_seconds": used}


def main() -> None:
    """Measure each method for each seed, in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="A folder in the layout of the competition.")
    parser.add_argument("--weights", required=True, help="ImageNet weights of EfficientNetV2B0 without top.")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    seeds, epochs = ([0], 2) if options.quick else ([0, 1, 2], 20)
    index = read_index(options.data)
    if options.quick:
        index = index.groupby("label").head(40)
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        split = stratified_holdout(index, val_fraction=0.15, seed=seed)
        train, val = (
            Examples.from_index(split[split["subset"] == name], options.data, SIZE) for name in ("train", "val")
        )
        rows += measure(HeadTask(train, val, options.weights, seed), epochs)
    means = pd.DataFrame(rows).groupby("method")[["accuracy", "seconds", "cpu_seconds"]].mean()
    ratios = (means.loc["fit"] / means).drop("fit").round(2)
    as_accurate = ratios[means["accuracy"].drop("fit") >= means.loc["fit", "accuracy"]]
    print(json.dumps({
        "vs_fit": as_accurate["seconds"].max() if len(as_accurate) else None,  # of methods as accurate as fit
        "by_views": ratios["seconds"].to_dict(), "by_views_cpu": ratios["cpu_seconds"].to_dict(),
        "accuracy": means["accuracy"].round(4).to_dict(), "epochs": epochs,
    }))


if __name__ == "__main__":
    main()
