"""Real photographs of ten makes: the recipes against the original notebook, graded on a held-out fifth.

No setting was chosen on that fifth. Rows are appended to ``--results`` as they are measured, with the stores in a
folder next to it, so that an interrupted benchmark resumes where it stopped; an interrupted training has no time. Other
work disturbs CPU seconds less than wall-clock seconds.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import pandas as pd

from benchmarks.open_gate import OPEN_GATE
from benchmarks.original_notebook import NotebookRecipe, train_original_notebook
from benchmarks.timing import cpu_seconds
from carclf.config import load_config, parse_override
from carclf.demo.competition import Competition, open_competition
from carclf.demo.grading import grade
from carclf.demo.server import DemoServer
from carclf.runs.run import Run
from carclf.services.storage import init_store

HOLDOUT = 0.2
SAMPLE_STEP = 20  # --quick takes every 20th image
QUICK = {"fine_tune.epochs": 1, "head.epochs": 5, "head.num_views": 1, "head.num_trials": 1, "audit.enabled": False,
         "validation.min_images_per_class": 5}
NOTEBOOK = "notebook"
RECIPES = ("cpu-fast", "cpu", "cpu-accurate")
Predictions = tuple[dict[str, str], dict[str, float]]  # class by image name, and metrics
Train = Callable[[Competition, int, argparse.Namespace, Path], Predictions]


@contextmanager
def serve(competition: Competition) -> Iterator[None]:
    """Serve a competition to this process."""
    with DemoServer(competition, scoring_seconds=0) as server:
        os.environ |= {"CARCLF_KAGGLE_ENDPOINT": server.url, "KAGGLE_API_TOKEN": server.token}
        yield


def run_stages(
    competition: Competition, recipe: str, settings: dict[str, Any], work: Path, run_id: str = "run"
) -> tuple[Predictions, dict[str, float]]:
    """Run the stages against a running server without Airflow, from download to submit.

    The store and the cache are in ``work``. Return the predictions, and the processor time of each stage in seconds.
    """
    os.environ["CARCLF_CACHE"] = str(work / "cache")
    store = init_store(work / "store")
    results, seconds = {}, {}
    config = load_config(recipe, {"data.source": competition.slug} | OPEN_GATE | settings)
    run = Run.start_or_resume(run_id, store, recipe, config)
    for stage in run.stages:
        started = cpu_seconds()
        results[stage] = run.run_stage(stage)
        seconds[stage] = cpu_seconds() - started
    rows = pd.read_csv(work / "store" / str(results["submit"].metrics["submission"]), dtype=str)
    metrics = {"val_accuracy": float(results["evaluate"].metrics["val_accuracy"])}
    return (dict(zip(rows["Id"], rows["Category"], strict=True)), metrics), seconds


def train_with_recipe(recipe: str, settings: dict[str, Any]) -> Train:
    """Return a function that runs the stages of a recipe. In an empty folder nothing is reused."""

    def train(competition: Competition, seed: int, options: argparse.Namespace, work: Path) -> Predictions:
        base = {"model.weights": options.weights, "seed": seed}
        with serve(competition):
            return run_stages(competition, recipe, base | settings, work)[0]

    return train


def train_notebook(competition: Competition, seed: int, options: argparse.Namespace, work: Path) -> Predictions:
    """Run the notebook that this project started from, on the same images."""
    epochs = (1, 1) if options.quick else (5, 8)
    recipe = NotebookRecipe(options.weights, seed, *epochs)
    return train_original_notebook(options.data, competition, recipe)


def list_recipes(options: argparse.Namespace) -> dict[str, Train]:
    """Return the trainings to compare, by name."""
    settings = dict(map(parse_override, options.set))
    settings |= QUICK if options.quick else {}
    recipes = {recipe: train_with_recipe(recipe, settings) for recipe in RECIPES}
    return {NOTEBOOK: train_notebook, **recipes}


def measure(recipe: str, seed: int, competition: Competition, options: argparse.Namespace) -> dict[str, Any]:
    """Train once; return the accuracy on the held-out images, and the seconds from images to predictions."""
    keras.backend.clear_session()
    work = options.stores / f"{recipe}-{seed}"
    is_new = not work.exists()
    started, cpu_started = time.perf_counter(), cpu_seconds()
    predictions, metrics = list_recipes(options)[recipe](competition, seed, options, work)
    times = {"seconds": round(time.perf_counter() - started), "cpu_seconds": round(cpu_seconds() - cpu_started)}
    shutil.rmtree(work, ignore_errors=True)
    table = "Id,Category\n" + "".join(f"{name},{predictions[name]}\n" for name in competition.ids)
    score, fault = grade(competition, table.encode())
    if fault:
        raise SystemExit(f"{recipe}: {fault}")
    return {"recipe": recipe, "seed": seed, "accuracy": float(score)} | (times if is_new else {}) | metrics


def summarize(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return means over the seeds that every recipe has run, and time ratios to the notebook."""
    frame = pd.DataFrame(rows).reindex(columns=["recipe", "seed", "accuracy", "seconds", "cpu_seconds"])
    num_recipes = frame["recipe"].nunique()
    frame = frame[frame.groupby("seed")["recipe"].transform("nunique") == num_recipes]
    means = frame.groupby("recipe")[["accuracy", "seconds", "cpu_seconds"]].mean()
    summary: dict[str, Any] = {"accuracy": means["accuracy"].round(4).to_dict(), "num_seeds": frame["seed"].nunique()}
    if NOTEBOOK in means.index:
        for column in ("seconds", "cpu_seconds"):
            ratios = (means[column] / means[column][NOTEBOOK]).round(3).drop(NOTEBOOK).dropna()
            summary[f"{column}_vs_notebook"] = ratios.to_dict()
    return summary


def parse_options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="A folder in the layout of the competition.")
    parser.add_argument("--weights", required=True, help="ImageNet weights of EfficientNetV2B0 without top.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recipes", nargs="+", help="Some of notebook, cpu-fast, cpu and cpu-accurate. Default: "
                        "all, or with --quick the first two: the others run the same code.")
    parser.add_argument("--set", action="append", default=[], metavar="SETTING=VALUE", help="Change the recipes.")
    parser.add_argument("--results", type=Path, help="A file of JSON lines; rows that it contains are not measured.")
    parser.add_argument("--quick", action="store_true", help="One seed, few epochs, every 20th image.")
    options = parser.parse_args()
    options.recipes = options.recipes or [NOTEBOOK, *(RECIPES[:1] if options.quick else RECIPES)]
    options.seeds = [0] if options.quick else options.seeds
    return options


def measure_all(competition: Competition, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure each recipe for each seed, in turn, unless the results contain it."""
    rows: list[dict[str, Any]] = []
    if options.results and options.results.exists():
        rows = [json.loads(line) for line in options.results.read_text().splitlines()]
    measured = {(row["recipe"], row["seed"]) for row in rows}
    for recipe, seed in ((recipe, seed) for seed in options.seeds for recipe in options.recipes):
        if (recipe, seed) in measured:
            continue
        row = measure(recipe, seed, competition, options)
        rows.append(row)
        print(json.dumps(row), flush=True)
        if options.results:
            with options.results.open("a") as file:
                file.write(json.dumps(row) + "\n")
    return rows


def main() -> None:
    """Measure everything and print the rows and their summary."""
    options = parse_options()
    with tempfile.TemporaryDirectory() as folder:
        if options.quick:
            options.data = link_sample(options.data, Path(folder) / "data")
        options.stores = Path(f"{options.results}.stores") if options.results else Path(folder) / "stores"
        competition = open_competition(options.data, slug="cars10", work=Path(folder), holdout=HOLDOUT)
        rows = measure_all(competition, options)
    print(pd.DataFrame(rows).to_string(index=False))
    print(json.dumps(summarize(rows)))


def link_sample(data: Path, folder: Path) -> Path:
    """Create a folder with links to every 20th image."""
    for path in sorted(data.glob("train/*/*.jpg"))[::SAMPLE_STEP]:
        target = folder / path.relative_to(data)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path.resolve())
    return folder


if __name__ == "__main__":
    main()
