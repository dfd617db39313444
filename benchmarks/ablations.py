"""What each setting of the recipe cpu contributes: one change at a time, on photographs that no setting was chosen on.

Every change trains with the same seed on the same images as the recipe, and is compared with it on the held-out fifth,
image by image. Unchanged stages are reused, so the seconds are those of fine-tuning and of the epochs that a change
adds or saves. Rows are appended to ``--results``; an interrupted benchmark resumes where it stopped.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras

from benchmarks.cars10 import HOLDOUT, QUICK, link_sample, run_stages, serve
from carclf.demo.competition import Competition, open_competition
from carclf.experiments.ablations import ABLATIONS
from carclf.stats import PairedCounts

RECIPE, BASELINE = "cpu", "baseline"
CHANGES: dict[str, dict[str, Any]] = {
    BASELINE: {},
    # Added to the recipe.
    "batch-norm-affine": ABLATIONS["batch-norm-affine"],
    "half-crops": {"augment.half_crop": 0.2},
    "trivial-augment": ABLATIONS["trivial-augment"],
    "random-erasing": ABLATIONS["random-erasing"],
    "mixup": {"fine_tune.mixup": 0.2},
    "cutmix": {"fine_tune.cutmix": 0.3},
    "layer-decay": ABLATIONS["layer-decay"],
    "three-head-views": {"head.num_views": 3},
    "refit": {"fine_tune.refit": True},
    # Removed from the recipe.
    "no-label-smoothing": ABLATIONS["no-label-smoothing"],
    "no-ema": ABLATIONS["no-ema"],
    "no-crops": {"augment.crop_scale": 1.0, "augment.aspect_jitter": 0.0},
    "no-color": {"augment.color": 0.0},
    "no-weight-decay": {"fine_tune.weight_decay": 0.0},
    "single-view": ABLATIONS["single-view"],
    # The same seconds, spent otherwise.
    "predicted-at-training-size": ABLATIONS["size-192x384"] | {"fine_tune.size_fraction": 1.0},
    "all-blocks-5-epochs": ABLATIONS["all-unfrozen"] | {"fine_tune.epochs": 5},
    "fewer-blocks-11-epochs": {"fine_tune.unfrozen_fraction": 0.4, "fine_tune.epochs": 11},
}


def measure(name: str, competition: Competition, options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Return the processor time of a change's fine-tuning, and the held-out images that it classifies correctly."""
    keras.backend.clear_session()
    settings = {"model.weights": options.weights, "seed": options.seed} | CHANGES[name]
    settings |= QUICK if options.quick else {}
    (predicted, _), seconds = run_stages(competition, RECIPE, settings, work, run_id=name)
    truth: Mapping[str, str] = competition.truth or {}
    return {"change": name, "seed": options.seed, "cpu_seconds": round(seconds["fine_tune"] + seconds.get("refit", 0)),
            "correct": [int(predicted[image_id] == truth[image_id]) for image_id in competition.ids]}


def compare(row: dict[str, Any], baseline: dict[str, Any]) -> dict[str, Any]:
    """Return a change's accuracy, and its difference from the recipe with its 95% interval, in points."""
    pairs = list(zip(row["correct"], baseline["correct"], strict=True))
    counts = PairedCounts(len(pairs), pairs.count((1, 0)), pairs.count((0, 1)))
    low, high = counts.interval()
    return {"change": row["change"], "cpu_seconds": row["cpu_seconds"],
            "accuracy": round(sum(row["correct"]) / len(pairs), 3), "difference": round(100 * counts.difference, 1),
            "low": round(100 * low, 1), "high": round(100 * high, 1)}


def main() -> None:
    """Measure each change and print the comparison with the recipe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="A folder in the layout of the competition.")
    parser.add_argument("--weights", required=True, help="ImageNet weights of EfficientNetV2B0 without top.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--changes", nargs="+", choices=CHANGES, help="Default: all, or with --quick the first three.")
    parser.add_argument("--results", type=Path, help="A file of JSON lines; changes that it contains are not measured.")
    parser.add_argument("--quick", action="store_true", help="Few epochs, every 20th image.")
    options = parser.parse_args()
    names = [BASELINE, *(options.changes or list(CHANGES)[1:3 if options.quick else None])]
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = link_sample(options.data, Path(folder) / "data") if options.quick else options.data
        work = Path(f"{options.results}.work") if options.results else Path(folder) / "work"
        competition = open_competition(data, slug="cars10", work=Path(folder), holdout=HOLDOUT)
        if options.results and options.results.exists():
            rows = {row["change"]: row for row in map(json.loads, options.results.read_text().splitlines())}
        with serve(competition):  # to all runs: two changes may have the same predictions
            for name in dict.fromkeys(names):
                if name not in rows:
                    rows[name] = measure(name, competition, options, work)
                    if options.results:
                        with options.results.open("a") as file:
                            file.write(json.dumps(rows[name]) + "\n")
                print(json.dumps(compare(rows[name], rows[BASELINE])), flush=True)


if __name__ == "__main__":
    main()
