"""Which column of which table has the labels, next to metadata and to folders that are no classes."""

from typing import Any

import pytest

from carclf.dataset.detection.label_tables import AmbiguousColumnError
from carclf.dataset.detection.result import Layout
from carclf.errors import ConfigError, DataError

NUMBERS = range(24)
IMAGES = [f"images/{n:02d}.jpg" for n in NUMBERS]
CLASSES = [f"breed{n}" for n in range(8)]
IN_PARTS = [f"images_part_{1 + n % 2}/{n:02d}.jpg" for n in NUMBERS]


def table_of(header: str, *columns: list[str]) -> str:
    rows = [",".join([f"{n:02d}.jpg", *(values[n % len(values)] for values in columns)]) for n in NUMBERS]
    return "\n".join([header, *rows]) + "\n"


def labels_of(layout: Layout) -> list[str]:
    labels: list[str] = layout.images.sort_values("id")["label"].tolist()
    return labels


def test_folders_of_parts_are_no_classes_next_to_a_table_of_labels(layout_of: Any) -> None:
    metadata = table_of("image,dx,sex", ["mel", "nv", "bcc"], ["m", "m", "f", "f"])
    with pytest.raises(AmbiguousColumnError, match=r"data\.label_column"):
        layout_of(IN_PARTS, {"metadata.csv": metadata})
    assert labels_of(layout_of(IN_PARTS, {"metadata.csv": metadata}, label_column="dx"))[:3] == ["mel", "nv", "bcc"]
    metadata = table_of("image,label,sex", ["a", "b", "c"], ["m", "m", "f", "f"])
    with pytest.raises(ConfigError, match=r"data\.label_source to folders or table"):
        layout_of(IN_PARTS, {"metadata.csv": metadata})
    layout = layout_of(IN_PARTS, {"metadata.csv": metadata}, label_source="table")
    assert labels_of(layout)[:3] == ["a", "b", "c"]
    with pytest.raises(DataError, match="lists of labels"):
        layout_of(IN_PARTS, {"metadata.csv": table_of("image,label", ["a|b", "a", "b"])})


@pytest.mark.parametrize(("values", "expected"), [
    (["0.0", "1.0", "2.0"], ["0", "1", "2"]),
    ([f"c{n}" for n in range(20)], ["c0", "c1", "c2"]),
])
def test_a_column_called_label_is_preferred_to_others(
    layout_of: Any, values: list[str], expected: list[str]
) -> None:
    layout = layout_of(IMAGES, {"labels.csv": table_of("image,label,camera", values, ["a", "b"])})
    assert labels_of(layout)[:3] == expected


def test_a_column_called_label_with_a_value_per_image_needs_a_setting(layout_of: Any) -> None:
    table = table_of("image,label,camera", [f"c{n}" for n in NUMBERS], ["a", "b"])
    with pytest.raises(AmbiguousColumnError, match=r"label.*camera.*data\.label_column"):
        layout_of(IMAGES, {"labels.csv": table})
    assert layout_of(IMAGES, {"labels.csv": table}, label_column="camera").class_names == ("a", "b")


@pytest.mark.parametrize("settings", [{"label_table": "labels.csv"}, {"label_column": "species"}])
def test_settings_for_the_labels_leave_groups_and_subsets_of_other_tables(
    layout_of: Any, settings: dict[str, str]
) -> None:
    tables = {
        "labels.csv": table_of("image,species", ["a", "b"]),
        "metadata.csv": table_of("image,patient_id,split,camera", [f"p{n // 4}" for n in NUMBERS],
                                 ["train", "train", "test"], ["x", "y", "z", "z"]),
    }
    layout = layout_of(IMAGES, tables, **settings)
    assert layout.images["group"].nunique() == 6
    assert layout.images["source"].value_counts().to_dict() == {"train": 16, "holdout": 8}


def test_columns_of_metadata_do_not_matter_next_to_one_hot_columns(layout_of: Any) -> None:
    tables = {"truth.csv": table_of("image,mel,nv", ["1,0", "0,1"]),
              "metadata.csv": table_of("image,sex,kind", ["m", "f", "f"], ["a", "b", "c", "c"])}
    assert layout_of(IMAGES, tables).class_names == ("mel", "nv")


def test_tables_of_different_images_are_combined(layout_of: Any) -> None:
    first, second = (table_of("image,label", ["a", "b"]).splitlines() for _ in range(2))
    layout = layout_of(IMAGES, {"labels_2019.csv": "\n".join(first[:13]), "labels_2020.csv": "\n".join(
        [second[0], *second[13:]])})
    assert labels_of(layout) == ["a", "b"] * 12
    with pytest.raises(ConfigError, match=r"data\.label_table"):
        layout_of(IMAGES, {"labels_2019.csv": "\n".join(first[:14]), "labels_2020.csv": "\n".join(
            [second[0], *(row.replace(",b", ",c") for row in second[13:])])})


def test_a_table_labels_the_test_images_next_to_class_folders(layout_of: Any) -> None:
    images = [f"train/{n % 3}/{n:02d}.jpg" for n in NUMBERS] + [f"test/t{n}.jpg" for n in range(6)]
    table = "Path,ClassId\n" + "".join(f"test/t{n}.jpg,{n % 3}\n" for n in range(6))
    layout = layout_of(images, {"Test.csv": table})
    assert layout.images["source"].value_counts().to_dict() == {"train": 24, "holdout": 6}
    assert layout.images.set_index("path")["label"]["test/t4.jpg"] == "1"


@pytest.mark.parametrize("values", [["a|b", "a"], ["a|b", "b|c", "a|c"]])
def test_labels_with_bars_are_several_labels(layout_of: Any, values: list[str]) -> None:
    with pytest.raises(DataError, match="lists of labels"):
        layout_of(IMAGES, {"labels.csv": table_of("image,label", values)})


@pytest.mark.parametrize("name", ["Test.csv", "test_predictions.csv"])
def test_a_table_of_test_images_with_other_classes_is_rejected_unless_it_has_predictions(
    layout_of: Any, name: str
) -> None:
    images = [f"train/{1 + n % 4}/{n:02d}.jpg" for n in NUMBERS] + [f"test/t{n}.jpg" for n in range(8)]
    table = "Path,ClassId\n" + "".join(f"test/t{n}.jpg,{n % 4}\n" for n in range(8))
    if name == "Test.csv":
        with pytest.raises(DataError, match=r"data\.label_source to folders"):
            layout_of(images, {name: table})
        return
    layout = layout_of(images, {name: table})
    assert layout.images["source"].value_counts().to_dict() == {"train": 24, "test": 8}


def breeds(first: int, number: int, *others: str, column: str = "breed") -> str:
    rows = [",".join([f"{n:02d}.jpg", CLASSES[n % 8], *others]) for n in range(first, first + number)]
    return "\n".join([f"file,{column}", *rows]) + "\n"


@pytest.mark.parametrize(("tables", "expected"), [
    ({"train.csv": breeds(0, 16), "test.csv": breeds(16, 8)}, {"train": 16, "holdout": 8}),
    ({"train.csv": breeds(0, 16), "val.csv": breeds(16, 8)}, {"train": 16, "val": 8}),
    ({"labels_2019.csv": breeds(0, 16), "labels_2020.csv": breeds(16, 8)}, {"train": 24}),
    ({"train.csv": breeds(0, 16, column="label"), "test.csv": breeds(16, 8, column="label")},
     {"train": 16, "holdout": 8}),
])
def test_a_small_table_has_its_labels_in_the_same_column(
    layout_of: Any, tables: dict[str, str], expected: dict[str, int]
) -> None:
    layout = layout_of(IMAGES, tables)
    assert layout.images["source"].value_counts().to_dict() == expected
    assert labels_of(layout) == CLASSES * 3


def test_another_column_of_the_test_table_is_not_the_label(layout_of: Any) -> None:
    train = breeds(0, 16, "l", column="breed,side")
    rows = [f"{n}.jpg,{CLASSES[n % 8]},{'lr'[n % 2]}\n" for n in range(16, 24)]
    test = "file,breed,side\n" + "".join(rows)
    layout = layout_of(IMAGES, {"train.csv": train, "test.csv": test})
    assert labels_of(layout) == CLASSES * 3 and layout.class_names == tuple(CLASSES)


def test_a_test_table_may_have_another_name_for_the_column_of_the_same_classes(layout_of: Any) -> None:
    train = "file,label\n" + "".join(f"{n:02d}.jpg,{'ab'[n % 2]}\n" for n in range(16))
    test = "file,gt\n" + "".join(f"{n}.jpg,{'ab'[n % 2]}\n" for n in range(16, 24))
    layout = layout_of(IMAGES, {"train.csv": train, "test.csv": test})
    assert layout.images["source"].value_counts().to_dict() == {"train": 16, "holdout": 8}


def test_test_labels_are_the_training_images_classes_in_another_case_or_with_zeros(layout_of: Any) -> None:
    for names, others in ((("cat", "dog"), ("Cat", "DOG")), (("1", "2"), ("01", "02"))):
        tables = {f"{role}.csv": "file,label\n" + "".join(f"{n:02d}.jpg,{labels[n % 2]}\n" for n in rows)
                  for role, labels, rows in (("train", names, range(16)), ("test", others, range(16, 24)))}
        assert layout_of(IMAGES, tables).class_names == names


def test_tags_are_several_labels(layout_of: Any) -> None:
    tags = ["clear road", "clear water", "haze road", "haze water", "clear", "haze"]
    with pytest.raises(DataError, match="Images with several labels are not supported"):
        layout_of(IMAGES, {"train.csv": table_of("image_name,tags", tags)})


def test_classes_may_differ_in_a_sign(layout_of: Any) -> None:
    folders = [f"{role}/{name}/{n}.jpg" for role, names in (("train", ("A+", "A-")), ("test", ("a+", "a-")))
               for n, name in enumerate(names * 4)]
    layout = layout_of(folders)
    assert layout.class_names == ("A+", "A-") and layout.findings == ()
    assert set(layout.images.loc[layout.images["path"].str.contains("a-"), "label"]) == {"A-"}


def test_minus_1_may_mean_that_there_is_no_label(layout_of: Any) -> None:
    values = table_of("image,label", ["1", "-1"])
    assert {finding.kind for finding in layout_of(IMAGES, {"train.csv": values}).findings} == {"placeholder_class"}


def test_training_folders_without_a_common_class_are_parts(layout_of: Any) -> None:
    images = [f"{folder}/{n}{m}.jpg" for m in range(3) for n, folder in enumerate(
        ["train.X1/suv", "train.X1/van", "train.X2/car", "train.X2/bus", "val.X/suv", "val.X/van", "val.X/car"])]
    layout = layout_of(images)
    assert layout.class_names == ("bus", "car", "suv", "van")
    assert layout.images["source"].value_counts().to_dict() == {"train": 12, "val": 9}
    with pytest.raises(ConfigError, match=r"data\.train_folder"):
        layout_of([*images, "train.X2/suv/a.jpg"])


def test_other_columns_of_a_test_table_are_not_labels(layout_of: Any) -> None:
    train = "file,sex,label\n" + "".join(f"{n:02d}.jpg,{n % 2},{n % 3 % 2}\n" for n in range(16))
    test = "file,sex{}\n" + "".join(f"{n}.jpg,{n % 2}{{}}\n" for n in range(16, 24))
    for column, value in (("", ""), (",label", ",")):
        layout = layout_of(IMAGES, {"train.csv": train, "test.csv": test.format(column, *[value] * 8)})
        assert layout.images["source"].value_counts().to_dict() == {"train": 16, "test": 8}
    for column in ("label", "defect"):
        train = f"file,{column}\n" + "".join(f"{n:02d}.jpg,{n % 2}\n" for n in range(16))
        layout = layout_of(IMAGES, {"train.csv": train, "test.csv": test.format("", *[""] * 8)})
        assert layout.images["source"].value_counts().to_dict() == {"train": 16, "test": 8}


def test_the_same_column_of_a_table_about_the_same_images_is_not_a_label(layout_of: Any) -> None:
    labels = table_of("file,name", ["a", "b", "c"])
    captions = table_of("file,name", [f"caption {n}" for n in NUMBERS])
    assert layout_of(IMAGES, {"labels.csv": labels, "captions.csv": captions}).class_names == ("a", "b", "c")


@pytest.mark.parametrize("tables", [
    {"cameras.csv": "id,location\n1,x\n2,x\n3,y\n4,y\n"}, {"splits.csv": "id,name\n1,train\n2,test\n"},
])
def test_rows_of_another_table_with_numbers_are_not_images(layout_of: Any, tables: dict[str, str]) -> None:
    key = next(iter(tables.values())).partition(",")[0]
    images = f"{key},file,label\n" + "".join(f"{n + 1},p{n}x.jpg,{'ab'[n % 2]}\n" for n in NUMBERS)
    layout = layout_of([f"images/p{n}x.jpg" for n in NUMBERS], {"images.csv": images} | tables)
    assert set(layout.images["source"]) == {"train"} and set(layout.images["group"]) == {""}


@pytest.mark.parametrize("name", ["p{}x.jpg", "{}.jpg"])
def test_small_tables_of_subsets_have_the_keys_of_the_table_of_all_images(layout_of: Any, name: str) -> None:
    names = [name.format((7 * n) % 24) for n in NUMBERS]  # the numbers in the names are not the keys
    tables = {"images.csv": "image_id,file\n" + "".join(f"{n},{names[n]}\n" for n in NUMBERS),
              "captions.csv": "image_id,file,text\n" + "".join(f"{n},{names[n]},text {n}\n" for n in NUMBERS)}
    for role, rows in (("train", range(16)), ("val", range(16, 20)), ("test", range(20, 24))):
        tables[f"{role}_labels.csv"] = "image_id,label\n" + "".join(f"{n},{'ab'[n % 2]}\n" for n in rows)
    images = layout_of([f"images/{name}" for name in names], tables).images.set_index("id").loc[names]
    assert images["label"].tolist() == ["a", "b"] * 12
    assert images["source"].tolist() == ["train"] * 16 + ["val"] * 4 + ["holdout"] * 4


def test_keys_belong_to_the_table_of_the_same_subset(layout_of: Any) -> None:
    images = [f"train/{'ab'[n % 2]}/t{n}.jpg" for n in range(12)] + [f"val/v{n}.jpg" for n in range(6)]
    tables = {"train.csv": "image_id,file\n" + "".join(f"{n},t{n}.jpg\n" for n in range(12)),
              "val.csv": "image_id,file\n" + "".join(f"{n},v{n}.jpg\n" for n in range(6)),
              "val_labels.csv": "image_id,label\n" + "".join(f"{n},{'ab'[n // 3]}\n" for n in range(6))}
    layout = layout_of(images, tables)
    val = layout.images[layout.images["source"] == "val"]
    assert val["path"].tolist() == images[12:] and val["label"].tolist() == list("aaabbb")


def test_training_folders_of_numbered_tasks_are_not_parts(layout_of: Any) -> None:
    images = [f"task{task}/{role}/{label}/{n}.jpg" for task, labels in ((1, "ab"), (2, "cd")) for label in labels
              for role in ("train", "val") for n in range(3)]
    with pytest.raises(ConfigError, match=r"data\.train_folder"):
        layout_of(images)


def test_other_training_folders_are_not_parts(layout_of: Any) -> None:
    images = [f"{folder}/{n}.jpg" for n in range(3) for folder in (
        "train/cat", "train/dog", "train_masks/cat_mask", "train_masks/dog_mask")]
    with pytest.raises(DataError, match=r"data\.train_folder"):
        layout_of(images)
    assert layout_of(images, train_folder="train").class_names == ("cat", "dog")


def test_a_table_of_test_images_does_not_name_the_classes(layout_of: Any) -> None:
    images = [f"train/{n}/{m}.jpg" for n in range(3) for m in range(2)] + [f"test/t{n}.jpg" for n in range(3)]
    truth = "Id,Category\n" + "".join(f"t{n}.jpg,{n}\n" for n in range(3))
    tables = {"sample_submission.csv": truth.replace(",1", ",0").replace(",2", ",0"), "truth.csv": truth}
    assert layout_of(images, tables).class_names == ("0", "1", "2")


def test_measures_next_to_another_column_are_ambiguous(layout_of: Any) -> None:
    table = table_of("file,width,camera", ["640", "480"], ["a", "b", "c"])
    with pytest.raises(AmbiguousColumnError, match=r"data\.label_column"):
        layout_of(IMAGES, {"metadata.csv": table})


@pytest.mark.parametrize("column", ["date", "width"])
def test_dates_and_measures_alone_are_no_labels(layout_of: Any, column: str) -> None:
    values = {"date": ["2024-05-01", "2024-05-02 10:00"], "width": ["640", "480"]}[column]
    images = [f"photos/{('cat', 'dog')[n % 2]}_{n}.jpg" for n in range(8)]
    table = f"file,{column}\n" + "".join(f"{path},{values[n // 4]}\n" for n, path in enumerate(images))
    assert layout_of(images, {"photos.csv": table}).class_names == ("cat", "dog")


def test_a_column_of_dates_can_be_chosen(layout_of: Any) -> None:
    table = "file,date\n" + "".join(f"{n:02d}.jpg,2024-05-0{1 + n % 2}\n" for n in NUMBERS)
    with pytest.raises(DataError, match=r"data\.label_column"):
        layout_of(IMAGES, {"photos.csv": table})
    assert layout_of(IMAGES, {"photos.csv": table}, label_column="date").class_names == ("2024-05-01", "2024-05-02")


def test_a_column_with_another_name_is_ambiguous_next_to_prefixes(layout_of: Any) -> None:
    patients = [f"photos/{10 + n % 4}_{n}.jpg" for n in range(8)]
    tables = {"photos.csv": "file,level\n" + "".join(f"{path},{'xy'[n // 4]}\n" for n, path in enumerate(patients))}
    assert layout_of(patients, tables).class_names == ("x", "y")
    images = [f"other/{('cat', 'dog')[n % 2]}_{n}.jpg" for n in range(8)]
    tables = {"photos.csv": "file,camera\n" + "".join(f"{path},{'xy'[n // 4]}\n" for n, path in enumerate(images))}
    with pytest.raises(ConfigError, match=r"data\.label_source to file_names or table"):
        layout_of(images, tables, train_folder="other")
    assert layout_of(images, tables, label_source="table").class_names == ("x", "y")


@pytest.mark.parametrize(("name", "column"), [
    ("photos.csv", "diagnosis"), ("photos.csv", "breed_name"), ("labels.csv", "kind"), ("train.csv", "kind")])
def test_a_table_or_a_column_called_like_labels_counts_next_to_prefixes(
    layout_of: Any, name: str, column: str
) -> None:
    images = [f"photos/{('left', 'right')[n % 2]}_{n}.jpg" for n in range(8)]
    table = f"file,{column}\n" + "".join(f"{path},{'xy'[n // 4]}\n" for n, path in enumerate(images))
    layout = layout_of(images, {name: table})
    assert layout.class_names == ("x", "y")
    assert [finding.kind for finding in layout.findings] == ["common_prefixes"]


@pytest.mark.parametrize(("name", "column"), [
    ("stage.csv", "camera"), ("2024.csv", "camera"), ("training_log.csv", "camera"), ("annotation_log.csv", "author"),
    ("photos.csv", "diagnosis_method"), ("photos.csv", "species_checked_by"), ("photos.csv", "grade_of_focus")])
def test_other_names_that_contain_a_word_for_labels_do_not_count(layout_of: Any, name: str, column: str) -> None:
    images = [f"photos/{('cat', 'dog')[n % 2]}_{n}.jpg" for n in range(8)]
    table = f"file,{column}\n" + "".join(f"{path},{'xy'[n // 4]}\n" for n, path in enumerate(images))
    with pytest.raises(ConfigError, match=r"data\.label_source"):
        layout_of(images, {name: table})


def test_a_label_table_that_is_set_counts_next_to_prefixes(layout_of: Any) -> None:
    images = [f"photos/{('cat', 'dog')[n % 2]}_{n}.jpg" for n in range(8)]
    table = "file,camera\n" + "".join(f"{path},{'xy'[n // 4]}\n" for n, path in enumerate(images))
    assert layout_of(images, {"photos.csv": table}, label_table="photos.csv").class_names == ("x", "y")


def test_measures_next_to_class_folders_are_no_labels(layout_of: Any) -> None:
    table = table_of("file,width,camera", ["640", "480"], ["a", "b", "c"])
    layout = layout_of([f"{'ab'[n % 2]}/{n:02d}.jpg" for n in NUMBERS], {"metadata.csv": table})
    assert layout.class_names == ("a", "b")
    assert [finding.kind for finding in layout.findings] == ["invalid_label_table"]


@pytest.mark.parametrize(("name", "table"), [
    ("boxes.csv", "file,x,part\n" + "".join(f"{n:02d}.jpg,{n},{part}\n" for n in NUMBERS for part in ("head", "tail"))),
    ("boxes.csv", "image_id,x,class\n" + "".join(f"{n},{n},{part}\n" for n in NUMBERS for part in ("head", "tail"))),
    ("weather.csv", "image_id,sky\n" + "".join(f"{n},{['blue', 'gray'][n // 12]}\n" for n in NUMBERS)),
])
def test_tables_about_parts_of_images_or_by_key_do_not_matter_next_to_labels(
    layout_of: Any, name: str, table: str
) -> None:
    labels = "image_id,file,label\n" + "".join(f"{n},{n:02d}.jpg,{'ab'[n % 2]}\n" for n in NUMBERS)
    assert labels_of(layout_of(IMAGES, {"labels.csv": labels, name: table})) == ["a", "b"] * 12


def test_other_facts_by_key_do_not_matter_next_to_class_folders(layout_of: Any) -> None:
    folders = [f"{'ab'[n % 2]}/{n:02d}.jpg" for n in NUMBERS]
    tables = {"images.csv": "image_id,file\n" + "".join(f"{n},{n:02d}.jpg\n" for n in NUMBERS),
              "exif.csv": "image_id,make\n" + "".join(f"{n},{['x', 'y', 'z'][n % 3]}\n" for n in NUMBERS)}
    layout = layout_of(folders, tables)
    assert layout.class_names == ("a", "b") and layout.findings == ()
