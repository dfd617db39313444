"""Competitions of the gallery: what differs from one to the next is where the labels are and what an id is."""

import json

import numpy as np

from carclf.demo.gallery.drawing import Cars, draw_cars, draw_subsets
from carclf.demo.gallery.entry import Entry, Expected, Rendering
from carclf.demo.gallery.files import Files, table, volumes, zip_table, zipped

TYPES = ("sedan", "estate", "van", "coupe", "buggy")
BREEDS = ("box_truck", "half-ton_pickup", "sedan", "six-wheel_limousine")
SPECIES = ("Black Sedan", "Estate (5-door)", "Loose Van", "Small-wheeled Coupe")
PADDY = ("bacterial_sedan", "brown_estate", "dead_van", "normal")
DISEASES = ("healthy", "multiple_diseases", "rust", "scab")
ACTIONS = ("c0", "c1", "c2", "c3")
TRANSPORT = ("airplane", "automobile", "ship", "truck")
FISH = ("ALB", "BET", "NoF", "YFT")
LEAVES = ("Acer_Opalus", "Quercus_Rubra", "Tilia_Oliveri", "Zelkova_Serrata")
TREES = ("maclura_pomifera", "quercus_montana", "ulmus_rubra", "zelkova_serrata")
VEHICLES = ("Ambulance", "Boat", "Car", "Truck")
HERBS = ("Carus coupe", "Carus sedan", "Carus van")
CATEGORIES = ("0", "3", "8", "19")  # the classes between them do not occur
SPLIT_3 = {"train": 72, "test": 18}  # images of three and of four classes
SPLIT_4 = {"train": 96, "test": 24}
KAPPA = "quadratic_weighted_kappa"
LOG_LOSS = "Multiclass Loss"
AUC = "Area Under Receiver Operating Characteristic Curve"


def hex_ids(rng: np.random.Generator, number: int) -> list[str]:
    """Return different ids like those of hashes."""
    return [f"{value:08x}" for value in rng.permutation(2**20)[:number] * 4093]


def ids_of(rng: np.random.Generator, train: Cars, test: Cars, suffix: str) -> tuple[list[str], list[str]]:
    """Return file names for the training and the test images."""
    names = [name + suffix for name in hex_ids(rng, len(train) + len(test))]
    return names[: len(train)], names[len(train):]


def truth_by_id(ids: list[str], values: list[str]) -> dict[str, str]:
    """Return the truth: the value of each id."""
    return dict(zip(ids, values, strict=True))


def sample(id_column: str, ids: list[str], columns: tuple[str, ...], value: object) -> bytes:
    """Return a sample submission with the same value everywhere."""
    return table([id_column, *columns], [[image_id, *[value] * len(columns)] for image_id in ids])


def _doubled_zip(rng: np.random.Generator) -> Rendering:
    train, test = draw_subsets(rng, 4)
    names, ids = ids_of(rng, train, test, ".jpg")
    labels, truth = train.names(tuple("0123")), test.names(tuple("0123"))
    paths = [f"train/train/{label}/{name}" for name, label in zip(names, labels, strict=True)]
    return Rendering({
        "train.zip": zipped(train.files(paths)),
        "test.zip": zipped(test.files([f"test_upload/{name}" for name in ids])),
        "train.csv": table(["Id", "Category"], zip(names, labels, strict=True)),
        "sample-submission.csv": sample("Id", ids, ("Category",), 0),
    }, truth_by_id(ids, truth))  # fmt: skip


def _breeds(rng: np.random.Generator) -> Rendering:
    train, test = draw_subsets(rng, 4)
    names, ids = ids_of(rng, train, test, "")
    files = train.files([f"train/{name}.jpg" for name in names]) | test.files([f"test/{name}.jpg" for name in ids])
    files["labels.csv"] = table(["id", "breed"], zip(names, train.names(BREEDS), strict=True))
    files["sample_submission.csv"] = sample("id", ids, BREEDS, 0.25)
    return Rendering(files, truth_by_id(ids, test.names(BREEDS)))


def _seedlings(rng: np.random.Generator) -> Rendering:
    train, test = draw_subsets(rng, 4)
    names, ids = ids_of(rng, train, test, ".png")
    paths = [f"train/{label}/{name}" for name, label in zip(names, train.names(SPECIES), strict=True)]
    files = train.files(paths) | test.files([f"test/{name}" for name in ids])
    files["sample_submission.csv"] = sample("file", ids, ("species",), "Black Sedan")
    return Rendering(files, truth_by_id(ids, test.names(SPECIES)))


def _cassava(rng: np.random.Generator) -> Rendering:
    train, test = draw_subsets(rng, 4)
    names, ids = ids_of(rng, train, test, ".jpg")
    visible = Cars(test.labels[:1], test.images[:1])  # the others are on Kaggle's side only
    files = train.files([f"train_images/{name}" for name in names]) | visible.files([f"test_images/{ids[0]}"])
    files |= {f"train_tfrecords/ld_train{number:02}-24.tfrec": rng.bytes(2000) for number in range(4)}
    files["label_num_to_disease_map.json"] = json.dumps({label: TYPES[label].title() for label in range(4)}).encode()
    files["train.csv"] = table(["image_id", "label"], zip(names, train.labels, strict=True))
    files["sample_submission.csv"] = sample("image_id", ids[:1], ("label",), 3)
    return Rendering(files, {ids[0]: str(test.labels[0])})


def _paddy(rng: np.random.Generator) -> Rendering:
    train, test = draw_subsets(rng, 4)
    names, ids = ids_of(rng, train, test, ".jpg")
    labels = train.names(PADDY)
    paths = [f"train_images/{label}/{name}" for name, label in zip(names, labels, strict=True)]
    files = train.files(paths) | test.files([f"test_images/{name}" for name in ids])
    rows = [[name, label, rng.choice(["ADT45", "Ponni"]), rng.integers(45, 80)]
            for name, label in zip(names, labels, strict=True)]
    files["train.csv"] = table(["image_id", "label", "variety", "age"], rows)
    files["sample_submission.csv"] = sample("image_id", ids, ("label",), "")
    return Rendering(files, truth_by_id(ids, test.names(PADDY)))


def _one_hot(rng: np.random.Generator) -> Rendering:
    train, test = draw_subsets(rng, 4)
    names = [f"Train_{number}" for number in range(len(train))]
    ids = [f"Test_{number}" for number in range(len(test))]
    files = train.files([f"images/{name}.jpg" for name in names]) | test.files([f"images/{name}.jpg" for name in ids])
    rows = [[name, *np.eye(4, dtype=int)[label]] for name, label in zip(names, train.labels, strict=True)]
    files["train.csv"] = table(["image_id", *DISEASES], rows)
    files["test.csv"] = table(["image_id"], [[name] for name in ids])
    files["sample_submission.csv"] = sample("image_id", ids, DISEASES, 0.25)
    return Rendering(files, truth_by_id(ids, test.names(DISEASES)))


def _drivers(rng: np.random.Generator) -> Rendering:
    train, test = draw_subsets(rng, 4)
    names, ids = ([f"img_{number}.jpg" for number in range(start, start + len(cars))]
                  for start, cars in ((0, train), (1000, test)))
    labels = train.names(ACTIONS)
    paths = [f"imgs/train/{label}/{name}" for name, label in zip(names, labels, strict=True)]
    files = train.files(paths) | test.files([f"imgs/test/{name}" for name in ids])
    subjects = [f"p{12 + number // 16:03}" for number in range(len(train))]
    files["driver_imgs_list.csv"] = table(["subject", "classname", "img"], zip(subjects, labels, names, strict=True))
    files["sample_submission.csv"] = sample("img", ids, ACTIONS, 0.25)
    return Rendering(files, truth_by_id(ids, test.names(ACTIONS)))


def _prefixes(rng: np.random.Generator, sample_name: str, value: float) -> Rendering:
    train, test = draw_subsets(rng, 2)
    numbers = [number // 2 for number in range(len(train))]
    paths = [f"train/{name}.{number}.jpg" for name, number in zip(train.names(("cat", "dog")), numbers, strict=True)]
    ids = [str(number + 1) for number in range(len(test))]
    return Rendering({
        "train.zip": zipped(train.files(paths)),
        "test1.zip": zipped(test.files([f"test1/{name}.jpg" for name in ids])),
        sample_name: sample("id", ids, ("label",), value),
    }, truth_by_id(ids, test.names(("0", "1"))))  # fmt: skip


def _tiles(rng: np.random.Generator) -> Rendering:
    train, test = draw_subsets(rng, 2)
    names, ids = ids_of(rng, train, test, "")
    files = train.files([f"train/{name}.tif" for name in names]) | test.files([f"test/{name}.tif" for name in ids])
    files["train_labels.csv"] = table(["id", "label"], zip(names, train.labels, strict=True))
    files["sample_submission.csv"] = sample("id", ids, ("label",), 0)
    return Rendering(files, truth_by_id(ids, test.names(("0", "1"))))


def _grades(rng: np.random.Generator) -> Rendering:
    train, test = draw_subsets(rng, 5)
    names, ids = ids_of(rng, train, test, "")
    files = train.files([f"train_images/{name}.png" for name in names])
    files |= test.files([f"test_images/{name}.png" for name in ids])
    files["train.csv"] = table(["id_code", "diagnosis"], zip(names, train.labels, strict=True))
    files["test.csv"] = table(["id_code"], [[name] for name in ids])
    files["sample_submission.csv"] = sample("id_code", ids, ("diagnosis",), 0)
    return Rendering(files, truth_by_id(ids, test.names(tuple("01234"))))


def _overlapping_numbers(rng: np.random.Generator) -> Rendering:
    train, test = draw_subsets(rng, 4)
    names, ids = ([str(number + 1) for number in range(len(cars))] for cars in (train, test))
    return Rendering({
        "train.zip": zipped(train.files([f"train/{name}.png" for name in names])),
        "test.zip": zipped(test.files([f"test/{name}.png" for name in ids])),
        "trainLabels.csv": table(["id", "label"], zip(names, train.names(TRANSPORT), strict=True)),
        "sampleSubmission.csv": sample("id", ids, ("label",), "ship"),
    }, truth_by_id(ids, test.names(TRANSPORT)))  # fmt: skip


def _zipped_table(rng: np.random.Generator) -> Rendering:
    train, test = draw_subsets(rng, 2)
    names, ids = ([str(number + 1) for number in range(len(cars))] for cars in (train, test))
    files: Files = {
        "train.zip": zipped(train.files([f"train/{name}.jpg" for name in names])),
        "test.zip": zipped(test.files([f"test/{name}.jpg" for name in ids])),
        "sample_submission.csv": sample("name", ids, ("invasive",), 0.5),
    }
    files |= zip_table("train_labels.csv", table(["name", "invasive"], zip(names, train.labels, strict=True)))
    return Rendering(files, truth_by_id(ids, test.names(("0", "1"))))


def _two_samples(rng: np.random.Generator) -> Rendering:
    train, test = draw_subsets(rng, 4)
    second = draw_cars(rng, 4, 3)
    names, stage_1 = ids_of(rng, train, test, ".jpg")
    stage_2 = [f"test_stg2/image_{number:05}.jpg" for number in range(len(second))]
    paths = [f"train/{label}/img_{name}" for name, label in zip(names, train.names(FISH), strict=True)]
    files: Files = {
        "train.zip": zipped(train.files(paths)),
        "test_stg1.zip": zipped(test.files([f"test_stg1/{name}" for name in stage_1])),
        "test_stg2.zip": zipped(second.files(stage_2)),
    }
    ids = stage_1 + stage_2
    files |= zip_table("sample_submission_stg1.csv", sample("image", stage_1, FISH, 0.25))
    files |= zip_table("sample_submission_stg2.csv", sample("image", ids, FISH, 0.25))
    return Rendering(files, truth_by_id(ids, test.names(FISH) + second.names(FISH)))


def _patients(rng: np.random.Generator) -> Rendering:
    train, test = draw_subsets(rng, 3)
    names, ids = ([f"{start + number // 2}_{('left', 'right')[number % 2]}" for number in range(len(cars))]
                  for start, cars in ((10, train), (300, test)))
    files = volumes("train.zip", train.files([f"train/{name}.jpeg" for name in names]), 3)
    files |= volumes("test.zip", test.files([f"test/{name}.jpeg" for name in ids]), 2)
    files |= zip_table("trainLabels.csv", table(["image", "level"], zip(names, train.labels, strict=True)))
    files |= zip_table("sampleSubmission.csv", sample("image", ids, ("level",), 0))
    return Rendering(files, truth_by_id(ids, test.names(tuple("012"))))


def _features(rng: np.random.Generator) -> Rendering:
    train, test = draw_subsets(rng, 4)
    numbers = [str(number) for number in rng.permutation(len(train) + len(test)) + 1]
    names, ids = numbers[: len(train)], numbers[len(train):]
    columns = [f"margin{number}" for number in range(1, 13)]
    rows = {name: np.round(rng.uniform(0, 0.1, 12), 6).tolist() for name in numbers}
    files = {"images.zip": zipped(train.files([f"images/{name}.jpg" for name in names])
                                  | test.files([f"images/{name}.jpg" for name in ids]))}
    labeled = [[name, label, *rows[name]] for name, label in zip(names, train.names(LEAVES), strict=True)]
    files |= zip_table("train.csv", table(["id", "species", *columns], labeled))
    files |= zip_table("test.csv", table(["id", *columns], [[name, *rows[name]] for name in ids]))
    files |= zip_table("sample_submission.csv", sample("id", ids, LEAVES, 0.25))
    return Rendering(files, truth_by_id(ids, test.names(LEAVES)))


def _locations(rng: np.random.Generator) -> Rendering:
    train, test = draw_subsets(rng, 4)
    names, ids = ids_of(rng, train, test, "")
    rows = [[name, label, f"{name}.jpg", number // 12] for number, (name, label)
            in enumerate(zip(names, train.names(CATEGORIES), strict=True))]
    return Rendering({
        "train_images.zip": zipped(train.files([f"{name}.jpg" for name in names])),
        "test_images.zip": zipped(test.files([f"{name}.jpg" for name in ids])),
        "train.csv": table(["id", "category_id", "file_name", "location"], rows),
        "test.csv": table(["id", "file_name", "location"], [[name, f"{name}.jpg", 100] for name in ids]),
        "sample_submission.csv": sample("Id", ids, ("Predicted",), 0),
    }, truth_by_id(ids, test.names(CATEGORIES)))  # fmt: skip


def _path_ids(rng: np.random.Generator) -> Rendering:
    train, test = draw_subsets(rng, 4)
    names = [f"images/{number}.jpg" for number in range(len(train))]
    ids = [f"images/{number}.jpg" for number in range(len(train), len(train) + len(test))]
    files = train.files(names) | test.files(ids)
    files["train.csv"] = table(["image", "label"], zip(names, train.names(TREES), strict=True))
    files["test.csv"] = table(["image"], [[image_id] for image_id in ids])
    files["sample_submission.csv"] = sample("image", ids, ("label",), "ulmus_rubra")
    return Rendering(files, truth_by_id(ids, test.names(TREES)))


def _unpadded_numbers(rng: np.random.Generator) -> Rendering:
    train, test = draw_subsets(rng, 4)
    labels = train.names(VEHICLES)
    paths = [f"train/train/{label}/{number:06}_{number % 7:02}.jpg" for number, label in enumerate(labels)]
    ids = [str(number) for number in range(len(test))]
    return Rendering({
        "train.zip": zipped(train.files(paths)),
        "test.zip": zipped(test.files([f"test/testset/{int(number):06}.jpg" for number in ids])),
        "sample_submission.csv": sample("Id", ids, ("Category",), "Car"),
    }, truth_by_id(ids, test.names(VEHICLES)))  # fmt: skip


def _frames(rng: np.random.Generator) -> Rendering:
    train, test = draw_subsets(rng, 3)
    scenes = hex_ids(rng, 12)
    names = [f"{scenes[number // 9]}/{number % 9:04}" for number in range(len(train))]
    ids = [f"{scenes[8 + number // 5]}/{number % 5:04}" for number in range(len(test))]
    files = train.files([f"trainval/{name}_image.jpg" for name in names])
    files |= test.files([f"test/{name}_image.jpg" for name in ids])
    files |= {f"trainval/{name}_cloud.bin": rng.bytes(64) for name in names}
    files["trainval/labels.csv"] = table(["guid/image", "label"], zip(names, train.labels, strict=True))
    files["sample_submission.csv"] = sample("guid/image", ids, ("label",), 0)
    return Rendering(files, truth_by_id(ids, test.names(tuple("012"))))


def _coco(rng: np.random.Generator) -> Rendering:
    train, test = draw_subsets(rng, 3)
    numbers = {"train": range(len(train)), "test": range(5000, 5000 + len(test))}
    images = {subset: [{"id": number, "file_name": f"images/000/{number % 7:02}/{number}.jpg"} for number in ids]
              for subset, ids in numbers.items()}
    annotations = [{"id": number, "image_id": number, "category_id": 4 * label + 1}
                   for number, label in enumerate(train.labels)]
    categories = [{"id": 4 * label + 1, "name": HERBS[label]} for label in range(3)]
    metadata = {"images": images["train"], "annotations": annotations, "categories": categories}
    files = train.files([f"herbarium/train/{image['file_name']}" for image in images["train"]])
    files |= test.files([f"herbarium/test/{image['file_name']}" for image in images["test"]])
    files["herbarium/train/metadata.json"] = json.dumps(metadata).encode()
    files["herbarium/test/metadata.json"] = json.dumps({"images": images["test"]}).encode()
    ids = [str(number) for number in numbers["test"]]
    files["sample_submission.csv"] = sample("Id", ids, ("Predicted",), 1)
    return Rendering(files, truth_by_id(ids, test.names(("1", "5", "9"))))


COMPETITIONS = (
    Entry("numbered-cars", "competition", "sf-dl-car-classification",
          "Archives within the archive, folders named after class numbers, and a table with the same labels.",
          _doubled_zip, Expected("folders", "name", tuple("0123"), SPLIT_4, kind="label"), "Categorization Accuracy"),
    Entry("car-breeds", "competition", "dog-breed-identification",
          "Ids without extension; one probability per class.",
          _breeds, Expected("table", "stem", BREEDS, SPLIT_4, "log_loss", "probabilities"), LOG_LOSS),
    Entry("car-seedlings", "competition", "plant-seedlings-classification",
          "Class folders only, with spaces, hyphens and parentheses in their names.",
          _seedlings, Expected("folders", "name", SPECIES, SPLIT_4, "micro_f1", "label"), "MeanFScore"),
    Entry("notebooks-only", "competition", "cassava-leaf-disease-classification",
          "Accepts notebooks only: the run ends with the champion. Class numbers have names in a JSON file.",
          _cassava, Expected("table", "name", tuple(name.title() for name in TYPES[:4]), {"train": 96, "test": 1},
                             kind="label"), "Categorization Accuracy",
          notebooks_only=True),
    Entry("folders-and-table", "competition", "paddy-disease-classification",
          "The labels are in folders and in a table, next to columns without labels; the sample is empty.",
          _paddy, Expected("folders", "name", PADDY, SPLIT_4, kind="label"), "Categorization Accuracy"),
    Entry("one-hot", "competition", "plant-pathology-2020-fgvc7",
          "Training and test images in one folder; a column of zeros and ones per class.",
          _one_hot, Expected("table", "stem", DISEASES, SPLIT_4, "roc_auc", "probabilities"), f"Mean Columnwise {AUC}"),
    Entry("drivers", "competition", "state-farm-distracted-driver-detection",
          "Images of a driver stay in one subset.",
          _drivers, Expected("folders", "name", ACTIONS, SPLIT_4, "log_loss", "probabilities", num_groups=6), LOG_LOSS),
    Entry("prefixes", "competition", "dogs-vs-cats",
          "Labels are prefixes of file names; the submission contains 0 or 1.",
          lambda rng: _prefixes(rng, "sampleSubmission.csv", 0),
          Expected("file_names", "stem", ("cat", "dog"), {"train": 48, "test": 12}, kind="label"),
          "Categorization Accuracy", {"submit.positive_class": "dog"}),
    Entry("prefixes-redux", "competition", "dogs-vs-cats-redux-kernels-edition",
          "The same files, but another metric: the submission contains the probability of one class.",
          lambda rng: _prefixes(rng, "sample_submission.csv", 0.5),
          Expected("file_names", "stem", ("cat", "dog"), {"train": 48, "test": 12}, "log_loss", "positive"), "Log Loss",
          {"submit.positive_class": "dog"}),
    Entry("tiles", "competition", "histopathologic-cancer-detection",
          "TIFF images. The sample contains zeros, but the metric requires probabilities.",
          _tiles, Expected("table", "stem", ("0", "1"), {"train": 48, "test": 12}, "roc_auc", "positive"), AUC),
    Entry("grades", "competition", "aptos2019-blindness-detection",
          "Ordered classes, scored by agreement with the expert (quadratic weighted kappa).",
          _grades, Expected("table", "stem", tuple("01234"), {"train": 120, "test": 30}, KAPPA, "label"),
          "QuadraticWeightedKappa"),
    Entry("overlapping-numbers", "competition", "cifar-10",
          "The ids 1, 2, 3, ... occur in the training and in the test folder.",
          _overlapping_numbers, Expected("table", "stem", TRANSPORT, SPLIT_4, kind="label"), "Categorization Accuracy"),
    Entry("zipped-table", "competition", "invasive-species-monitoring",
          "The label table is a zip of its own, as in old competitions.",
          _zipped_table, Expected("table", "stem", ("0", "1"), {"train": 48, "test": 12}, "roc_auc", "positive"), AUC),
    Entry("two-samples", "competition", "the-nature-conservancy-fisheries-monitoring",
          "Two sample submissions; the second stage's ids have a folder.",
          _two_samples, Expected("folders", "path", FISH, {"train": 96, "test": 36}, "log_loss", "probabilities"),
          LOG_LOSS, {"submit.sample": "sample_submission_stg2.csv"}),
    Entry("patients", "competition", "diabetic-retinopathy-detection",
          "Split volumes; an id such as 10_left contains the patient, who stays in one subset.",
          _patients, Expected("table", "stem", tuple("012"), SPLIT_3, KAPPA, "label", num_groups=36),
          "QuadraticWeightedKappa"),
    Entry("features", "competition", "leaf-classification",
          "The label table has numeric columns besides the labels.",
          _features, Expected("table", "stem", LEAVES, SPLIT_4, "log_loss", "probabilities"), LOG_LOSS),
    Entry("locations", "competition", "iwildcam-2019-fgvc6",
          "The sample's header differs from the table's; images of a location stay in one subset.",
          _locations, Expected("table", "stem", CATEGORIES, SPLIT_4, "macro_f1", "label", num_groups=8), "Macro F1"),
    Entry("path-ids", "competition", "classify-leaves",
          "Ids are paths, and one folder holds all images.",
          _path_ids, Expected("table", "path", TREES, SPLIT_4, kind="label"), "Categorization Accuracy"),
    Entry("unpadded-numbers", "competition", "vehicle",
          "The id 7 is the file 000007.jpg.",
          _unpadded_numbers, Expected("folders", "number", VEHICLES, SPLIT_4, kind="label"), "Categorization Accuracy"),
    Entry("frames", "competition", "rob535-fall-2022-task-1",
          "Ids lack the end of the file name; images of a scene stay in one subset.",
          _frames, Expected("table", "{id}_image", tuple("012"), SPLIT_3, kind="label", num_groups=8),
          "Categorization Accuracy"),
    Entry("coco", "competition", "herbarium-2020-fgvc7",
          "Labels and file names are in COCO JSON; the folders mean nothing.",
          _coco, Expected("json", "json", HERBS, SPLIT_3, "macro_f1", "label"), "Macro F1",
          {"data.label_source": "json"}),
)
