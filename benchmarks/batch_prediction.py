"""Wall time and peak memory of a batch prediction by two workers, compared with twice the speed of one worker.

Each worker has one core and runs the tasks of a plan one after the other, each in a new process, as in the DAG.
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from benchmarks.stage_memory import peak
from carclf.artifacts import Metrics, Model, Provenance, build
from carclf.batch_prediction.plan import make_plan, open_source
from carclf.batch_prediction.shard_files import BatchFolder
from carclf.batch_prediction.table import read_predictions
from carclf.services.storage import Store, init_store

SIDE = 32  # pixels
NUM_CLASSES = 10
NUM_WORKERS = 2
NUM_TASKS = 16  # of a plan, as CARCLF_PREDICT_TASKS by default
IMAGES_PER_FOLDER = 1000


@dataclass(frozen=True)
class Scale:
    """Number of images, images per shard, and shards of the two measurements of one worker."""

    num_images: int
    shard_size: int
    alone: tuple[int, int]


FULL = Scale(100_000, 1000, (1, 6))
QUICK = Scale(4_000, 100, (1, 6))


def write_images(folder: Path, num: int) -> None:
    """Write small JPEGs of noise."""
    random = np.random.default_rng(0)
    for number in range(num):
        path = folder / str(number // IMAGES_PER_FOLDER) / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        small = random.integers(0, 256, (8, 8, 3), np.uint8)
        cv2.imwrite(str(path), cv2.resize(small, (SIDE, SIDE)))


def build_model(store: Store, backbone: str) -> Model:
    """Store a network with random weights, which takes as long as a trained one."""

    def make(folder: Path) -> Metrics:
        import keras

        from carclf.training.backbones import build_backbone
        from carclf.training.weights import StartingWeights

        inputs = keras.Input((SIDE, SIDE, 3))
        features = build_backbone(backbone, StartingWeights("none"), SIDE, SIDE)(inputs)
        keras.Model(inputs, keras.layers.Dense(NUM_CLASSES)(features)).save(folder / "model.keras")
        return {"class_names": [f"class {number}" for number in range(NUM_CLASSES)], "image_height": SIDE,
                "image_width": SIDE}

    return build(Model, make, Provenance(1, {}, {"backbone": backbone}), store)[0]


@dataclass(frozen=True)
class Work:
    """The folder of images, the model, and the environment of the workers."""

    images: Path
    model: Model
    store: Store
    scale: Scale

    def plan(self) -> list[str]:
        """Return the ids of the shards of each task."""
        plan = make_plan(self.store, self.model.key, open_source(str(self.images)), self.scale.shard_size)
        return [",".join(map(str, group)) for group in plan.groups(NUM_TASKS)]

    def run_task(self, shards: str) -> float:
        """Predict shards in a new process; return its peak memory in MB."""
        command = [sys.executable, "-m", "carclf", "predictions", "shard", shards, "--source", str(self.images),
                   "--store", self.store.url, "--model", self.model.key]
        return peak(command, dict(os.environ))


def time_alone(work: Work) -> tuple[float, list[float]]:
    """Return the images per second of one worker without the start of its process, and its peak memory in MB."""
    os.sched_setaffinity(0, {0})
    shards = [shard for task in work.plan() for shard in task.split(",")]
    few, many = work.scale.alone
    seconds, megabytes = [], []
    for chosen in (shards[:few], shards[few : few + many]):
        started = time.monotonic()
        megabytes.append(work.run_task(",".join(chosen)))
        seconds.append(time.monotonic() - started)
    return (many - few) * work.scale.shard_size / (seconds[1] - seconds[0]), megabytes


def run_workers(work: Work) -> tuple[float, list[float]]:
    """Predict what is left with all workers; return the seconds and the peak memory of each worker in MB."""
    started = time.monotonic()
    tasks = deque(work.plan())
    megabytes = [0.0] * NUM_WORKERS

    def run(core: int) -> None:
        os.sched_setaffinity(0, {core})  # of this thread and its child processes
        while tasks:
            megabytes[core] = max(megabytes[core], work.run_task(tasks.popleft()))

    workers = [threading.Thread(target=run, args=(core,)) for core in range(NUM_WORKERS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return time.monotonic() - started, megabytes


def main() -> None:
    """Print the results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer images")
    parser.add_argument("--images", type=int, help="number of images")
    parser.add_argument("--backbone", default="EfficientNetV2B0")
    options = parser.parse_args()
    scale = QUICK if options.quick else FULL
    num_images = options.images or scale.num_images
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CARCLF_CACHE"] = f"{folder}/cache"
        write_images(Path(folder, "images"), num_images)
        store = init_store(f"{folder}/store")
        work = Work(Path(folder, "images"), build_model(store, options.backbone), store, scale)
        cores = os.sched_getaffinity(0)
        speed, alone_mb = time_alone(work)
        os.sched_setaffinity(0, cores)
        num_left = num_images - sum(scale.alone) * scale.shard_size
        seconds, megabytes = run_workers(work)
        rows = read_predictions(BatchFolder(store, work.model.key, str(work.images)))
        assert len(rows) == num_images, len(rows)
    ideal = num_left / (NUM_WORKERS * speed)
    print(json.dumps({
        "num_images": num_left, "one_worker_images_per_second": round(speed, 1), "seconds": round(seconds, 1),
        "ideal_seconds": round(ideal, 1), "ratio": round(seconds / ideal, 2),
        "peak_mb": [round(value) for value in megabytes],
        "peak_mb_by_shards_of_a_process": dict(zip(map(str, scale.alone), map(round, alone_mb), strict=True)),
    }))


if __name__ == "__main__":
    main()
