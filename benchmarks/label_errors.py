"""Planted label errors: how many stand among the first suspects, and what putting them right is worth."""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import numpy as np
import pandas as pd

from benchmarks.head_training import read_index
from carclf.audit.label_errors import rank_labels
from carclf.config import Config, Duplicates, load_config
from carclf.dataset.duplicates import find_clusters
from carclf.dataset.splits import stratified_holdout
from carclf.images.decode import decode
from carclf.images.hashes import perceptual_hash, pixels_sha256
from carclf.pipeline.batches import Examples
from carclf.progress import Meter
from carclf.training.backbones import build_backbone
from carclf.training.compile import make_deterministic
from carclf.training.feature_shards import extract_features
from carclf.training.heads import build_head, fit_head

FLIPPED, FIRST = 0.05, 0.1  # shares of the labelled pictures


def features_of(index: pd.DataFrame, data: Path, config: Config) -> Any:
    """Pooled features of the plain view of each picture."""
    model = config.model
    backbone = build_backbone(model.backbone, model.weights, model.image_height, model.image_width)
    examples = Examples.from_index(index, data, (model.image_height, model.image_width))
    with Meter("features") as meter:
        return extract_features(backbone, examples, config, 0, meter)


def hashed(index: pd.DataFrame, data: Path) -> pd.DataFrame:
    """The index with what the split and the clusters need of each picture."""
    pixels = [decode((data / path).read_bytes()) for path in index["path"]]
    content = [pixels_sha256(one) for one in pixels]
    index = index.assign(pixels_sha256=content, sha256=content, source="train",
                         phash=np.array([perceptual_hash(one) for one in pixels], np.uint64))
    return index.assign(cluster=find_clusters(index, pixels.__getitem__, Duplicates()))


def flipped(labels: Any, seed: int) -> tuple[Any, Any]:
    """The labels with a share of them moved to another class at random, and the positions of those."""
    random, num_classes = np.random.default_rng(seed), int(labels.max()) + 1
    who = random.choice(len(labels), round(FLIPPED * len(labels)), replace=False)
    given = labels.copy()
    given[who] = (labels[who] + random.integers(1, num_classes, len(who))) % num_classes
    return given, who


def accuracy(features: Any, labels: Any, val: Any, truth: Any, config: Config) -> float:
    """Of a head trained on these labels, on clean validation pictures, after its last epoch."""
    make_deterministic(config.seed)
    head = build_head(features.shape[1], 10, config.model)
    held = (features[val], truth[val])
    # the last epoch's value, not the best one's: nobody has clean labels to choose an epoch by
    history, _, _ = fit_head(head, (features[~val], labels[~val]), held, config.head)
    keras.backend.clear_session()
    return float(history["val_accuracy"].iloc[-1])


def found(index: pd.DataFrame, features: Any, seed: int) -> dict[str, float]:
    """Of the flips of one seed: the share among the first suspects and what is suggested for them."""
    truth = index["label"].to_numpy()
    given, who = flipped(truth, seed)
    ranked = rank_labels(features, given, index["cluster"].to_numpy(), seed=seed)
    first, suspects = ranked.head(round(FIRST * len(index))), ranked[ranked["is_suspect"]]
    right = first[first["position"].isin(who)]
    return {
        "found": float(np.isin(who, first["position"]).mean()), "suspects": len(suspects),
        "precision": float(np.isin(suspects["position"], who).mean()),
        "recall": float(np.isin(who, suspects["position"]).mean()),
        "suggested_right": float((right["suggested_label"] == truth[right["position"]]).mean()),
    }


def retrained(index: pd.DataFrame, features: Any, seed: int, config: Config) -> dict[str, float]:
    """Heads trained on clean, flipped and mended labels, measured on clean validation pictures.

    The suspects come from the training pictures alone here: else the validation pictures would have a say in the
    labels that they measure.
    """
    truth = index["label"].to_numpy()
    given, _ = flipped(truth, seed)
    held = stratified_holdout(index, val_fraction=0.15, seed=seed).query("subset == 'val'")["id"]
    val = index["id"].isin(held).to_numpy()
    train = np.flatnonzero(~val)
    ranked = rank_labels(features[train], given[train], index["cluster"].to_numpy()[train], seed=seed)
    suspects = ranked[ranked["is_suspect"]]
    who = train[suspects["position"]]
    relabelled, looked_at = given.copy(), given.copy()
    relabelled[who] = suspects["suggested_label"]
    looked_at[who] = truth[who]  # somebody looks at each suspect and puts right only what is wrong
    seeded = config.model_copy(update={"seed": seed})
    ways = {"clean": truth, "flipped": given, "relabelled": relabelled, "looked_at": looked_at}
    row = {name: accuracy(features, labels, val, truth, seeded) for name, labels in ways.items()}
    keep = ~np.isin(np.arange(len(index)), who)
    return row | {"dropped": accuracy(features[keep], given[keep], val[keep], truth[keep], seeded)}


def main() -> None:
    """A row for each seed, the means, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/cars10"))
    parser.add_argument("--weights", default="../shared/data/weights/efficientnetv2b0_imagenet_notop.weights.h5")
    parser.add_argument("--height", type=int, default=160)
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--features", type=Path, help="Keep the features in this .npy file.")
    parser.add_argument("--quick", action="store_true", help="A fifth of the pictures, two seeds, six epochs.")
    options = parser.parse_args()
    config = load_config("cpu", {"model.weights": options.weights, "model.image_height": options.height,
                             "model.image_width": options.width, "head.epochs": 6 if options.quick else 60})
    index = hashed(read_index(options.data), options.data)
    if options.quick:
        index = index.groupby("label").head(40).reset_index(drop=True)
    path = options.features or Path(tempfile.gettempdir()) / f"label-errors-{os.getpid()}.npy"
    if not path.exists():
        np.save(path, features_of(index, options.data, config))
    features = np.load(path)
    if not options.features:
        path.unlink()
    rows = []
    for seed in range(2 if options.quick else options.seeds):
        rows.append(found(index, features, seed) | retrained(index, features, seed, config))
        print(f"seed {seed}  " + "  ".join(f"{name} {value:.3f}" for name, value in rows[-1].items()), flush=True)
    means = pd.DataFrame(rows).mean().round(4)
    print(means.to_string())
    print(json.dumps({"recall": means.pop("found")} | means.to_dict()))


if __name__ == "__main__":
    main()
