"""Peak memory of reports, evaluation, gate and head with 200 classes, whose names are long, and 100,000 images.

python -m benchmarks.report_memory [--quick] [--keep FOLDER]

Each part runs in its own process; the peak includes its child processes. ``empty`` only imports what the parts import.
Features and probabilities are random. The head's features are in a file, as in a run. ``evaluation`` is everything
after the predictions: it starts with the matrix of the probabilities and writes the files of the artifact. ``gate``
compares a candidate and a champion by these files.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import pandas as pd

from benchmarks.stage_memory import peak
from carclf.artifacts import Evaluation, Metrics, Model, Provenance, Split, StageContext, build
from carclf.config import load_config
from carclf.evaluation.assessment import Predictions
from carclf.evaluation.evaluate import write_evaluation
from carclf.gate.decision import EvaluatedModel, decide, write_decision
from carclf.metrics import METRICS
from carclf.reports.dataset_report import DatasetFindings, write_dataset_report
from carclf.services.storage import open_store
from carclf.training.heads import build_head, fit_head

NUM_CLASSES = 200
METRIC = "log_loss"
NUM_VIEWS = 3
NUM_FEATURES = 256
NAMES = [f"<b>Автомобиль/кузов & 車 \"{number}\" {'sehr langer Name ' * 4}№{number}" for number in range(NUM_CLASSES)]


def index_rows(num_images: int) -> pd.DataFrame:
    """Return an index: classes of different sizes, a tenth of test images, duplicates, problems and warnings."""
    rng = np.random.default_rng(0)
    number = np.arange(num_images)
    label = np.array(NAMES, object)[(rng.random(num_images) ** 2 * NUM_CLASSES).astype(int)]
    is_test = number % 10 == 0
    return pd.DataFrame({
        "id": [f"{i:06d}" for i in number], "path": [f"train/{name}/{i:06d}.jpg" for i, name in enumerate(label)],
        "label": np.where(is_test, "", label), "source": np.where(is_test, "test", "train"), "group": "",
        "problem": np.where(number % 97 == 0, "The file is not an image.", ""),
        "warning": np.where(number % 7 == 0, "The mean brightness is 3 of 255.", ""),
        "sha256": [f"{i // 2:064x}" for i in number], "cluster": number // 3, "size_bytes": 50_000,
        "width": rng.integers(200, 900, num_images), "height": rng.integers(200, 900, num_images),
        "brightness": rng.uniform(0, 255, num_images), "contrast": rng.uniform(5, 80, num_images),
        "sharpness": rng.uniform(0, 9, num_images),
    })


def write_dataset(folder: Path, num_images: int) -> None:
    """Write the dataset report."""
    report = {"num_images": num_images, "num_classes": NUM_CLASSES, "metric": "log_loss"}
    write_dataset_report(folder / "dataset.html", index_rows(num_images), folder, DatasetFindings(report))


def labeled_rows(num_images: int) -> pd.DataFrame:
    """Return an index in which each image has a label."""
    labels = np.random.default_rng(0).integers(0, NUM_CLASSES, num_images)
    return index_rows(num_images).assign(label=np.array(NAMES, object)[labels])


def write_predictions(folder: Path, num_images: int) -> None:
    """Write an evaluation on all images: metrics with bootstrap intervals, predictions and report."""
    rows = labeled_rows(num_images)
    probabilities = np.random.default_rng(0).normal(0, 1, (num_images, NUM_CLASSES))
    positions = {name: position for position, name in enumerate(NAMES)}
    probabilities[np.arange(num_images), rows["label"].map(positions)] += 2.5
    np.exp(probabilities, out=probabilities)
    probabilities /= probabilities.sum(1, keepdims=True)
    predictions = Predictions(rows, NAMES, probabilities, METRICS[METRIC])
    write_evaluation(folder, predictions, folder, measurements={"latency_ms": 1.0, "model_mb": 1.0})


def compare_evaluations(folder: Path, num_images: int) -> None:
    """Decide about a candidate whose predictions are those of ``write_predictions``, as the champion's are."""
    store = open_store(folder / "store")

    def write_split(target: Path) -> Metrics:
        labeled_rows(num_images).assign(subset="val").to_parquet(target / "split.parquet")
        return {"metric": METRIC}

    def copy_evaluation(target: Path) -> Metrics:
        for name in ("predictions.parquet", "evaluation.json"):
            shutil.copy(folder / name, target)
        return {"metric": METRIC, "val_metric": 1.0}

    split, _ = build(Split, write_split, Provenance(1, {}, {}), store)
    models = []
    for name in ("candidate", "champion"):
        provenance = Provenance(1, {"split": split.key}, {"name": name})
        model, _ = build(Model, lambda _: {"class_names": NAMES}, provenance, store)
        models.append(EvaluatedModel(model, build(Evaluation, copy_evaluation, provenance, store)[0]))
    write_decision(folder, decide(*models, split, 2.0, StageContext(store, load_config("demo"))))


def train_head(folder: Path, num_images: int) -> None:
    """Train a head for an epoch on ``NUM_VIEWS`` views of each image."""
    rng = np.random.default_rng(0)
    num_rows = NUM_VIEWS * num_images
    features = np.lib.format.open_memmap(folder / "features.npy", "w+", np.float32, (num_rows, NUM_FEATURES))
    for start in range(0, num_rows, 10_000):
        features[start : start + 10_000] = rng.normal(size=(min(10_000, num_rows - start), NUM_FEATURES))
    labels = rng.integers(0, NUM_CLASSES, num_rows)
    config = load_config("demo", {"head.epochs": 1, "head.batch_size": 1024})
    head = build_head(NUM_FEATURES, NUM_CLASSES, config.model)
    fit_head(head, (features, labels), (features[:1000], labels[:1000]), config.head)


def do_nothing(folder: Path, num_images: int) -> None:
    """Measure the imports."""


PARTS: dict[str, Callable[[Path, int], None]] = {
    "empty": do_nothing, "dataset": write_dataset, "evaluation": write_predictions,
    "gate": compare_evaluations, "head": train_head,
}


def main() -> None:
    """Print the peak of each part in MB by number of images, and all as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1,000 and 2,000 images.")
    parser.add_argument("--keep", type=Path, help="Keep the reports of the largest number of images in this folder.")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--images", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        PARTS[options.part](options.keep, options.images)
        return
    table = {}
    for num_images in (1000, 2000) if options.quick else (10_000, 100_000):
        with tempfile.TemporaryDirectory() as name:
            folder = options.keep or Path(name)
            command = [sys.executable, "-m", "benchmarks.report_memory", "--keep", str(folder), "--images"]
            table[num_images] = {
                part: round(peak([*command, str(num_images), "--part", part], dict(os.environ))) for part in PARTS}
    print(pd.DataFrame(table).to_string())
    print(json.dumps({str(num_images): row for num_images, row in table.items()}))


if __name__ == "__main__":
    main()
