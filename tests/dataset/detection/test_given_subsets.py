"""Columns of tables that give the subset of each image, next to each kind of labels."""

from collections.abc import Callable
from typing import Any

import pytest

from carclf.dataset.detection.result import Layout
from carclf.errors import ConfigError

NAMES = [f"{n}.jpg" for n in range(8)]
IN_FOLDERS = [f"{['suv', 'van'][n % 2]}/{name}" for n, name in enumerate(NAMES)]
SUBSETS = ["train", "train", "valid", "test"]


def table_of(column: str, values: list[str], label: bool = False) -> str:
    header = f"file,{'label,' * label}{column}"
    rows = [f"{name},{['suv,', 'van,'][n % 2] * label}{values[n % len(values)]}" for n, name in enumerate(NAMES)]
    return "\n".join([header, *rows]) + "\n"


@pytest.mark.parametrize("label", [False, True])
def test_a_column_of_subsets_counts_next_to_class_folders(layout_of: Any, label: bool) -> None:
    layout = layout_of(IN_FOLDERS, {"list.csv": table_of("split", SUBSETS, label)})
    assert layout.images["source"].value_counts().to_dict() == {"train": 4, "val": 2, "holdout": 2}
    assert layout.class_names == ("suv", "van")
    assert [row.evidence for row in layout.detections if row.question == "subsets"] == [
        "split of list.csv has 2 test images, 4 train images, 2 val images"]


def test_a_column_of_subsets_counts_next_to_prefixes_of_names(layout_of: Any) -> None:
    names = [f"{['suv', 'van'][n % 2]}_{n}_a.jpg" for n in range(8)]
    table = "file,split\n" + "".join(f"{name},{SUBSETS[n % 4]}\n" for n, name in enumerate(names))
    layout = layout_of([f"images/{name}" for name in names], {"list.csv": table})
    assert layout.images["source"].value_counts().to_dict() == {"train": 4, "val": 2, "holdout": 2}


def test_a_column_called_split_with_unknown_words_is_reported(layout_of: Any) -> None:
    layout = layout_of(IN_FOLDERS, {"list.csv": table_of("split", ["tr", "tr", "te", "te"])})
    assert [finding.kind for finding in layout.findings] == ["unused_subsets"]
    assert set(layout.images["source"]) == {"train"}


def test_a_split_may_have_the_keys_of_another_table(layout_of: Any) -> None:
    numbers = range(1, 9)  # image 1 is 0.jpg, so the names are not the keys
    images = "image_id,path\n" + "".join(f"{n},{path}\n" for n, path in zip(numbers, IN_FOLDERS, strict=True))
    split = "image_id,is_train\n" + "".join(f"{n},{int(n < 7)}\n" for n in numbers)
    layout = layout_of(IN_FOLDERS, {"images.csv": images, "train_test_split.csv": split})
    assert layout.images.loc[layout.images["source"] == "holdout", "path"].tolist() == ["suv/6.jpg", "van/7.jpg"]


def test_a_split_without_images_is_reported(layout_of: Any) -> None:
    split = "key,split\n" + "".join(f"k{n},{['train', 'test'][n // 6]}\n" for n in range(8))
    layout = layout_of(IN_FOLDERS, {"split.csv": split})
    assert "unused_subsets" in {finding.kind for finding in layout.findings}


def test_the_setting_chooses_the_column_of_subsets_or_none(layout_of: Any) -> None:
    table = table_of("fold_test", ["yes", "no"])
    assert set(layout_of(IN_FOLDERS, {"list.csv": table}).images["source"]) == {"train"}
    layout = layout_of(IN_FOLDERS, {"list.csv": table}, subset_column="fold_test")
    assert layout.images["source"].value_counts().to_dict() == {"train": 4, "holdout": 4}
    table = table_of("split", ["train", "learning"])
    with pytest.raises(ConfigError, match=r"'learning'.*data\.subset_column"):
        layout_of(IN_FOLDERS, {"list.csv": table})
    assert set(layout_of(IN_FOLDERS, {"list.csv": table}, subset_column="none").images["source"]) == {"train"}
    with pytest.raises(ConfigError, match=r"data\.subset_column is 'sets'"):
        layout_of(IN_FOLDERS, {"list.csv": table}, subset_column="sets")


def sources_of(layout: Layout) -> dict[str, int]:
    return layout.images["source"].value_counts().to_dict()


@pytest.mark.parametrize(("folder", "column", "is_flagged", "expected"), [
    ("test", "is_valid", lambda n: n % 3 == 0, {"train": 4, "val": 2, "holdout": 2}),
    ("val", "is_train", lambda n: n % 4 != 0, {"train": 6, "val": 2}),
    ("val", "is_test", lambda n: n == 0, {"train": 6, "val": 1, "holdout": 1}),
    ("val", "is_train", lambda n: n % 2 != 0, {"train": 4, "val": 2, "holdout": 2}),
])
def test_folders_and_columns_of_subsets_are_combined(
    layout_of: Any, folder: str, column: str, is_flagged: Callable[[int], bool], expected: dict[str, int]
) -> None:
    images = [f"{folder if n % 4 == 0 else 'train'}/{path}" for n, path in enumerate(IN_FOLDERS)]
    table = f"path,{column}\n" + "".join(f"{path},{is_flagged(n)}\n" for n, path in enumerate(images))
    assert sources_of(layout_of(images, {"list.csv": table})) == expected


@pytest.mark.parametrize("label", ["", ",suv"])
def test_tables_named_like_subsets_divide_class_folders(layout_of: Any, label: str) -> None:
    names = ["train", "train", "val", "test"]
    tables = {f"{name}.csv": f"path{',label' * bool(label)}\n" + "".join(
        f"{path}{label and ',' + path[:3]}\n" for n, path in enumerate(IN_FOLDERS) if names[n % 4] == name)
        for name in set(names)}
    assert sources_of(layout_of(IN_FOLDERS, tables)) == {"train": 4, "val": 2, "holdout": 2}


def test_three_flags_give_three_subsets(layout_of: Any) -> None:
    flags = ["1,0,0"] * 4 + ["0,1,0"] * 2 + ["0,0,1"] * 2
    table = "file,label,is_train,is_val,is_test\n" + "".join(
        f"{name},{['suv', 'van'][n % 2]},{flags[n]}\n" for n, name in enumerate(NAMES))
    assert sources_of(layout_of([f"images/{name}" for name in NAMES], {"labels.csv": table})) == {
        "train": 4, "val": 2, "holdout": 2}


def test_subsets_of_names_that_repeat_in_class_folders_need_paths(layout_of: Any) -> None:
    images = [f"{folder}/{n}.jpg" for folder in ("suv", "van") for n in range(4)]
    table = "file,class,split\n" + "".join(
        f"{path[4:]},{path[:3]},{SUBSETS[n % 4]}\n" for n, path in enumerate(images))
    with pytest.raises(ConfigError, match=r"several images.*data\.subset_column"):
        layout_of(images, {"list.csv": table})
    assert sources_of(layout_of(images, {"list.csv": table}, subset_column="none")) == {"train": 8}


def test_numbers_in_a_column_of_subsets_are_reported(layout_of: Any) -> None:
    layout = layout_of(IN_FOLDERS, {"list.csv": table_of("partition", ["0", "1", "2", "0"])})
    assert [finding.kind for finding in layout.findings] == ["unused_subsets"]
    with pytest.raises(ConfigError, match="partition has the value '0'"):
        layout_of(IN_FOLDERS, {"list.csv": table_of("partition", ["0", "1"])}, subset_column="partition")


@pytest.mark.parametrize(("column", "values"), [
    ("patient", ["test0", "test1"]), ("status", ["valid"]), ("source", ["web/test/a", "web/train/b"]),
])
def test_other_columns_with_the_word_test_give_no_subset(layout_of: Any, column: str, values: list[str]) -> None:
    assert set(layout_of(IN_FOLDERS, {"list.csv": table_of(column, values)}).images["source"]) == {"train"}


def test_unlabeled_images_of_the_test_subset_are_predicted(layout_of: Any) -> None:
    rows = [f"{name},{['suv', 'van'][n % 2]},train" for n, name in enumerate(NAMES[:6])]
    table = "\n".join(["file,label,split", *rows, *(f"{name},,test" for name in NAMES[6:])]) + "\n"
    assert sources_of(layout_of([f"images/{name}" for name in NAMES], {"labels.csv": table})) == {"train": 6, "test": 2}


@pytest.mark.parametrize("tables", [
    {"predictions.csv": "file,score\n" + "".join(f"{name},0.{n}\n" for n, name in enumerate(NAMES[:4]))},
    {"lab_tests.csv": "file,value\n" + "".join(f"{name},0.{n}\n" for n, name in enumerate(NAMES))},
    {name: "file\n" + "\n".join(NAMES[:6]) for name in ("train.csv", "test.csv")},
])
def test_names_of_other_tables_give_no_subset(layout_of: Any, tables: dict[str, str]) -> None:
    assert sources_of(layout_of(IN_FOLDERS, tables)) == {"train": 8}


def test_a_column_of_subsets_counts_instead_of_the_name_of_its_table(layout_of: Any) -> None:
    layout = layout_of(IN_FOLDERS, {"test_train_split.csv": table_of("split", SUBSETS)})
    assert sources_of(layout) == {"train": 4, "val": 2, "holdout": 2}


@pytest.mark.parametrize("values", [["1", "", "", ""], ["yes", "", "", ""], ["True", "False", "", ""]])
def test_a_blank_flag_is_false(layout_of: Any, values: list[str]) -> None:
    assert sources_of(layout_of(IN_FOLDERS, {"list.csv": table_of("is_test", values)})) == {"train": 6, "holdout": 2}


def test_a_column_that_leaves_no_training_image_needs_a_setting(layout_of: Any) -> None:
    table = table_of("split", ["val", "test"])
    with pytest.raises(ConfigError, match=r"No image is left for training.*data\.subset_column"):
        layout_of(IN_FOLDERS, {"list.csv": table})
    assert sources_of(layout_of(IN_FOLDERS, {"list.csv": table}, subset_column="none")) == {"train": 8}


def test_one_hot_columns_may_be_called_train_and_test(layout_of: Any) -> None:
    table = "file,bus,test,train\n" + "".join(
        f"{name},{','.join(str(int(n % 3 == column)) for column in range(3))}\n" for n, name in enumerate(NAMES))
    layout = layout_of([f"images/{name}" for name in NAMES], {"labels.csv": table})
    assert layout.class_names == ("bus", "test", "train") and sources_of(layout) == {"train": 8}


@pytest.mark.parametrize("names", ["train,val,test", "train,valid,test", "is_train,is_val,is_test"])
@pytest.mark.parametrize("label", ["label", "species"])
def test_one_hot_columns_of_subsets_are_no_classes(layout_of: Any, names: str, label: str) -> None:
    flags = ["1,0,0", "1,0,0", "0,1,0", "0,0,1"]
    table = table_of(f"{label},{names}", [f"{['suv', 'van'][n // 4]},{flags[n % 4]}" for n in range(8)])
    layout = layout_of([f"images/{name}" for name in NAMES], {"labels.csv": table})
    assert layout.class_names == ("suv", "van") and sources_of(layout) == {"train": 4, "val": 2, "holdout": 2}


@pytest.mark.parametrize(("name", "expected"), [
    ("val.csv", {"train": 6, "val": 2}), ("test.csv", {"train": 6, "holdout": 2}), ("valid_images.csv", {"train": 8}),
])
def test_a_table_called_like_a_subset_lists_its_images(layout_of: Any, name: str, expected: dict[str, int]) -> None:
    assert sources_of(layout_of(IN_FOLDERS, {name: "file\n0.jpg\n5.jpg\n"})) == expected
    tables = {"labels.csv": "file,kind\n" + "".join(f"{name},{['a', 'b'][n % 2]}\n" for n, name in enumerate(NAMES))}
    layout = layout_of([f"images/{name}" for name in NAMES], tables | {name: "file\n0.jpg\n5.jpg\n"},
                       train_folder="images")
    assert sources_of(layout) == expected


def test_predictions_are_no_labels(layout_of: Any) -> None:
    predictions = "file,prediction\n" + "".join(f"{path[4:]},{path[:3]}\n" for path in IN_FOLDERS[:4])
    layout = layout_of(IN_FOLDERS, {"predictions.csv": predictions, "val_predictions.csv": predictions})
    assert sources_of(layout) == {"train": 8}


@pytest.mark.parametrize("name", ["test_predictions.csv", "predictions_test.csv", "testPredictions.csv"])
def test_predictions_of_test_images_are_no_labels(layout_of: Any, name: str) -> None:
    images = [f"train/{name}" for name in NAMES] + [f"test/t{n}.jpg" for n in range(4)]
    tables = {
        "train.csv": "file,label\n" + "".join(f"{name},{['a', 'b'][n % 2]}\n" for n, name in enumerate(NAMES)),
        name: "file,label\n" + "".join(f"t{n}.jpg,{['a', 'b'][n % 2]}\n" for n in range(4)),
    }
    assert sources_of(layout_of(images, tables)) == {"train": 8, "test": 4}


def test_a_list_of_one_subset_has_a_constant_column(layout_of: Any) -> None:
    assert sources_of(layout_of(IN_FOLDERS, {"splits.csv": "file,split\n0.jpg,test\n5.jpg,test\n"})) == {
        "train": 6, "holdout": 2}


def test_a_table_of_the_test_images_needs_ids_of_one_image(layout_of: Any) -> None:
    images = [f"{folder}/{n}.jpg" for folder in ("suv", "van") for n in range(4)]
    with pytest.raises(ConfigError, match=r"several images.*data\.subset_column"):
        layout_of(images, {"test.csv": "file,label\n0.jpg,suv\n3.jpg,van\n"})
    assert sources_of(layout_of(images, {}, subset_column="none")) == {"train": 8}


@pytest.mark.parametrize("name", ["predator_labels.csv", "predictions.csv", "damage_prediction_train.csv"])
def test_the_only_table_of_labels_may_be_called_like_predictions(layout_of: Any, name: str) -> None:
    table = "file,label\n" + "".join(f"{name},{['a', 'b'][n % 2]}\n" for n, name in enumerate(NAMES))
    assert sources_of(layout_of([f"images/{name}" for name in NAMES], {name: table})) == {"train": 8}


def test_a_class_column_may_have_a_name_that_contains_test(layout_of: Any) -> None:
    table = "file,age,covid_test\n" + "".join(f"{name},{20 + n},{n % 2}\n" for n, name in enumerate(NAMES))
    layout = layout_of([f"images/{name}" for name in NAMES], {"labels.csv": table})
    assert layout.class_names == ("0", "1") and sources_of(layout) == {"train": 8}


def test_of_several_rows_of_an_image_test_counts(layout_of: Any) -> None:
    rows = [f"{name},{'suv' if n % 2 else 'van'},{subset}\n" for n, name in enumerate(NAMES)
            for subset in (["train", "test"][: 1 + n // 6])]
    table = "file,label,split\n" + "".join(rows)
    assert sources_of(layout_of([f"images/{name}" for name in NAMES], {"list.csv": table})) == {
        "train": 6, "holdout": 2}


@pytest.mark.parametrize(("first", "second"), [("split_1", "split_2"), ("random_split", "patient_split")])
def test_columns_of_different_splits_need_the_setting(layout_of: Any, first: str, second: str) -> None:
    rows = [f"{name},{['train', 'val'][n % 2]},{['train', 'val'][n // 4]}" for n, name in enumerate(NAMES)]
    tables = {"list.csv": "\n".join([f"file,{first},{second}", *rows])}
    with pytest.raises(ConfigError, match=rf"{first} of list\.csv and {second} of list\.csv.*data\.subset_column"):
        layout_of(IN_FOLDERS, tables)
    assert sources_of(layout_of(IN_FOLDERS, tables, subset_column=second)) == {"train": 4, "val": 4}
    rows = [f"{name},{['train', 'val'][n % 2]},{['training', 'valid'][n % 2]}" for n, name in enumerate(NAMES)]
    tables = {"list.csv": "\n".join([f"file,{first},{second}", *rows])}
    assert sources_of(layout_of(IN_FOLDERS, tables)) == {"train": 4, "val": 4}


@pytest.mark.parametrize("column", ["train", "test"])
def test_a_lone_flag_called_like_a_subset_needs_the_setting(layout_of: Any, column: str) -> None:
    tables = {"list.csv": table_of(column, ["0", "1"], label=True)}
    with pytest.raises(ConfigError, match=rf"data\.subset_column to {column} or to none"):
        layout_of(IN_FOLDERS, tables)
    assert sources_of(layout_of(IN_FOLDERS, tables, subset_column="none")) == {"train": 8}


def test_values_with_other_words_are_no_subsets(layout_of: Any) -> None:
    tables = {"list.csv": table_of("scene", ["train hall", "test bench"])}
    assert sources_of(layout_of(IN_FOLDERS, tables)) == {"train": 8}


@pytest.mark.parametrize(("name", "text"), [
    ("test.csv", "file\n0.jpg\n8.jpg\n"), ("test.txt", "suv/0.jpg\nsuv/8.jpg\n"),
    ("list.csv", "file,split\n0.jpg,test\n2.jpg,train\n9.jpg,test\n"),
])
def test_missing_images_of_a_subset_are_reported(layout_of: Any, name: str, text: str) -> None:
    layout = layout_of(IN_FOLDERS, {name: text})
    assert sources_of(layout) == {"train": 7, "holdout": 1}
    assert [(finding.kind, finding.path) for finding in layout.findings] == [("unused_subsets", name)]


def test_an_id_does_not_name_an_image_in_another_folder(layout_of: Any) -> None:
    images = [f"train/{folder}/{n}.jpg" for folder in ("suv", "van") for n in range(4)] + ["train/van/9.jpg"]
    layout = layout_of(images, {"test.csv": "file\nsuv/1.jpg\nvan/2.jpg\nsuv/9.jpg\n"})
    assert sources_of(layout) == {"train": 7, "holdout": 2}


def test_an_image_with_a_name_of_its_own_may_have_been_moved(layout_of: Any) -> None:
    rows = "".join(f"train/{name},{'suv' if n % 2 else 'van'},p{n // 2}\n" for n, name in enumerate(NAMES))
    images = [f"{'val' if n > 5 else 'train'}/{name}" for n, name in enumerate(NAMES)]
    layout = layout_of(images, {"labels.csv": f"path,label,patient\n{rows}"})
    assert sources_of(layout) == {"train": 6, "val": 2}
    assert layout.images["group"].nunique() == 4
    assert not layout.findings


@pytest.mark.parametrize("column", ["isTrain", "IsTrain", "TrainSet"])
def test_flags_in_camel_case_are_subsets(layout_of: Any, column: str) -> None:
    assert sources_of(layout_of(IN_FOLDERS, {"list.csv": table_of(column, ["1", "0"])})) == {"train": 4, "holdout": 4}


def test_tables_of_different_splits_stop(layout_of: Any) -> None:
    tables = {"random.csv": table_of("split", ["train", "test"]), "camera.csv": table_of("split", SUBSETS)}
    with pytest.raises(ConfigError, match=r"camera\.csv and split of random\.csv"):
        layout_of(IN_FOLDERS, tables)


def test_missing_images_of_two_columns_of_flags_are_reported_once(layout_of: Any) -> None:
    rows = "".join(f"{name},{n % 2},{1 - n % 2}\n" for n, name in enumerate([*NAMES, "9.jpg"]))
    layout = layout_of(IN_FOLDERS, {"list.csv": f"file,is_train,is_test\n{rows}"})
    assert [finding.kind for finding in layout.findings] == ["unused_subsets"]


@pytest.mark.parametrize("column", ["grp", "split"])
def test_rows_of_several_folds_stop(layout_of: Any, column: str) -> None:
    rows = [f"{fold},{['train', 'train', 'test'][(n + fold) % 3]},{path}" for fold in (1, 2)
            for n, path in enumerate(IN_FOLDERS)]
    tables = {"Folds.csv": "\n".join([f"fold,{column},filename", *rows]) + "\n"}
    with pytest.raises(ConfigError, match=r"several folds.*data\.subset_column"):
        layout_of(IN_FOLDERS, tables, label_source="folders")
    layout = layout_of(IN_FOLDERS, tables, label_source="folders", subset_column="none")
    assert set(layout.images["source"]) == {"train"}


def test_a_contradictory_row_counts_as_the_test_subset(layout_of: Any) -> None:
    paths = [f"{['suv', 'van'][n % 2]}/{n}.jpg" for n in range(24)]
    rows = [f"{path},{['train', 'test'][n // 20]}" for n, path in enumerate(paths)] + [f"{paths[0]},test"]
    layout = layout_of(paths, {"list.csv": "\n".join(["file,split", *rows]) + "\n"})
    assert layout.images["source"].value_counts().to_dict() == {"train": 19, "holdout": 5}
