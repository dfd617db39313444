"""Real photographs of ten makes: our recipes beside the seed's way, graded on a fifth that no setting was chosen on.

The rows lie in ``--results`` as they come, and the stores beside it, so a broken benchmark goes on where it stopped. A
training that was interrupted has no time. Seconds of the processors are less disturbed by other work than the clock's.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import pandas as pd

from benchmarks import OPEN_GATE
from benchmarks.original_notebook import train_original_notebook
from benchmarks.timing import cpu_seconds
from carclf.config import load_config
from carclf.demo.competition import Competition, grade, open_competition
from carclf.demo.server import DemoServer
from carclf.runs.run import Run
from carclf.services.storage import open_store
from carclf.stages.chain import STAGES

HOLDOUT = 0.2
Answers = tuple[dict[str, str], dict[str, float]]


def by_recipe(recipe: str, settings: dict[str, Any]) -> Callable[..., Answers]:
    """The product's own chain without Airflow, from the download to the submission."""

    def train(competition: Competition, seed: int, options: argparse.Namespace, work: Path) -> Answers:
        os.environ["CARCLF_CACHE"] = str(work / "cache")  # nothing made before helps
        store = open_store(str(work / "store"))
        with DemoServer(competition, scoring_seconds=0) as server:
            os.environ |= {"CARCLF_KAGGLE_ENDPOINT": server.url, "KAGGLE_API_TOKEN": "demo-key"}
            given = {"competition": competition.slug, "model.weights": options.weights, "seed": seed} | OPEN_GATE
            run = Run.start_or_resume("run", store, recipe, load_config(recipe, given | settings))
            done = {stage: run.run_stage(stage) for stage in STAGES}
        rows = pd.read_csv(work / "store" / str(done["submit"].metrics["submission"]), dtype=str)
        metrics = {"val_accuracy": float(done["evaluate"].metrics["val_accuracy"])}
        return dict(zip(rows["Id"], rows["Category"], strict=True)), metrics

    return train


def run_original_notebook(competition: Competition, seed: int, options: argparse.Namespace, work: Path) -> Answers:
    """The notebook that this project began as, on the same pictures."""
    epochs = (1, 1) if options.quick else (5, 8)
    return train_original_notebook(options.data, competition, options.weights, seed, epochs)


def measure(way: str, seed: int, competition: Competition, options: argparse.Namespace) -> dict[str, Any]:
    """One training: accuracy on the held-out pictures, and seconds from the pictures to the predictions."""
    keras.backend.clear_session()
    work = options.stores / f"{way}-{seed}"
    whole = not work.exists()
    started, used = time.perf_counter(), cpu_seconds()
    answers, metrics = ways(options)[way](competition, seed, options, work)
    seconds, used = time.perf_counter() - started, cpu_seconds() - used
    shutil.rmtree(work, ignore_errors=True)
    table = "Id,Category\n" + "".join(f"{name},{answers[name]}\n" for name in competition.ids)
    score, fault = grade(competition, table.encode())
    if fault:
        raise SystemExit(f"{way}: {fault}")
    times = {"seconds": round(seconds), "cpu_seconds": round(used)} if whole else {}
    return {"way": way, "seed": seed, "accuracy": float(score)} | times | metrics


def ways(options: argparse.Namespace) -> dict[str, Callable[..., Answers]]:
    """What is compared."""
    quick: dict[str, Any] = {}
    if options.quick:
        quick = {"fine_tune.epochs": 1, "head.epochs": 5, "head.num_views": 1, "head.num_trials": 1,
                 "audit.enabled": False, "validation.min_images_per_class": 5}
    return {"seed": run_original_notebook} | {recipe: by_recipe(recipe, quick) for recipe in ("cpu-fast", "cpu-accurate")}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds that every way has run, and the ratios to the seed's way."""
    # Rows of interrupted trainings have no times.
    frame = pd.DataFrame(rows).reindex(columns=["way", "seed", "accuracy", "seconds", "cpu_seconds"])
    num_ways = frame["way"].nunique()
    frame = frame[frame.groupby("seed")["way"].transform("nunique") == num_ways]
    means = frame.groupby("way")[["accuracy", "seconds", "cpu_seconds"]].mean()
    found: dict[str, Any] = {"accuracy": means["accuracy"].round(4).to_dict(), "num_seeds": frame["seed"].nunique()}
    for of in ("seconds", "cpu_seconds") if "seed" in means.index else ():
        shares = (means[of] / means[of]["seed"]).round(3).drop("seed").dropna()
        found[f"{of}_of_seeds"] = shares.to_dict()
    return found


def main() -> None:
    """Each way for each seed, in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/cars10"))
    parser.add_argument("--weights", default="../shared/data/weights/efficientnetv2b0_imagenet_notop.weights.h5")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ways", nargs="+", help="Of seed, cpu-fast and cpu-accurate; all, or by --quick the "
                        "first two, which walk the same paths.")
    parser.add_argument("--results", type=Path, help="A file of JSON lines: rows that are there are not made again.")
    parser.add_argument("--quick", action="store_true", help="One seed, an epoch of each part, every 20th image.")
    options = parser.parse_args()
    options.ways = options.ways or ["seed", "cpu-fast", *([] if options.quick else ["cpu-accurate"])]
    rows: list[dict[str, Any]] = []
    if options.results and options.results.exists():
        rows = [json.loads(line) for line in options.results.read_text().splitlines()]
    with tempfile.TemporaryDirectory() as folder:
        data = _twentieth(options.data, Path(folder) / "data") if options.quick else options.data
        options.data = data
        options.stores = Path(f"{options.results}.stores") if options.results else Path(folder) / "stores"
        competition = open_competition(data, slug="cars10", work=Path(folder), holdout=HOLDOUT)
        for seed in [0] if options.quick else options.seeds:
            for way in options.ways:
                if any((row["way"], row["seed"]) == (way, seed) for row in rows):
                    continue
                rows.append(measure(way, seed, competition, options))
                print(json.dumps(rows[-1]), flush=True)
                if options.results:
                    with options.results.open("a") as file:
                        file.write(json.dumps(rows[-1]) + "\n")
    print(pd.DataFrame(rows).to_string(index=False))
    print(json.dumps(summary(rows)))


def _twentieth(data: Path, folder: Path) -> Path:
    """Every twentieth picture, as links."""
    for path in sorted(data.glob("train/*/*.jpg"))[::20]:
        target = folder / path.relative_to(data)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path.resolve())
    return folder


if __name__ == "__main__":
    main()
