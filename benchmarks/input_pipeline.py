"""Throughput of training images, 640x480 JPEG to augmented 224 px batches of 32, compared with usual pipelines."""

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

SIZE = 224
BATCH = 32
CORES = 2
DECODE_SIZE = (224, 298)  # covers 224 px on the shorter side of 640x480 images
LARGEST_CROP = round(SIZE * 0.6**-0.5)  # the decoded size that a crop of 60% of the area needs
EPOCHS = 4

Epoch = Callable[[], Iterator[Any]]


def usual_transform() -> Any:
    """Return the augmentation of the compared pipelines, as strong as carclf's."""
    return a.Compose([
        a.RandomResizedCrop((SIZE, SIZE), scale=(0.6, 1.0), ratio=(0.86, 1.16)), a.HorizontalFlip(p=0.5),
        a.Rotate(5, p=0.5), a.ColorJitter(0.2, 0.2, 0.2, 0.0, p=0.8),
    ])


def image_data_generator(folder: Path, index: pd.DataFrame) -> Epoch:
    """Keras' ImageDataGenerator with albumentations as its preprocessing function."""
    transform = a.Compose([a.HorizontalFlip(p=0.5), a.Rotate(5, p=0.5), a.ColorJitter(0.2, 0.2, 0.2, 0.0, p=0.8)])
    generator = keras.src.legacy.preprocessing.image.ImageDataGenerator(
        preprocessing_function=lambda pixels: transform(image=pixels.astype(np.uint8))["image"].astype(np.float32)
    )
    table = index.assign(label=index["class_index"].astype(str))

    def epoch() -> Iterator[Any]:
        flow = generator.flow_from_dataframe(
            table, folder, x_col="path", y_col="label", target_size=(SIZE, SIZE), batch_size=BATCH
        )
        return (flow[number] for number in range(len(flow)))

    return epoch


def shuffled_paths(folder: Path, index: pd.DataFrame) -> tf.data.Dataset:
    """Return a tf.data dataset of (path, label)."""
    paths = [str(folder / path) for path in index["path"]]
    return tf.data.Dataset.from_tensor_slices((paths, index["class_index"])).shuffle(len(paths))


def numpy_function(folder: Path, index: pd.DataFrame) -> Epoch:
    """tf.data with numpy_function: carclf's decoder, then the usual augmentation."""
    transform = usual_transform()

    def view(path: bytes) -> Any:
        pixels = decode(Path(path.decode()).read_bytes(), min_size=DECODE_SIZE)
        return transform(image=pixels)["image"]

    data = shuffled_paths(folder, index)
    data = data.map(lambda path, label: (tf.numpy_function(view, [path], tf.uint8), label), CORES)
    return lambda: data.batch(BATCH).prefetch(2).as_numpy_iterator()


def keras_layers(folder: Path, index: pd.DataFrame) -> Epoch:
    """Keras' augmentation layers in tf.data."""
    augmentation = keras.Sequential([
        keras.layers.RandomFlip("horizontal"), keras.layers.RandomRotation(5 / 360),
        keras.layers.RandomZoom((-0.2, 0.0)), keras.layers.RandomBrightness(0.2), keras.layers.RandomContrast(0.2),
    ])

    def load(path: Any, label: Any) -> Any:
        pixels = tf.io.decode_jpeg(tf.io.read_file(path), 3, ratio=2, dct_method="INTEGER_FAST")
        return tf.image.resize(pixels, (SIZE, SIZE)), label

    data = shuffled_paths(folder, index).map(load, CORES).batch(BATCH)
    data = data.map(lambda pixels, label: (augmentation(pixels, training=True), label), CORES)
    return lambda: data.prefetch(2).as_numpy_iterator()


class Sequence(keras.utils.PyDataset):
    """PyDataset with two threads, carclf's decoder and the usual augmentation."""

    def __init__(self, folder: Path, index: pd.DataFrame) -> None:
        super().__init__(workers=CORES, max_queue_size=8)
        self.paths = [folder / path for path in index["path"]]
        self.labels = index["class_index"]
        self.transform = usual_transform()

    def __len__(self) -> int:
        return len(self.paths) // BATCH

    def __getitem__(self, number: int) -> Any:
        part = slice(number * BATCH, (number + 1) * BATCH)
        images = [decode(path.read_bytes(), min_size=DECODE_SIZE) for path in self.paths[part]]
        return np.stack([self.transform(image=pixels)["image"] for pixels in images]), self.labels[part].to_numpy()


def py_dataset(folder: Path, index: pd.DataFrame) -> Epoch:
    """The PyDataset through Keras' own adapter."""
    from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter

    def epoch() -> Iterator[Any]:
        adapter = PyDatasetAdapter(Sequence(folder, index))
        adapter.on_epoch_begin()
        yield from adapter.get_numpy_iterator()

    return epoch


PEERS = {
    "ImageDataGenerator": image_data_generator, "tf.data + numpy_function": numpy_function, "PyDataset": py_dataset,
    "Keras layers": keras_layers,
}


def throughput(epoch: Iterator[Any]) -> float:
    """Return images per second until the iterator's end."""
    started, num = time.perf_counter(), 0
    for pixels, *_ in epoch:
        num += len(pixels)
    return num / (time.perf_counter() - started)


def decode_only(folder: Path, index: pd.DataFrame) -> float:
    """Return images per second of decoding alone, with two threads, at the smallest scale that covers 224 px."""

    def height(path: str) -> int:
        return decode((folder / path).read_bytes(), min_size=DECODE_SIZE).shape[0]

    started = time.perf_counter()
    with ThreadPoolExecutor(CORES) as pool:
        num = sum(1 for _ in pool.map(height, index["path"]))
    return num / (time.perf_counter() - started)


def carclf_pipeline(folder: Path, index: pd.DataFrame, num_workers: int) -> tuple[float, float]:
    """Return images per second of the first epoch, which writes the cache, and of the later ones."""
    started = time.perf_counter()
    examples = Examples.from_index(index, folder, (LARGEST_CROP, LARGEST_CROP))
    examples = examples.with_decode_cache(f"{folder} {num_workers}", max_bytes=1e10)
    source = TrainingSource(examples, Augmenter(Augment()), [(SIZE, SIZE)] * EPOCHS, BATCH, EPOCHS, 0)
    stream = batches(source, BATCH, num_workers=num_workers)
    for _ in range(source.steps_per_epoch):
        next(stream)
    first = source.epoch_size / (time.perf_counter() - started)
    return first, throughput(stream)


def measure(folder: Path, num: int, rounds: int) -> dict[str, float]:
    """Return the median throughput of each pipeline in interleaved rounds."""
    index = write_images(folder, num)
    epochs = {name: make(folder, index) for name, make in PEERS.items()}
    results = []
    for turn in range(rounds):
        result = {name: throughput(epoch()) for name, epoch in epochs.items()}
        result["decoding alone"] = decode_only(folder, index)
        for num_workers, name in ((0, "carclf, threads"), (CORES, "carclf, 2 processes")):
            os.environ["CARCLF_CACHE"] = str(folder / f"cache{turn}{num_workers}")
            first, later = carclf_pipeline(folder, index, num_workers)
            result |= {f"{name}, first epoch": first, f"{name}, later epochs": later}
        results.append(result)
    return pd.DataFrame(results).median().to_dict()


def main() -> None:
    """Measure all pipelines in one process and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="256 images once instead of 1,024 three times")
    quick = parser.parse_args().quick
    cv2.setNumThreads(0)
    tf.config.threading.set_inter_op_parallelism_threads(CORES)
    with tempfile.TemporaryDirectory() as name:
        medians = measure(Path(name), *((256, 1) if quick else (1024, 3)))
    for title, median in medians.items():
        print(f"{title:<36}{median:8.0f} images/s")
    later, first = medians["carclf, threads, later epochs"], medians["carclf, threads, first epoch"]
    generator = medians["ImageDataGenerator"]
    print(json.dumps({
        "vs_image_data_generator": round(later / generator, 2),
        "vs_best_peer": round(later / max(medians[peer] for peer in PEERS if peer != "ImageDataGenerator"), 2),
        "vs_decode": round(later / medians["decoding alone"], 2),
        "first_vs_image_data_generator": round(first / generator, 2),
    }))


if __name__ == "__main__":
    main()
