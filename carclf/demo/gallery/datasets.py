"""Datasets and a folder of the gallery: nothing to submit, so a run ends with the champion."""

import numpy as np

from carclf.demo.gallery.competitions import TYPES
from carclf.demo.gallery.drawing import TEST_PER_CLASS, Cars, draw_cars, draw_subsets
from carclf.demo.gallery.entry import Entry, Expected, Rejection, Rendering
from carclf.demo.gallery.files import Files, table

NAMED = ("Bus", "Car", "Truck", "motorcycle")
STANFORD = ("AM General Hummer SUV 2000", "Dodge Ram 3500 2010", "Ram C/V Cargo Van 2012", "smart fortwo 2012")
STANFORD_FOLDERS = tuple(name.replace("/", "-") for name in STANFORD)
SPORTS = ("box lacrosse", "figure skating women", "horse jumping", "nascar racing")
OWN = ("Lada Priora", "Škoda Octavia", "红旗 H9")


def _in_folders(folder: str, cars: Cars, classes: tuple[str, ...], name: str = "{:04}.jpg") -> list[str]:
    """Return paths in class folders; the file names are numbers, by default counted over all classes."""
    return [f"{folder}/{label}/{name.format(number)}" for number, label in enumerate(cars.names(classes))]


def _types(rng: np.random.Generator) -> Rendering:
    cars = draw_cars(rng, 4)
    return Rendering(cars.files(_in_folders("Dataset", cars, NAMED)))


def _by_classes_folder(rng: np.random.Generator) -> Rendering:
    files: Files = {}
    for subset, cars in zip(("train", "test"), draw_subsets(rng, 4), strict=True):
        paths = _in_folders(f"car_data/car_data/{subset}", cars, STANFORD_FOLDERS, "{:05}.jpg")
        rows = [[path.rpartition("/")[2], 5, 5, 60, 60, label + 1]
                for path, label in zip(paths, cars.labels, strict=True)]
        files |= cars.files(paths) | {f"anno_{subset}.csv": table([], rows)}
    return Rendering(files | {"names.csv": table([], [[name] for name in STANFORD])})


def _scenes(rng: np.random.Generator) -> Rendering:
    train, test = draw_subsets(rng, 4)
    predicted = draw_cars(rng, 4, 5)
    files = train.files(_in_folders("seg_train/seg_train", train, NAMED))
    files |= test.files(_in_folders("seg_test/seg_test", test, NAMED, "{:05}.jpg"))
    return Rendering(files | predicted.files([f"seg_pred/seg_pred/{number}.jpg" for number in range(20)]))


def _nested_duplicate(rng: np.random.Generator) -> Rendering:
    cars = draw_cars(rng, 4)
    files = cars.files(_in_folders("flowers", cars, NAMED)) | {"flowers/Car/flickr.pyc": b"\3\xf3\r\n"}
    return Rendering(files | {f"flowers/{path}": data for path, data in files.items()})


def _repeated_names(rng: np.random.Generator) -> Rendering:
    train, test = draw_subsets(rng, 4)
    several = draw_cars(rng, 4, 2)
    top = "fruits-360_dataset/fruits-360"
    files: Files = {}
    for folder, cars in (("Training", train), ("Test", test)):
        files |= cars.files([f"{top}/{folder}/{label}/{number // 4}_100.jpg"
                             for number, label in enumerate(cars.names(NAMED))])
    return Rendering(files | several.files([f"{top}/test-multiple_fruits/several_{number}.jpg" for number in range(8)]))


def _three_subsets(rng: np.random.Generator) -> Rendering:
    files: Files = {}
    rows = []
    for subset, cars in zip(("train", "valid", "test"), (*draw_subsets(rng, 4), draw_cars(rng, 4, 5)), strict=True):
        for number, label in enumerate(cars.names(SPORTS)):
            rows.append((SPORTS.index(label), f"{subset}/{label}/{number // 4 + 1:03}.jpg", label, subset))
        files |= cars.files([path for _, path, _, _ in rows[-len(cars):]])
    files["sports.csv"] = table(["class id", "filepaths", "labels", "data set"], rows)
    return Rendering(files | {"EfficientNetB0-4-(224 X 224)- 98.72.h5": b"\x89HDF\r\n\x1a\n"})


def _own_folder(rng: np.random.Generator) -> Rendering:
    cars = draw_cars(rng, 3)
    return Rendering(cars.files(_in_folders("2024", cars, OWN)))


def _lying_folders(rng: np.random.Generator) -> Rendering:
    cars = draw_cars(rng, 4)
    names = [f"{number:04}.jpg" for number in range(len(cars))]
    paths = [f"train_images/chain {number // 4 % 3}/{name}" for number, name in enumerate(names)]
    return Rendering(cars.files(paths) | {
        "train.csv": table(["image", "hotel_id"], zip(names, cars.names(TYPES), strict=True))})


def _pixels(rng: np.random.Generator) -> Rendering:
    rows = rng.integers(0, 256, (40, 16)).tolist()
    columns = [f"pixel{number}" for number in range(16)]
    return Rendering({
        "train.csv": table(["label", *columns], [[number % 4, *row] for number, row in enumerate(rows)]),
        "test.csv": table(columns, rows[:10]),
        "sample_submission.csv": table(["ImageId", "Label"], [[number + 1, 0] for number in range(10)]),
    })  # fmt: skip


def _records(rng: np.random.Generator) -> Rendering:
    files = {f"tfrecords-jpeg-192x192/{subset}/00-192x192-{number}.tfrec": rng.bytes(1000)
             for subset in ("train", "val", "test") for number in range(2)}
    return Rendering(files | {
        "sample_submission.csv": table(["id", "label"], [[f"a{number}", 0] for number in range(10)])})


def _lists(rng: np.random.Generator, id_column: str, label_column: str, labels: list[str], guess: str) -> Rendering:
    cars = draw_cars(rng, 4)
    tested = draw_cars(rng, 4, TEST_PER_CLASS)
    names, ids = ([f"{start + number:08x}.jpg" for number in range(len(images))]
                  for start, images in ((0, cars), (4096, tested)))
    files = cars.files([f"train/{name}" for name in names]) | tested.files([f"test/{name}" for name in ids])
    rows = [[name, labels[label]] for name, label in zip(names, cars.labels, strict=True)]
    files["train.csv"] = table([id_column, label_column], rows)
    files["sample_submission.csv"] = table([id_column, label_column], [[image_id, guess] for image_id in ids])
    return Rendering(files)


DATASETS = (
    Entry("vehicle-types", "dataset", "kaggle/vehicle-type-recognition",
          "Class folders, and nothing else.",
          _types, Expected("folders", "", NAMED, {"train": 96})),
    Entry("cars-by-class", "dataset", "jutrera/stanford-car-dataset-by-classes-folder",
          "A doubled folder, a labeled test set, tables without a header, and a class whose name has a slash.",
          _by_classes_folder, Expected("folders", "", STANFORD_FOLDERS, {"train": 96, "holdout": 24})),
    Entry("scenes", "dataset", "puneet6060/intel-image-classification",
          "Three doubled folders: training, labeled test images, and images to predict.",
          _scenes, Expected("folders", "", NAMED, {"train": 96, "holdout": 24, "test": 20})),
    Entry("nested-duplicate", "dataset", "alxmamaev/flowers-recognition",
          "The class folders occur twice, the second time within the first.",
          _nested_duplicate, Expected("folders", "", NAMED, {"train": 96})),
    Entry("repeated-names", "dataset", "moltean/fruits",
          "The same file names in all classes and subsets, and a folder of images without labels.",
          _repeated_names, Expected("folders", "", NAMED, {"train": 96, "holdout": 24, "test": 8})),
    Entry("three-subsets", "dataset", "gpiosenka/sports-classification",
          "Given training, validation and test images, in folders and in a table.",
          _three_subsets, Expected("folders", "", SPORTS, {"train": 96, "val": 24, "holdout": 20})),
    Entry("my-cars", "folder", "a folder of your own",
          "A folder per class, with names in any script.",
          _own_folder, Expected("folders", "", OWN, {"train": 72})),
)
REJECTED = (
    Entry("hotel-chains", "dataset", "hotel-id-2021-fgvc8",
          "Folders that are not the labels: table and folders disagree.",
          _lying_folders, Rejection(
              "The table and the folders contradict each other, and only you can decide which of them has the labels. "
              "The error asks you to set `data.label_source`.", setting="data.label_source")),
    Entry("pixel-columns", "competition", "digit-recognizer",
          "Pixels in the columns of a table; there are no images.",
          _pixels, Rejection("Pixels in the columns of a table are not read. Convert each row to an image file.",
                             word="pixel"), "Categorization Accuracy"),
    Entry("records", "competition", "tpu-getting-started",
          "TFRecord files; there are no images.",
          _records, Rejection("TFRecord files are not read. Convert them to image files, or use a copy of the data "
                              "that has images.", word="TFRecord"), "Macro F1"),
    Entry("several-labels", "competition", "plant-pathology-2021-fgvc8",
          "Several labels per image.",
          lambda rng: _lists(rng, "image", "labels", ["healthy", "rust", "scab", "rust scab"], "healthy"),
          Rejection("Each image must have one label, but `rust scab` is a list of two.", word="label"),
          "Mean F1-Score"),
    Entry("top-5", "competition", "whale-categorization-playground",
          "A list of five guesses per image.",
          lambda rng: _lists(rng, "Image", "Id", ["new_whale", "w_1287fbc", "w_98baff9", "w_7554f44"],
                             "new_whale w_1287fbc w_98baff9 w_7554f44"),
          Rejection("A submission must have one class per image or a probability per class, but the sample submission "
                    "has ranked lists of classes.", word="list"), "MAP@{K}"),
)  # fmt: skip
