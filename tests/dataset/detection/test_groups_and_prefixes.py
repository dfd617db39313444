"""Columns of groups, prefixes of names, and the subsets that folders give to tables, classes and test images."""

import json
from typing import Any

import pytest

from carclf.dataset.detection.groups import is_group_column
from carclf.errors import ConfigError, DataError

NAMES = [f"{n}.jpg" for n in range(8)]
CLASSES = ["suv", "van"]
IMAGES = [f"images/{name}" for name in NAMES]
IN_FOLDERS = [f"{CLASSES[n % 2]}/{name}" for n, name in enumerate(NAMES)]


def groups_of(layout: Any) -> list[str]:
    groups: list[str] = layout.images["group"].tolist()
    return groups


def table_of(column: str, ids: list[str]) -> str:
    """A table with four groups of images that follow each other."""
    return f"file,{column}\n" + "".join(f"{image_id},g{n // 2}\n" for n, image_id in enumerate(ids))


@pytest.mark.parametrize("column", [
    "PatientID", "patientid", "PATIENT_ID", "seq_id", "location", "site_id", "study_patient_id", "driver", "group",
    "Subject No", "userName", "group_1"])
def test_a_column_called_like_a_group_or_its_id_has_groups(layout_of: Any, column: str) -> None:
    assert is_group_column(column)
    layout = layout_of(IN_FOLDERS, {"list.csv": table_of(column, NAMES)})
    assert sorted(set(groups_of(layout))) == ["g0", "g1", "g2", "g3"]


@pytest.mark.parametrize("column", [
    "age_group", "anatomical_site", "tumor_location", "user_rating", "person_count", "patient_sex", "patient_age",
    "website", "id", "impatient"])
def test_a_column_with_other_words_next_to_a_group_has_none(layout_of: Any, column: str) -> None:
    assert not is_group_column(column)
    layout = layout_of(IN_FOLDERS, {"list.csv": table_of(column, NAMES)}, label_source="folders")
    assert set(groups_of(layout)) == {""}


def test_a_column_without_values_of_labeled_images_is_rejected(layout_of: Any) -> None:
    table = "file,owner\n" + "".join(f"{name},\n" for name in NAMES)
    with pytest.raises(ConfigError, match=r"data\.group_column is 'owner'.*owner of list\.csv has no value"):
        layout_of(IN_FOLDERS, {"list.csv": table}, group_column="owner")


def test_groups_of_ids_with_several_images_are_rejected(layout_of: Any) -> None:
    images = [f"{name}/{n}.jpg" for name in CLASSES for n in range(4)]
    table = table_of("patient", [f"{n}.jpg" for n in range(4)])
    with pytest.raises(ConfigError, match=r"list\.csv: patient .*'0\.jpg'.*paths.*data\.group_column"):
        layout_of(images, {"list.csv": table})
    assert set(groups_of(layout_of(images, {"list.csv": table}, group_column="none"))) == {""}
    layout = layout_of(images, {"list.csv": table_of("patient", images)})
    assert groups_of(layout) == ["g0", "g0", "g1", "g1", "g2", "g2", "g3", "g3"]


def test_a_column_of_several_tables_is_one_column(layout_of: Any) -> None:
    tables = {"first.csv": table_of("patient", NAMES[:4]), "second.csv": table_of("patient", NAMES[4:])}
    assert groups_of(layout_of(IN_FOLDERS, tables)).count("g1") == 4
    tables["third.csv"] = table_of("patient", NAMES[1:])
    with pytest.raises(ConfigError, match=r"second\.csv and third\.csv.*data\.group_column"):
        layout_of(IN_FOLDERS, tables)


@pytest.mark.parametrize("folder", ["train/", ""])
def test_training_images_are_no_test_images_next_to_a_test_folder(layout_of: Any, folder: str) -> None:
    """The ids of the sample are the numbers of its rows, which are names of training images."""
    images = [f"{folder}{CLASSES[n % 2]}/{n:04}.jpg" for n in range(8)]
    tables = {"sample_submission.csv": "id,label\n" + "".join(f"{n},suv\n" for n in range(4))}
    settings = {} if folder else {"test_folder": "test"}
    with pytest.raises(DataError, match=r"No id of sample_submission\.csv has an image.*data\.test_folder"):
        layout_of([*images, *(f"test/img_{letter}.jpg" for letter in "abcd")], tables, **settings)
    layout = layout_of([f"test/{n}.jpg" for n in range(4)], tables, **settings)
    assert layout.images.loc[layout.images["source"] == "test", "id"].tolist()[:4] == ["0", "1", "2", "3"]
    assert layout.images["source"].value_counts().to_dict() == {"train": 8, "test": 8}


@pytest.mark.parametrize(("patterns", "class_names"), [
    (["american_bulldog_{}.jpg", "american_pit_bull_{}.jpg"], ("american_bulldog", "american_pit_bull")),
    (["cat_2020_{:03}.jpg", "dog_2020_{:03}.jpg"], ("cat", "dog")),
    (["benign_P{0}_{0}.png", "malignant_P{0}_{0}.png"], ("benign", "malignant")),
    (["0_{}.jpg", "10_{}_2.jpg"], ("0", "10")),
    (["suv_front_{}.jpg", "van_{}_left.jpg"], ("suv", "van")),
    (["suv_car{0}_{0}.jpg", "van_car{0}_{0}.jpg"], ("suv", "van")),
])
def test_a_prefix_is_the_text_before_the_numbers_of_a_name(
    layout_of: Any, patterns: list[str], class_names: tuple[str, ...]
) -> None:
    layout = layout_of([f"images/{pattern.format(n)}" for pattern in patterns for n in range(4)])
    assert layout.class_names == class_names
    assert layout.images["label"].value_counts().tolist() == [4, 4]


def test_prefixes_with_several_words_label_given_subsets(layout_of: Any) -> None:
    names = [f"pit_bull_{n}.jpg" for n in range(4)] + [f"bull_dog_{n}.jpg" for n in range(4)]
    layout = layout_of([f"{folder}/{name}" for folder in ("train", "val") for name in names])
    assert layout.class_names == ("bull_dog", "pit_bull")
    assert layout.images["source"].value_counts().to_dict() == {"train": 8, "val": 8}


@pytest.mark.parametrize("name", ["pregnancy_test", "crash test", "Litmus-Test"])
def test_a_class_whose_last_word_is_test_is_not_reported(layout_of: Any, name: str) -> None:
    assert layout_of([f"{folder}/{n}.jpg" for folder in ("bus", "car", name) for n in range(2)]).findings == ()


@pytest.mark.parametrize(("name", "setting"), [
    ("test", "test_folder"), ("Valid", "val_folder"), ("train", ""), ("test_images", "test_folder"),
    ("Test1", "test_folder"), ("Test cases", "test_folder"), ("predict", "test_folder"),
    ("validation_images", "val_folder")])
def test_a_class_called_like_a_subset_is_reported(layout_of: Any, name: str, setting: str) -> None:
    images = [f"{folder}/{n}.jpg" for folder in ("bus", "car", "van", name) for n in range(2)]
    layout = layout_of(images)
    assert name in layout.class_names
    findings = [(finding.kind, finding.path, finding.severity) for finding in layout.findings]
    assert findings == ([("subset_class", name, "warning")] if setting else [])
    assert all(f"data.{setting} " in finding.message for finding in layout.findings)
    if setting:
        layout = layout_of([], **{setting: name})
        assert layout.class_names == ("bus", "car", "van")
        assert layout.findings == ()


def write_subsets(folders: list[str], name: str) -> tuple[list[str], dict[str, str]]:
    """Images of the same names in each folder, and a table or a COCO JSON with their labels next to them."""
    images = [f"{folder}/{image}" for folder in folders for image in NAMES]
    table = "file_name,label,patient\n" + "".join(
        f"{image},{CLASSES[n % 2]},p{{number}}{n // 4}\n" for n, image in enumerate(NAMES))
    coco = json.dumps({
        "images": [{"id": n, "file_name": image} for n, image in enumerate(NAMES)],
        "categories": [{"id": 0, "name": "cars", "supercategory": "none"},
                       *({"id": n + 1, "name": label, "supercategory": "cars"} for n, label in enumerate(CLASSES))],
        "annotations": [{"id": n, "image_id": n, "category_id": n % 2 + 1, "bbox": [0, 0, 1, 1]} for n in range(8)]})
    texts = [coco if name.endswith("json") else table.format(number=number) for number in range(len(folders))]
    return images, {f"{folder}/{name}": text for folder, text in zip(folders, texts, strict=True)}


@pytest.mark.parametrize("prefix", ["", "archive/"])
@pytest.mark.parametrize("name", ["_annotations.coco.json", "metadata.csv", "labels.csv"])
def test_tables_next_to_the_images_label_their_subsets(layout_of: Any, name: str, prefix: str) -> None:
    layout = layout_of(*write_subsets([f"{prefix}{folder}" for folder in ("train", "valid", "test")], name))
    assert layout.class_names == ("suv", "van")
    assert layout.images["source"].value_counts().to_dict() == {"train": 8, "val": 8, "holdout": 8}
    assert layout.images["label"].tolist() == CLASSES * 12
    assert layout.images["group"].nunique() == (6 if name.endswith("csv") else 1)


def test_a_table_of_test_images_without_labels_changes_nothing(layout_of: Any) -> None:
    images, tables = write_subsets(["train"], "metadata.csv")
    tables["test/metadata.csv"] = "file_name,patient\n" + "".join(f"{name},p\n" for name in NAMES)
    layout = layout_of([*images, *(f"test/{name}" for name in NAMES)], tables)
    assert layout.images["source"].value_counts().to_dict() == {"train": 8, "test": 8}
    assert layout.images["group"].value_counts().to_dict() == {"p00": 4, "p01": 4, "": 8}


@pytest.mark.parametrize("labels", ["suv van", "0 1"])
def test_the_folder_of_a_table_counts_before_its_name(layout_of: Any, labels: str) -> None:
    """Validation and test images have the same names."""
    images = [f"training_data/{label}/t{n}.bmp" for label in labels.split() for n in range(3)]
    images += [f"{folder}/{n}.bmp" for folder in ("validation_data/prelim", "testing_data/final") for n in range(4)]
    table = "id,label\n" + "".join(f"{n}.bmp,{labels.split()[n % 2]}\n" for n in range(4))
    layout = layout_of(images, {"validation_data/C_test_prelim_labels.csv": table})
    val = layout.images[layout.images["source"] == "val"]
    assert val["path"].tolist() == images[6:10] and val["label"].tolist() == labels.split() * 2
    assert layout.images["source"].value_counts().to_dict() == {"train": 6, "val": 4, "test": 4}


def test_a_table_in_the_only_folder_has_no_subset(layout_of: Any) -> None:
    layout = layout_of(*write_subsets(["test"], "labels.csv"))
    assert set(layout.images["source"]) == {"train"}
