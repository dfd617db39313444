"""Plant label errors; measure how many are ranked first, and how much fixing them improves the accuracy."""

import argparse
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import numpy as np
import numpy.typing as npt
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
from carclf.training.weights import starting_weights

ERROR_FRACTION = 0.05  # of the labels
CHECKED_FRACTION = 0.1  # of the ranked images that a person would check
VAL_FRACTION = 0.15
QUICK_EPOCHS = 6
QUICK_SEEDS = 2
QUICK_IMAGES_PER_CLASS = 40

Labels = npt.NDArray[np.int64]
Features = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Data:
    """The images with their true labels, and their features."""

    index: pd.DataFrame
    features: Features

    @property
    def labels(self) -> Labels:
        """The true labels."""
        return self.index["class_index"].to_numpy()

    @property
    def clusters(self) -> Labels:
        """The cluster of near-duplicates of each image."""
        return self.index["cluster"].to_numpy()


def compute_features(index: pd.DataFrame, data: Path, config: Config) -> Features:
    """Return the pooled features of each image without augmentation."""
    model = config.model
    backbone = build_backbone(model.backbone, starting_weights(model.weights), model.image_height, model.image_width)
    examples = Examples.from_index(index, data, (model.image_height, model.image_width))
    with Meter("features") as meter:
        return extract_features(backbone, examples, config, 0, meter)


def add_clusters(index: pd.DataFrame, data: Path) -> pd.DataFrame:
    """Add hashes and clusters of near-duplicates to an index."""
    pixels = [decode((data / path).read_bytes()) for path in index["path"]]
    hashes = [pixels_sha256(image) for image in pixels]
    phashes = np.array([perceptual_hash(image) for image in pixels], np.uint64)
    flipped = np.array([perceptual_hash(np.ascontiguousarray(image[:, ::-1])) for image in pixels], np.uint64)
    index = index.assign(pixels_sha256=hashes, sha256=hashes, source="train", phash=phashes, flipped_phash=flipped)
    return index.assign(cluster=find_clusters(index, pixels.__getitem__, Duplicates()))


def plant_errors(labels: Labels, seed: int) -> tuple[Labels, Labels]:
    """Change a fraction of the labels to random other classes; return all labels and the positions of the errors."""
    random = np.random.default_rng(seed)
    num_classes = int(labels.max()) + 1
    positions = random.choice(len(labels), round(ERROR_FRACTION * len(labels)), replace=False)
    given = labels.copy()
    given[positions] = (labels[positions] + random.integers(1, num_classes, len(positions))) % num_classes
    return given, positions


def measure_ranking(data: Data, seed: int) -> dict[str, float]:
    """Return metrics of the ranking of planted errors."""
    given, errors = plant_errors(data.labels, seed)
    ranked = rank_labels(data.features, given, data.clusters, seed=seed)
    checked = ranked.head(round(CHECKED_FRACTION * len(given)))
    suspects = ranked[ranked["is_suspect"]]
    detected = checked[checked["position"].isin(errors)]
    return {
        "recall_of_checked": float(np.isin(errors, checked["position"]).mean()),
        "num_suspects": len(suspects),
        "precision": float(np.isin(suspects["position"], errors).mean()),
        "recall": float(np.isin(errors, suspects["position"]).mean()),
        "suggestion_accuracy": float((detected["suggested_label"] == data.labels[detected["position"]]).mean()),
    }


def measure_retraining(data: Data, seed: int, config: Config) -> dict[str, float]:
    """Return the accuracy, on clean validation images, of heads trained on clean, erroneous and fixed labels.

    Only training images are ranked: otherwise the validation images would influence the corrected labels.
    """
    labels, (given, _) = data.labels, plant_errors(data.labels, seed)
    val_ids = stratified_holdout(data.index, val_fraction=VAL_FRACTION, seed=seed).query("subset == 'val'")["id"]
    val = data.index["id"].isin(val_ids).to_numpy()
    train = np.flatnonzero(~val)
    ranked = rank_labels(data.features[train], given[train], data.clusters[train], seed=seed)
    suspects = ranked[ranked["is_suspect"]]
    positions = train[suspects["position"]]
    relabeled, corrected = given.copy(), given.copy()
    relabeled[positions] = suspects["suggested_label"]
    corrected[positions] = labels[positions]  # a person checks each suspect and fixes the wrong ones
    seeded = config.model_copy(update={"seed": seed})
    variants = {"clean": labels, "with_errors": given, "relabeled": relabeled, "corrected": corrected}
    accuracies = {name: train_head(data, variant, val, seeded) for name, variant in variants.items()}
    keep = ~np.isin(np.arange(len(labels)), positions)
    kept = Data(data.index[keep], data.features[keep])
    return accuracies | {"excluded": train_head(kept, given[keep], val[keep], seeded)}


def train_head(data: Data, labels: Labels, val: npt.NDArray[np.bool_], config: Config) -> float:
    """Return the validation accuracy after the last epoch of a head that is trained on these labels."""
    make_deterministic(config.seed)
    head = build_head(data.features.shape[1], int(data.labels.max()) + 1, config.model)
    val_data = data.features[val], data.labels[val]
    fitted = fit_head(head, (data.features[~val], labels[~val]), val_data, config.head)
    keras.backend.clear_session()
    return fitted.validation.accuracy


def load_data(options: argparse.Namespace, config: Config) -> Data:
    """Return the images and their features, which are computed unless ``--features`` has them."""
    index = add_clusters(read_index(options.data), options.data)
    if options.quick:
        index = index.groupby("label").head(QUICK_IMAGES_PER_CLASS).reset_index(drop=True)
    path = options.features or Path(tempfile.gettempdir()) / f"label-errors-{os.getpid()}.npy"
    if not path.exists():
        np.save(path, compute_features(index, options.data, config))
    features = np.load(path)
    if not options.features:
        path.unlink()
    return Data(index, features)


def main() -> None:
    """Print a row for each seed, the means, and the means as a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="A folder in the layout of the competition.")
    parser.add_argument("--weights", required=True, help="ImageNet weights of EfficientNetV2B0 without top.")
    parser.add_argument("--height", type=int, default=160)
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--features", type=Path, help="Read the features from this .npy file, or write them to it.")
    parser.add_argument("--quick", action="store_true", help="Use a fifth of the images, two seeds and six epochs.")
    options = parser.parse_args()
    settings: dict[str, Any] = {
        "model.weights": options.weights, "model.image_height": options.height, "model.image_width": options.width,
        "head.epochs": QUICK_EPOCHS if options.quick else 60,
    }
    config = load_config("cpu", settings)
    data = load_data(options, config)
    rows = []
    for seed in range(QUICK_SEEDS if options.quick else options.seeds):
        rows.append(measure_ranking(data, seed) | measure_retraining(data, seed, config))
        print(f"seed {seed}  " + "  ".join(f"{name} {value:.3f}" for name, value in rows[-1].items()), flush=True)
    means = pd.DataFrame(rows).mean().round(4)
    print(means.to_string())
    print(json.dumps(means.to_dict()))


if __name__ == "__main__":
    main()
