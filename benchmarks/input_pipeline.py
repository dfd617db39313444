"""Delivered training pictures a second: 640x480 JPEG to augmented 224 px batches of 32, beside the usual ways."""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import albumentations as a
import cv2
import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from benchmarks.generated_images import write_images
from carclf.config import Augment
from carclf.images.decode import decode
from carclf.pipeline.augmentation import Augmenter
from carclf.pipeline.batches import Examples, TrainingSource, batches

SIZE, BATCH, CORES = 224, 32, 2
FRAME = (224, 298)  # what 640x480 pictures need so that their shorter side is 224


def usual() -> Any:
    """The augmentation that the peers share: albumentations' usual chain of the same strength as ours."""
    return a.Compose([
        a.RandomResizedCrop((SIZE, SIZE), scale=(0.6, 1.0), ratio=(0.86, 1.16)), a.HorizontalFlip(p=0.5),
        a.Rotate(5, p=0.5), a.ColorJitter(0.2, 0.2, 0.2, 0.0, p=0.8),
    ])


def seeds_way(folder: Path, index: pd.DataFrame) -> Callable[[], Iterator[Any]]:
    """Keras' ImageDataGenerator with albumentations as its preprocessing function."""
    chain = a.Compose([a.HorizontalFlip(p=0.5), a.Rotate(5, p=0.5), a.ColorJitter(0.2, 0.2, 0.2, 0.0, p=0.8)])
    generator = keras.src.legacy.preprocessing.image.ImageDataGenerator(
        preprocessing_function=lambda pixels: chain(image=pixels.astype(np.uint8))["image"].astype(np.float32)
    )
    frame = index.assign(label=index["label"].astype(str))

    def epoch() -> Iterator[Any]:
        flow = generator.flow_from_dataframe(
            frame, folder, x_col="path", y_col="label", target_size=(SIZE, SIZE), batch_size=BATCH
        )
        return (flow[number] for number in range(len(flow)))

    return epoch


def numpy_function(folder: Path, index: pd.DataFrame) -> Callable[[], Iterator[Any]]:
    """tf.data with numpy_function: the best decoder, then the usual chain."""
    chain = usual()

    def view(path: bytes) -> Any:
        pixels = decode(Path(path.decode()).read_bytes(), frame=FRAME)
        return chain(image=pixels)["image"]

    paths = [str(folder / path) for path in index["path"]]
    data = tf.data.Dataset.from_tensor_slices((paths, index["label"])).shuffle(len(paths))
    data = data.map(lambda path, label: (tf.numpy_function(view, [path], tf.uint8), label), CORES)
    return lambda: data.batch(BATCH).prefetch(2).as_numpy_iterator()


def keras_layers(folder: Path, index: pd.DataFrame) -> Callable[[], Iterator[Any]]:
    """Keras' own augmentation layers in tf.data."""
    chain = keras.Sequential([
        keras.layers.RandomFlip("horizontal"), keras.layers.RandomRotation(5 / 360),
        keras.layers.RandomZoom((-0.2, 0.0)), keras.layers.RandomBrightness(0.2), keras.layers.RandomContrast(0.2),
    ])

    def load(path: Any, label: Any) -> Any:
        pixels = tf.io.decode_jpeg(tf.io.read_file(path), 3, ratio=2, dct_method="INTEGER_FAST")
        return tf.image.resize(pixels, (SIZE, SIZE)), label

    paths = [str(folder / path) for path in index["path"]]
    data = tf.data.Dataset.from_tensor_slices((paths, index["label"])).shuffle(len(paths)).map(load, CORES)
    data = data.batch(BATCH).map(lambda pixels, label: (chain(pixels, training=True), label), CORES)
    return lambda: data.prefetch(2).as_numpy_iterator()


class Sequence(keras.utils.PyDataset):
    """PyDataset with two threads, the best decoder and the usual chain."""

    def __init__(self, folder: Path, index: pd.DataFrame) -> None:
        super().__init__(workers=CORES, max_queue_size=8)
        self.paths, self.labels, self.chain = [folder / path for path in index["path"]], index["label"], usual()

    def __len__(self) -> int:
        return len(self.paths) // BATCH

    def __getitem__(self, number: int) -> Any:
        part = slice(number * BATCH, (number + 1) * BATCH)
        pictures = [decode(path.read_bytes(), frame=FRAME) for path in self.paths[part]]
        return np.stack([self.chain(image=pixels)["image"] for pixels in pictures]), self.labels[part].to_numpy()


def py_dataset(folder: Path, index: pd.DataFrame) -> Callable[[], Iterator[Any]]:
    """The same through Keras' own adapter."""
    from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter

    def epoch() -> Iterator[Any]:
        adapter = PyDatasetAdapter(Sequence(folder, index))
        adapter.on_epoch_begin()
        yield from adapter.get_numpy_iterator()

    return epoch


def rate(batches_of: Iterator[Any]) -> float:
    """Pictures a second until the iterator's end."""
    started, num = time.perf_counter(), 0
    for pixels, *_ in batches_of:
        num += len(pixels)
    return num / (time.perf_counter() - started)


def decode_alone(folder: Path, index: pd.DataFrame) -> float:
    """Decoding at the smallest scale that covers 224 px, by two threads, and nothing else."""
    def one(path: str) -> int:
        return decode((folder / path).read_bytes(), frame=FRAME).shape[0]

    started = time.perf_counter()
    with ThreadPoolExecutor(CORES) as pool:
        num = sum(1 for _ in pool.map(one, index["path"]))
    return num / (time.perf_counter() - started)


def ours(folder: Path, index: pd.DataFrame, num_workers: int, epochs: int) -> tuple[float, float]:
    """Pictures a second in the first epoch, with the making of the cache, and in the later ones."""
    largest = round(SIZE * 0.6**-0.5)
    started = time.perf_counter()
    examples = Examples.from_index(index, folder, (largest, largest)).with_decode_cache(f"{folder} {num_workers}", max_bytes=1e10)
    source = TrainingSource(examples, Augmenter(Augment()), [(SIZE, SIZE)] * epochs, BATCH, epochs, 0)
    stream = batches(source, BATCH, num_workers=num_workers)
    for _ in range(source.steps_per_epoch):
        next(stream)
    first = source.epoch_size / (time.perf_counter() - started)
    return first, rate(stream)


def main() -> None:
    """Measure every way in one process, each twice in turn, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    num, rounds = (256, 1) if quick else (1024, 3)
    cv2.setNumThreads(0)
    tf.config.threading.set_inter_op_parallelism_threads(CORES)
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["CARCLF_CACHE"] = str(folder / "cache")
        index = write_images(folder, num)
        peers = {"ImageDataGenerator": seeds_way, "tf.data + numpy_function": numpy_function,
                 "PyDataset": py_dataset, "Keras layers": keras_layers}
        epochs = {title: make(folder, index) for title, make in peers.items()}
        for turn in range(rounds):
            for title, epoch in epochs.items():
                found.setdefault(title, []).append(rate(epoch()))
            found.setdefault("decoding alone", []).append(decode_alone(folder, index))
            for processes, title in ((0, "carclf, threads"), (CORES, "carclf, 2 processes")):
                os.environ["CARCLF_CACHE"] = str(folder / f"cache{turn}{processes}")
                first, later = ours(folder, index, processes, 4)
                found.setdefault(f"{title}, first epoch", []).append(first)
                found.setdefault(f"{title}, later epochs", []).append(later)
    medians = {title: float(np.median(rates)) for title, rates in found.items()}
    for title, median in medians.items():
        print(f"{title:<36}{median:8.0f} img/s")
    later, first = medians["carclf, threads, later epochs"], medians["carclf, threads, first epoch"]
    best = max(medians[title] for title in peers if title != "ImageDataGenerator")
    print(json.dumps({
        "vs_seed": round(later / medians["ImageDataGenerator"], 2), "vs_best_peer": round(later / best, 2),
        "vs_decode": round(later / medians["decoding alone"], 2),
        "first_vs_seed": round(first / medians["ImageDataGenerator"], 2),
    }))


if __name__ == "__main__":
    main()
