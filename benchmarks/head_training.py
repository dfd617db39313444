"""A new head: on cached features of several views, beside ``fit`` on the frozen network with augmentation."""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import numpy as np
import pandas as pd

from benchmarks.timing import cpu_seconds
from carclf.config import load_config
from carclf.dataset.splits import stratified_holdout
from carclf.pipeline.augmentation import Augmenter
from carclf.pipeline.batches import Examples, LetterboxedSource, TrainingSource, batches
from carclf.progress import Meter
from carclf.training.backbones import build_backbone
from carclf.training.compile import make_deterministic
from carclf.training.feature_shards import extract_features
from carclf.training.feed import BatchSequence, BatchStream, without_autotune
from carclf.training.heads import build_head, fit_head, join_backbone_and_head

SIZE, BATCH = (224, 224), 32


def read_index(data: Path) -> pd.DataFrame:
    """The labelled pictures of a folder in the competition's layout: path, label, problem, sha256, id, cluster."""
    paths = sorted(data.glob("train/*/*.jpg"))
    return pd.DataFrame({
        "path": [str(path.relative_to(data)) for path in paths], "label": [int(path.parent.name) for path in paths],
        "problem": "", "source": "train", "id": [path.name for path in paths], "sha256": [path.name for path in paths],
        "cluster": range(len(paths)),
    })


def by_fit(weights: str, train: Examples, val: Examples, seed: int, epochs: int, num_classes: int) -> float:
    """``fit`` of the whole network with the backbone frozen: the validation accuracy of its best epoch."""
    make_deterministic(seed)
    config = load_config("cpu")
    backbone = build_backbone("EfficientNetV2B0", weights, *SIZE)
    backbone.trainable = False
    model = join_backbone_and_head(backbone, build_head(backbone.output_shape[-1], num_classes, config.model))
    model.compile(keras.optimizers.AdamW(1e-3, weight_decay=1e-3),
                  loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    source = TrainingSource(train, Augmenter(config.augment), [SIZE] * epochs, BATCH, epochs, seed)
    stream = BatchStream(lambda number: batches(source, BATCH, start_batch=number))
    plain = [pixels for pixels, _ in batches(LetterboxedSource(val, SIZE), BATCH)]
    best = 0.0
    for epoch in range(epochs):
        feed = BatchSequence(stream, epoch * source.steps_per_epoch, source.steps_per_epoch)
        model.fit(without_autotune(feed), epochs=1, verbose=0, shuffle=False)
        answers = np.concatenate([model.predict_on_batch(pixels).argmax(1) for pixels in plain])
        best = max(best, float((answers == val.labels).mean()))
    return best


def by_features(weights: str, train: Examples, val: Examples, seed: int, num_views: int, num_classes: int) -> float:
    """Our way: features of some views once, the plain one first, then the head on them."""
    config = load_config("cpu", {"seed": seed})
    make_deterministic(seed)
    backbone = build_backbone("EfficientNetV2B0", weights, *SIZE)
    with Meter("features") as meter:
        views = [extract_features(backbone, train, config, view, meter) for view in range(num_views)]
        val_features = extract_features(backbone, val, config, 0, meter)
    head = build_head(val_features.shape[1], num_classes, config.model)
    labels: Any = np.tile(train.labels, len(views))
    return fit_head(head, (np.concatenate(views), labels), (val_features, val.labels), config.head)[1]


def main() -> None:
    """Both ways for each seed, in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/cars10"))
    parser.add_argument("--weights", default="../shared/data/weights/efficientnetv2b0_imagenet_notop.weights.h5")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    seeds, epochs = ([0], 2) if options.quick else ([0, 1, 2], 20)
    index = read_index(options.data)
    if options.quick:
        index = index.groupby("label").head(40)
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        split = stratified_holdout(index, val_fraction=0.15, seed=seed)
        train, val = (Examples.from_index(split[split["subset"] == name], options.data, SIZE) for name in ("train", "val"))
        for way, train_by in (("fit", lambda *given: by_fit(*given, epochs, 10)),
                              ("one view", lambda *given: by_features(*given, 1, 10)),
                              ("two views", lambda *given: by_features(*given, 2, 10))):
            started, used = time.perf_counter(), cpu_seconds()
            accuracy = train_by(options.weights, train, val, seed)
            seconds, used = time.perf_counter() - started, cpu_seconds() - used
            rows.append({"seed": seed, "way": way, "accuracy": accuracy, "seconds": seconds, "cpu_seconds": used})
            print(f"seed {seed}  {way:<10}{accuracy:.4f}  {seconds:.0f} s, {used:.0f} s of the processors", flush=True)
    means = pd.DataFrame(rows).groupby("way")[["accuracy", "seconds", "cpu_seconds"]].mean()
    ratios = (means.loc["fit"] / means).drop("fit").round(2)
    as_good = ratios[means["accuracy"].drop("fit") >= means.loc["fit", "accuracy"]]
    print(json.dumps({
        "vs_fit": as_good["seconds"].max() if len(as_good) else None,  # of what is no less accurate
        "by_views": ratios["seconds"].to_dict(), "by_views_cpu": ratios["cpu_seconds"].to_dict(),
        "accuracy": means["accuracy"].round(4).to_dict(), "epochs": epochs,
    }))


if __name__ == "__main__":
    main()
