"""Mutated layouts: the right result, or an error or a finding that names the problem."""

import random
import unicodedata
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from source_files import write_files

from carclf.config import Config
from carclf.dataset.detection.detect import detect
from carclf.dataset.detection.metric import parse_metric
from carclf.dataset.detection.rejections import reject_extensions, reject_listing
from carclf.dataset.detection.result import Layout
from carclf.dataset.detection.tables import read_table
from carclf.errors import ConfigError, DataError

IMAGES = [f"train/{label}/{label}{n}.jpg" for label in range(2) for n in range(4)] + [
    "test_upload/a.jpg",
    "test_upload/b.jpg",
]
TRAIN = "Id,Category\n" + "".join(f"{label}{n}.jpg,{label}\n" for label in range(2) for n in range(4))
SAMPLE = "Id,Category\na.jpg,0\nb.jpg,0\n"
TABLES = {"train.csv": TRAIN, "sample-submission.csv": SAMPLE}
METRIC = "Categorization Accuracy"


def kinds(layout: Layout) -> list[str]:
    return [finding.kind for finding in layout.findings]


def replace(text: str, *pairs: tuple[str, str]) -> str:
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    return text


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        (TRAIN, []),
        (replace(TRAIN, ("00.jpg,0", "00.jpg,1")), ["label_mismatch"]),
        (replace(TRAIN, ("0.jpg", "0.png")), []),
        (replace(TRAIN, (".jpg", "-x.jpg"), ("Id", "Name")), ["unmatched_label_table"]),
        (replace(TRAIN, ("jpg,1", "jpg,5")), ["label_mismatch"] * 4 + ["unknown_class", "empty_class"]),
        (TRAIN + "9.jpg\n", ["invalid_label_table"]),
        ("", ["invalid_label_table"]),
        ("Id,Category\n", ["invalid_label_table"]),
        (TRAIN + "00.jpg,1\n", ["invalid_label_table"]),
        (TRAIN + "zz.jpg,7\n", ["empty_class", "unmatched_label_table"]),
    ],
)
def test_a_bad_table_next_to_class_folders_gives_findings(layout_of: Any, train: str, expected: list[str]) -> None:
    layout = layout_of(IMAGES, {**TABLES, "train.csv": train}, METRIC)
    assert layout.class_names == ("0", "1") and kinds(layout) == expected


def test_two_spellings_of_a_class_of_the_table_are_ambiguous(layout_of: Any) -> None:
    images = [*IMAGES, "train/01/x.jpg"]
    assert layout_of(images, {"sample-submission.csv": SAMPLE}, METRIC).class_names == ("0", "01", "1")
    layout = layout_of(images, {**TABLES, "train.csv": TRAIN + "x.jpg,1\n"}, METRIC)
    assert kinds(layout) == ["label_mismatch", "ambiguous_class"]


@pytest.mark.parametrize(
    ("names", "classes", "expected"),
    [
        (["Škoda", unicodedata.normalize("NFD", "Škoda"), "x"], ("Škoda", "x"), []),
        (["Circle", "circle", "x"], ("Circle", "circle", "x"), ["similar_classes"]),
        (["1", "01", "2"], ("01", "1", "2"), ["ambiguous_class"]),
        (["van", "car", "van scratch", "car scratch"], (), ["combined_classes"]),
        (["sedan", "old sedan", "Lada", "Lada Priora"], (), []),
    ],
)
@pytest.mark.parametrize("has_table", [False, True])
def test_spellings_of_a_class_are_reported(
    layout_of: Any, names: list[str], classes: tuple[str, ...], expected: list[str], has_table: bool
) -> None:
    rows = list(enumerate(2 * names))
    table = "id,kind\n" + "".join(f"{number}.jpg,{name}\n" for number, name in rows)
    layout = layout_of(
        [f"{'images' if has_table else name}/{number}.jpg" for number, name in rows],
        {"labels.csv": table} if has_table else None,
    )
    assert kinds(layout) == expected and layout.class_names == (classes or layout.class_names)


def test_class_folders_that_differ_in_spaces_are_an_error(layout_of: Any) -> None:
    with pytest.raises(DataError, match="'circle' and 'circle '"):
        layout_of(["circle/0.jpg", "circle /1.jpg", "square/2.jpg"])


@pytest.mark.parametrize("label", ["van|scratch", "scratch|van"])
def test_a_bar_separates_labels(layout_of: Any, label: str) -> None:
    table = "id,label\n" + "".join(f"{n},{['van', 'car', label][n % 3]}\n" for n in range(9))
    with pytest.raises(DataError, match="van"):
        layout_of([f"images/{n}.jpg" for n in range(9)], {"labels.csv": table.encode()})


def test_stray_hidden_and_junk_files_are_ignored(layout_of: Any) -> None:
    images = [
        *IMAGES,
        "train/.ipynb_checkpoints/0.jpg",
        "__MACOSX/train/1/._a.jpg",
        "train/1/Thumbs.db",
        "train/1/.a.jpg",
    ]
    layout = layout_of(images, {**TABLES, "train/notes.txt": "x", "train/1/labels.xml": "x", "model.h5": b"x"}, METRIC)
    assert len(layout.images) == 10 and layout.ignored == ("model.h5", "train/1/labels.xml", "train/notes.txt")


def test_side_files_of_cameras_and_editors_are_no_images(layout_of: Any) -> None:
    images = [f"{label}/{n}.jpg" for label in ("suv", "van") for n in range(2)]
    sides = [f"suv/0.{suffix}" for suffix in ("NEF", "AAE", "xmp", "psd", "tmp", "crdownload")]
    layout = layout_of([*images, *sides, "suv/_DS_Store"])
    assert layout.images["path"].tolist() == images and set(layout.ignored) == set(sides) and layout.findings == ()


@pytest.mark.parametrize("folder", [".hatch", "photos/.hatch/deep"])
def test_a_hidden_folder_with_images_is_reported(layout_of: Any, folder: str) -> None:
    images = [f"photos/{name}/{n}.jpg" for name in ("van", "suv") for n in range(3)]
    layout = layout_of([*images, f"{folder}/0.jpg", f"{folder}/1.jpg"])
    hidden = folder.removesuffix("/deep")
    assert [(finding.kind, finding.path) for finding in layout.findings] == [("ignored_data", hidden)]
    assert layout.ignored == (hidden,) and layout.class_names == ("suv", "van")


CAMERAS = [f"pics/cam{camera}/{n}.jpg" for camera in (1, 2) for n in range(4)]


def camera_table(prefix: str, images: list[str] = CAMERAS) -> str:
    return "file,kind\n" + "".join(f"{prefix}{path},{['van', 'suv'][n % 2]}\n" for n, path in enumerate(images))


@pytest.mark.parametrize("prefix", ["", "/kaggle/input/", "D:\\x\\", "C:/Users/someone/my data/", "../", "s3://bucket/"])
@pytest.mark.parametrize("form", ["auto", "name"])
def test_paths_of_another_machine_name_the_images(layout_of: Any, prefix: str, form: str) -> None:
    layout = layout_of(CAMERAS, {"labels.csv": camera_table(prefix)}, label_source="table", id_form=form)
    assert layout.class_names == ("suv", "van") and len(layout.images) == 8 and not layout.findings
    labels = dict(zip(layout.images["path"], layout.images["label"], strict=True))
    assert labels["pics/cam2/3.jpg"] == "suv" and labels["pics/cam2/2.jpg"] == "van"


@pytest.mark.parametrize("setting", [{}, {"label_table": "labels.csv"}, {"label_column": "kind"}])
def test_a_table_with_names_of_several_images_stops_class_folders_of_other_names(
    layout_of: Any, setting: dict[str, str]
) -> None:
    table = camera_table("", [f"{n}.jpg" for n in range(4)])
    with pytest.raises(ConfigError, match=r"data\.label_source"):
        layout_of(CAMERAS, {"labels.csv": table}, **setting)
    assert layout_of(CAMERAS, {"labels.csv": table}, label_source="folders").class_names == ("cam1", "cam2")


def test_a_table_with_names_of_several_images_may_confirm_the_class_folders(layout_of: Any) -> None:
    images = [f"{name}/{n}.jpg" for name in ("van", "suv") for n in range(4)]
    layout = layout_of(images, {"labels.csv": "file,kind\n" + "".join(f"{n}.jpg,van\n{n}.jpg,suv\n" for n in range(4))})
    assert layout.class_names == ("suv", "van")


@pytest.mark.parametrize(("table", "expected"), [
    ("file,kind\n" + "".join(f"other-{n}.jpg,van\n" for n in range(4)), ["unmatched_label_table"]),
    ("folder,text\nvan,A van\nsuv,An SUV\n", []),
])
@pytest.mark.parametrize("path", ["labels.csv", "photos/notes.csv"])
def test_a_table_without_ids_of_the_images_is_reported_next_to_class_folders(
    layout_of: Any, path: str, table: str, expected: list[str]
) -> None:
    layout = layout_of([f"photos/{name}/{n}.jpg" for name in ("van", "suv") for n in range(4)], {path: table})
    assert kinds(layout) == expected and layout.class_names == ("suv", "van")


@pytest.mark.parametrize("setting", ["label_table", "label_column"])
def test_an_invalid_table_that_a_setting_names_is_an_error(layout_of: Any, setting: str) -> None:
    table = "file,kind\n0.jpg,van\n0.jpg,suv\n1.jpg,van\n2.jpg,suv\n"
    with pytest.raises(DataError, match=r"0\.jpg"):
        layout_of([f"{name}/{n}.jpg" for n, name in enumerate(["van", "suv"] * 4)], {"labels.csv": table},
                  **{setting: {"label_table": "labels.csv", "label_column": "kind"}[setting]})


def test_a_table_without_classes_that_a_setting_names_is_an_error(layout_of: Any) -> None:
    with pytest.raises(ConfigError, match=r"data\.label_table: .*kind has 3"):
        layout_of(CAMERAS, {"labels.csv": "file,kind\npics/cam1/0.jpg,a\npics/cam1/1.jpg,b\npics/cam2/0.jpg,c\n"},
                  label_table="labels.csv")


@pytest.mark.parametrize("name", ["unlabeled", "No label", "UNKNOWN", "nan", "N/A"])
def test_a_class_that_may_mean_no_label_is_reported(layout_of: Any, name: str) -> None:
    table = "file,kind\n" + "".join(f"{n}.jpg,{[name, 'van', 'suv'][n % 3]}\n" for n in range(9))
    layout = layout_of([f"images/{n}.jpg" for n in range(9)], {"labels.csv": table})
    assert [(finding.kind, finding.path) for finding in layout.findings] == [("placeholder_class", name)]
    assert len(layout.class_names) == 3


@pytest.mark.parametrize("constant", ["", "is_image"])
def test_one_hot_columns_with_the_same_value_in_each_row_are_no_classes(layout_of: Any, constant: str) -> None:
    columns = {"van": [1, 0] * 4, "suv": [0, 1] * 4, "hatch": [0] * 8} | ({constant: [1] * 8} if constant else {})
    table = pd.DataFrame({"file": [f"{n}.jpg" for n in range(8)]} | columns).to_csv(index=False)
    layout = layout_of([f"images/{n}.jpg" for n in range(8)], {"labels.csv": table})
    assert layout.class_names == ("suv", "van")
    assert kinds(layout) == ["empty_class_column"] and "'hatch'" in layout.findings[0].message


def labels_of(layout: Layout) -> dict[str, str]:
    return {path.rpartition("/")[2].partition(".")[0]: label
            for path, label in zip(layout.images["path"], layout.images["label"], strict=True)}


@pytest.mark.parametrize("header", [",file,kind", "number,file,kind"])
def test_a_file_name_is_preferred_to_the_number_of_a_row(layout_of: Any, header: str) -> None:
    rows = [f"{number},{7 - number}.jpg,{['van', 'suv'][number % 2]}" for number in range(8)]
    layout = layout_of([f"images/{n}.jpg" for n in range(8)], {"labels.csv": "\n".join([header, *rows]) + "\n"})
    assert labels_of(layout)["7"] == "van" and labels_of(layout)["0"] == "suv"


def test_two_columns_that_name_different_images_need_a_setting(layout_of: Any) -> None:
    images = [f"{folder}/{folder[0]}{n}.jpg" for folder in ("images", "masks") for n in range(4)]
    table = "mask,image,kind\n" + "".join(f"m{n}.jpg,i{n}.jpg,{['van', 'suv'][n % 2]}\n" for n in range(4))
    with pytest.raises(ConfigError, match=r"data\.id_column"):
        layout_of(images, {"labels.csv": table}, label_source="table")
    assert set(labels_of(layout_of(images, {"labels.csv": table}, label_source="table", id_column="image"))) == {
        "i0", "i1", "i2", "i3"}


@pytest.mark.parametrize(("header", "values", "expected"), [
    ("split", ["train", "test", "val", "extra"], None),
    ("split", ["train", "test", "val", ""], None),
    ("split", ["train", "eval", "train", "eval"], {"train": 4, "holdout": 4}),
    ("is_valid", ["True", "False", "False", "True"], {"val": 4, "train": 4}),
    ("is_test", ["1", "0", "0", "1"], {"holdout": 4, "train": 4}),
    ("is_train", ["Y", "N", "N", "Y"], {"holdout": 4, "train": 4}),
    ("is_training_image", ["t", "f", "f", "t"], {"holdout": 4, "train": 4}),
    ("split", ["learning", "test", "test", "learning"], None),
    ("subset", ["", "test", "test", ""], None),
    ("weather", ["train", "rain", "sun", "rain"], {"train": 8}),
])
def test_a_column_of_subsets_is_used_or_rejected(
    layout_of: Any, header: str, values: list[str], expected: dict[str, int] | None
) -> None:
    rows = [f"{n}.jpg,{['van', 'suv'][n % 2]},{values[n % 4]}" for n in range(8)]
    table = "\n".join([f"file,label,{header}", *rows]) + "\n"
    images = [f"images/{n}.jpg" for n in range(8)]
    if expected is None:
        with pytest.raises(ConfigError, match=f"{header} has the value"):
            layout_of(images, {"labels.csv": table})
    else:
        assert layout_of(images, {"labels.csv": table}).images["source"].value_counts().to_dict() == expected


@pytest.mark.parametrize(("true", "false"), [
    ("True", "False"), ("true", "false"), ("TRUE", "FALSE"), ("1", "0"), ("1.0", "0.0"), ("yes", "no"), ("Y", "N"),
    ("x", ""), ("X", " "), ("1", ""),
])
def test_one_hot_columns_may_be_boolean(layout_of: Any, true: str, false: str) -> None:
    rows = [f"{n}.jpg,{','.join([true, false][n % 2 ^ column] for column in range(2))}" for n in range(8)]
    layout = layout_of([f"images/{n}.jpg" for n in range(8)], {"labels.csv": "file,van,suv\n" + "\n".join(rows) + "\n"})
    assert layout.class_names == ("suv", "van") and labels_of(layout)["0"] == "van"


def test_ids_with_the_extension_of_the_original_images_name_converted_ones(layout_of: Any) -> None:
    table = "file,kind\n" + "".join(f"IMG_{n}.jpg,{['van', 'suv'][n % 2]}\n" for n in range(8))
    layout = layout_of([f"images/IMG_{n}.png" for n in range(8)], {"labels.csv": table})
    assert layout.class_names == ("suv", "van") and len(layout.images) == 8


def test_prefixes_of_names_next_to_a_table_of_another_type_need_a_setting(layout_of: Any) -> None:
    images = [f"images/{camera}_{n}_a.jpg" for camera in ("CAM", "WEB") for n in range(4)]
    with pytest.raises(ConfigError, match=r"labels\.xlsx.*data\.label_source to file_names"):
        layout_of(images, {"labels.xlsx": b"PK"})
    assert layout_of(images, {"labels.xlsx": b"PK"}, label_source="file_names").class_names == ("CAM", "WEB")


@pytest.mark.parametrize("source", ["folders", "file_names"])
def test_a_label_table_contradicts_a_source_of_labels_without_tables(layout_of: Any, source: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.label_table.*data\.label_source"):
        layout_of(["a/0.jpg", "b/1.jpg"], {"labels.csv": "file,label\n0.jpg,a\n1.jpg,b\n"}, label_source=source,
                  label_table="labels.csv")


def test_the_id_column_of_one_table_leaves_the_others_as_they_are(layout_of: Any) -> None:
    tables = {"labels.csv": "number,file,kind\n" + "".join(f"{7 - n},{n}.jpg,{'ab'[n % 2]}\n" for n in range(8)),
              "patients.csv": "image,patient\n" + "".join(f"{n}.jpg,p{n // 4}\n" for n in range(8))}
    layout = layout_of([f"images/{n}.jpg" for n in range(8)], tables, id_column="file", label_table="labels.csv")
    assert layout.images["label"].tolist() == ["a", "b"] * 4


def test_a_column_without_a_name_is_called_by_its_position(layout_of: Any) -> None:
    table = ",label,\n" + "".join(f"{n}.jpg,{'ab'[n % 2]},{n}\n" for n in range(8))
    layout = layout_of([f"images/{n}.jpg" for n in range(8)], {"labels.csv": table}, id_column="1")
    assert layout.images["label"].tolist() == ["a", "b"] * 4


def test_class_names_in_an_unknown_encoding_are_reported(layout_of: Any) -> None:
    name = "машина".encode("cp866").decode("cp437")
    layout = layout_of([f"{folder}/{n}.jpg" for folder in (name, "van") for n in range(3)])
    assert [(finding.kind, finding.path) for finding in layout.findings] == [("garbled_class", name)]


def test_prefixes_of_names_next_to_an_unusable_table_need_a_setting(layout_of: Any) -> None:
    images = [f"images/{camera}_{n}_a.jpg" for camera in ("CAM", "WEB") for n in range(4)]
    table = "file,kind\n" + "".join(f"other{n}.jpg,{['van', 'suv'][n % 2]}\n" for n in range(8))
    with pytest.raises(ConfigError, match=r"data\.label_source"):
        layout_of(images, {"labels.csv": table})
    assert layout_of(images, {"labels.csv": table}, label_source="file_names").class_names == ("CAM", "WEB")


def test_a_table_of_class_names_is_used_although_each_class_has_an_image_of_that_name(layout_of: Any) -> None:
    images = [f"{label}/{n}.jpg" for label in range(2) for n in range(4)]
    assert layout_of(images, {"classes.csv": "id,name\n0,van\n1,suv\n"}).class_names == ("suv", "van")


def test_a_class_folder_without_a_readable_image_is_reported(layout_of: Any) -> None:
    images = [f"{name}/{n}.jpg" for name in ("van", "suv") for n in range(4)]
    layout = layout_of(images, {"cow/0.cr2": b"x", "cow/1.cr2": b"y", "notes/readme.txt": "x"})
    assert [(finding.kind, finding.path) for finding in layout.findings] == [("empty_class_folder", "cow")]


def labeled(columns: str, row: str) -> dict[str, str]:
    """Return a table of 8 images, alternately van and suv; ``row`` formats the number n and the label."""
    rows = [row.format(n=n, reverse=7 - n, label=["van", "suv"][n % 2], flag=n < 4) for n in range(8)]
    return {"labels.csv": "\n".join([columns, *rows]) + "\n"}


@pytest.mark.parametrize(("columns", "row"), [
    ("file,label,day,night", "{n}.jpg,{label},{flag},{flag:d}"),
    ("file,label,augmented", "{n}.jpg,{label},{flag}"),
    ("file,label,passed_test", "{n}.jpg,{label},{flag:d}"),
    ("file,label,valid", "{n}.jpg,{label},1"),
])
def test_other_boolean_columns_do_not_matter_next_to_a_label(layout_of: Any, columns: str, row: str) -> None:
    layout = layout_of([f"images/{n}.jpg" for n in range(8)], labeled(columns, row))
    assert labels_of(layout)["1"] == "suv" and set(layout.images["source"]) == {"train"}


def test_two_flags_of_subsets_are_combined(layout_of: Any) -> None:
    rows = [f"{n}.jpg,{['van', 'suv'][n % 2]},{n // 2 == 1:d},{n // 2 == 2:d}" for n in range(8)]
    table = "\n".join(["file,label,is_val,is_test", *rows]) + "\n"
    sources = layout_of([f"images/{n}.jpg" for n in range(8)], {"labels.csv": table}).images["source"]
    assert sources.value_counts().to_dict() == {"train": 4, "val": 2, "holdout": 2}


def test_padded_ids_and_original_names_that_differ_need_a_setting(layout_of: Any) -> None:
    images = [f"images/00{n}.jpg" for n in range(8)]
    with pytest.raises(ConfigError, match=r"data\.id_column"):
        layout_of(images, labeled("id,original_name,label", "00{n},00{reverse}.jpg,{label}"))


def test_a_class_may_be_called_train_in_a_table(layout_of: Any) -> None:
    rows = [f"{n}.jpg,{['train', 'car', 'test tube', 'bus'][n % 4]}" for n in range(16)]
    layout = layout_of([f"images/{n}.jpg" for n in range(16)], {"labels.csv": "\n".join(["file,label", *rows]) + "\n"})
    assert layout.class_names == ("bus", "car", "test tube", "train")


def test_prefixes_of_names_may_have_a_table_of_other_facts(layout_of: Any) -> None:
    images = [f"images/{label}.{n}.jpg" for label in ("cat", "dog") for n in range(4)]
    sizes = "file,width\n" + "".join(f"{path.partition('/')[2]},{90 + n}\n" for n, path in enumerate(images))
    assert layout_of(images, {"sizes.csv": sizes}).class_names == ("cat", "dog")


def test_an_image_in_no_class_folder_and_an_empty_class_are_reported(layout_of: Any, tmp_path: Path) -> None:
    (tmp_path / "source/train/7").mkdir(parents=True)
    layout = layout_of(
        [*IMAGES, *(f"train/1/{n}.jpg" for n in range(9)), "train/stray.jpg"], {"sample-submission.csv": SAMPLE}, METRIC
    )
    assert [(finding.kind, finding.path) for finding in layout.findings] == [
        ("unknown_class", "train/stray.jpg"),
        ("empty_class_folder", "train/7"),
    ]
    assert layout.images.set_index("path").loc["train/stray.jpg", ["label", "source"]].tolist() == ["", "train"]


def test_files_without_an_extension_count_next_to_images(layout_of: Any) -> None:
    layout = layout_of([*IMAGES, "train/1/photo", "train/1/photo.xyz"], TABLES, METRIC)
    assert {"train/1/photo", "train/1/photo.xyz"} <= set(layout.images["path"])


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "cp1251", "cp1252"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_tables_in_any_encoding_with_any_separator(layout_of: Any, encoding: str, separator: str, end: str) -> None:
    name = "лада" if encoding != "cp1252" else "zürich"
    train = {f"{name} {n}.jpg": ("a", "NA")[n % 2] for n in range(4)}
    table = end.join(["ID" + separator + "Label", *(f'"{key}"{separator}{value}' for key, value in train.items()), ""])
    layout = layout_of([f"images/{key}" for key in train], {"labels.csv": table.encode(encoding)})
    assert layout.class_names == ("a", "NA")
    assert layout.images.loc[layout.images["path"] == f"images/{name} 1.jpg", "label"].item() == "NA"


@pytest.mark.parametrize(
    ("words", "encoding"),
    [
        (["Käfer", "Citroën", "Golf"], "cp1252"),
        (["Лада", "Нива", "Волга"], "cp1251"),
        (["红旗", "比亚迪", "吉利"], "gb18030"),
    ],
)
def test_an_encoding_without_evidence_is_a_warning(layout_of: Any, words: list[str], encoding: str) -> None:
    table = "id;label\n" + "".join(f"im{n:04d};{words[n % 3]}\n" for n in range(120))
    layout = layout_of([f"images/im{n:04d}.jpg" for n in range(120)], {"labels.csv": table.encode(encoding)})
    assert set(layout.class_names) == set(words) and kinds(layout) == ["guessed_encoding"]
    assert encoding in layout.findings[0].message


@pytest.mark.parametrize("row", ["IM{}.JPG,{}", " im{} ,{}", "Images/Im{}.jpg,{}"])
def test_case_and_spaces_of_ids_make_no_difference(layout_of: Any, row: str) -> None:
    table = "id,label\n" + "".join(row.format(n, "xy"[n % 2]) + "\n" for n in range(8))
    layout = layout_of([f"images/im{n}.jpg" for n in range(8)], {"labels.csv": table})
    assert layout.images["label"].tolist() == ["x", "y"] * 4


def test_ids_that_differ_in_case_stay_distinct(layout_of: Any) -> None:
    table = "id,label\n" + "".join(f"{name},{label}\n" for name, label in zip("aAbBcC", "xyxyxy", strict=True))
    layout = layout_of([f"images/{name}.jpg" for name in "aAbBcC"], {"labels.csv": table})
    assert layout.images.set_index("path")["label"].to_dict()["images/A.jpg"] == "y"
    with pytest.raises(DataError, match=r"data\.max_missing"):
        layout_of([], {"labels.csv": table + "D,x\nd,y\n"})


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("labels.csv", "id,label\n" + "".join(f"im{n},{n % 2}\n" for n in range(50, 90)) + "im1,1\n", "im50"),
        ("labels.csv", "id,label\n" + "".join(f"im{n},x\n" for n in range(9)), "label has 1"),
        ("labels.csv", "id,label\n" + "".join(f"im{n},{n}.5\n" for n in range(9)), "label has 9"),
        ("labels.csv", 'id,label\nim1,x\nim2,"x\nim3,y\n', "line 3"),
        ("ann.json", '{"images": [', "read as JSON"),
        ("labels.xlsx", "PK", "CSV"),
    ],
)
def test_the_message_about_missing_labels_names_the_file(layout_of: Any, name: str, content: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason) as error:
        layout_of([f"images/im{n}.jpg" for n in range(9)], {name: content})
    assert name in str(error.value) and "data.label_table" in str(error.value)


@pytest.mark.parametrize("table_form", ["NFC", "NFD"])
@pytest.mark.parametrize("file_form", ["NFC", "NFD"])
def test_composed_and_decomposed_names_are_equal(layout_of: Any, table_form: Any, file_form: Any) -> None:
    names = [unicodedata.normalize(file_form, f"zürich {n}.jpg") for n in range(4)]
    table = "id,label\n" + "".join(
        f"{unicodedata.normalize(table_form, name)},{'ab'[n % 2]}\n" for n, name in enumerate(names)
    )
    assert len(layout_of([f"images/{name}" for name in names], {"labels.csv": table}).images) == 4


def test_names_decoded_with_a_wrong_code_page_and_long_names(layout_of: Any) -> None:
    names = ["машина.jpg", "лада.jpg"]
    stored = [name.encode("cp866").decode("cp437") for name in names]
    layout = layout_of(
        [*IMAGES[:8], *(f"test_upload/{name}" for name in stored)],
        {"sample-submission.csv": "Id,Category\n" + "".join(f"{name},0\n" for name in names)},
        METRIC,
    )
    assert set(layout.images.loc[layout.images["source"] == "test", "id"]) == set(names)


def test_a_missing_id_of_the_only_labels_is_an_error_or_allowed(layout_of: Any) -> None:
    images, table = (
        [f"images/{n}.jpg" for n in range(9)],
        "id,label\n" + "".join(f"{n}.jpg,{'ab'[n % 2]}\n" for n in range(10)),
    )
    with pytest.raises(DataError, match=r"data\.max_missing"):
        layout_of(images, {"labels.csv": table})
    assert kinds(layout_of(images, {"labels.csv": table}, max_missing=0.1)) == ["unmatched_label_table"]


@pytest.mark.parametrize("header", ["ID,CATEGORY", "id,category", "Name,Label", " Id , Category "])
def test_the_names_and_the_case_of_columns_do_not_matter(layout_of: Any, header: str) -> None:
    layout = layout_of(
        IMAGES, {"train.csv": TRAIN.replace("Id,Category", header), "sample-submission.csv": SAMPLE}, METRIC
    )
    assert layout.class_names == ("0", "1") and not layout.findings


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Id,Category\n",
        "Id,Category\na.jpg,0\na.jpg,0\n",
        "Id\na.jpg\n",
        'Id,Category\n"a,0\n',
        "Id,Id\na,0\n",
        "Id,Category\n,0\n",
        "Id,Category\na\x01b,0\n",
    ],
)
def test_an_invalid_sample_is_rejected(layout_of: Any, text: str) -> None:
    with pytest.raises(DataError, match="sample-submission"):
        layout_of(IMAGES, {"sample-submission.csv": text})


def test_a_sample_without_any_image_names_the_setting(layout_of: Any) -> None:
    with pytest.raises(DataError, match=r"data\.test_folder"):
        layout_of(IMAGES, {"sample-submission.csv": "Id,Category\nzzz.jpg,0\n"})


def test_images_that_the_sample_lacks_keep_their_name(layout_of: Any) -> None:
    layout = layout_of([*IMAGES, "test_upload/c.jpg"], TABLES, METRIC)
    assert layout.images.loc[layout.images["source"] == "test", "id"].tolist() == ["a.jpg", "b.jpg", "c.jpg"]


def test_each_question_has_a_detection(layout_of: Any) -> None:
    layout = layout_of(IMAGES, TABLES, METRIC)
    assert {detection.question for detection in layout.detections} == {
        "subsets",
        "ids",
        "test",
        "labels",
        "classes",
        "groups",
        "metric",
        "submission",
    }


def test_numbers_like_ids_stay_text(tmp_path: Path) -> None:
    table = read_table(write_files(tmp_path, [], {"x.csv": "id,label\n007,1.0\nNA,null\n1e5,\n"}), "x.csv")
    assert table.rows.to_dict("list") == {"id": ["007", "NA", "1e5"], "label": ["1.0", "null", ""]}


@pytest.mark.parametrize(
    ("text", "metric"),
    [
        ("Categorization Accuracy", "accuracy"),
        ("Multiclass Loss", "log_loss"),
        ("LogLoss", "log_loss"),
        ("Area Under Receiver Operating Characteristic Curve", "roc_auc"),
        ("Mean Columnwise Area Under ROC Curve", "roc_auc"),
        ("QuadraticWeightedKappa", "quadratic_weighted_kappa"),
        ("MeanFScore", "micro_f1"),
        ("F1 (macro)", "macro_f1"),
        ("Macro F-Score", "macro_f1"),
        ("Balanced Multiclass Accuracy", "balanced_accuracy"),
        ("F-Score (Macro)", "macro_f1"),
        ("Mean F-Beta", ""),
        ("Weighted Multiclass Loss", ""),
        ("", ""),
        ("MAP@5", ""),
    ],
)
def test_kaggles_metrics(text: str, metric: str) -> None:
    assert parse_metric(text) == metric


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["t/train/00.tfrec", "sample_submission.csv"], "TFRecord"),
        (["train/a.dcm"], "DICOM"),
        (["train.bson", "t.csv"], "BSON"),
        (["cars.mat"], "MATLAB"),
        (["train.csv", "test.csv"], "tables"),
        (["train.json.7z", "labels.csv.zip"], "JSON"),
    ],
)
def test_a_listing_without_images_is_rejected(names: list[str], words: str) -> None:
    with pytest.raises(DataError, match=words):
        reject_listing((name, 1) for name in names)


@pytest.mark.parametrize(
    "names", [["train/1.JPG"], ["train.zip", "x.csv"], ["train.zip.001"], ["train.7z"], ["a.tar.gz"], []]
)
def test_a_listing_that_may_have_images_is_accepted(names: list[str]) -> None:
    reject_listing((name, 1) for name in names)


@pytest.mark.parametrize("extension", [".jpg", ".zip", ".001", ".gz", ".bz2", ".xz", "."])
def test_an_extension_that_images_may_have_is_accepted(extension: str) -> None:
    reject_extensions([(".csv", 1), (extension, 1)])
    with pytest.raises(DataError, match="1 table"):
        reject_extensions([(".csv", 1), (extension, 0)])


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), kind=st.sampled_from(["folders", "table", "one folder"]))
def test_the_order_of_rows_and_files_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, seed: int, kind: str
) -> None:
    ids = {f"{n}.jpg": "xyz"[n % 3] for n in range(12)}
    images = [
        f"train/{label}/{name}" if kind == "folders" else f"{'all' if kind == 'one folder' else 'train'}/{name}"
        for name, label in ids.items()
    ]
    images += [f"{'all' if kind == 'one folder' else 'test'}/{n}.jpg" for n in range(20, 25)]
    lines = [f"{name},{label},p{n // 2}" for n, (name, label) in enumerate(ids.items())]
    chance = random.Random(seed)
    layouts = []
    for number in range(2):
        if number:
            chance.shuffle(images)
            chance.shuffle(lines)
        tables = {
            "train.csv": "\n".join(["id,label,patient", *lines]),
            "sample_submission.csv": "\n".join(["id,x,y,z", *(f"{n}.jpg,0,0,1" for n in range(20, 25))]),
        }
        layouts.append(detect(write_files(tmp_path_factory.mktemp("source"), images, tables), Config(), "LogLoss"))
    first, second = layouts
    pd.testing.assert_frame_equal(first.images, second.images)
    assert (first.class_names, first.metric, first.submission, first.detections, first.findings) == (
        second.class_names,
        second.metric,
        second.submission,
        second.detections,
        second.findings,
    )


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.binary(max_size=200) | st.text(max_size=100).map(str.encode),
    name=st.sampled_from(["train.csv", "x.json", "classes.csv"]),
)
def test_any_file_is_read_or_rejected(tmp_path_factory: pytest.TempPathFactory, data: bytes, name: str) -> None:
    folder = write_files(tmp_path_factory.mktemp("source"), IMAGES, {"sample-submission.csv": SAMPLE, name: data})
    try:
        assert len(detect(folder, Config(), METRIC).images) == 10
    except (DataError, ConfigError) as error:
        assert "." in str(error)
