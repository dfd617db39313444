"""The layouts of datasets and of own folders, without a sample submission."""

import re
from pathlib import Path
from typing import Any

import pytest

from carclf.config import Config
from carclf.dataset.detection.detect import detect
from carclf.dataset.detection.result import Layout
from carclf.errors import ConfigError, DataError


def num_by_source(layout: Layout) -> dict[str, int]:
    return layout.images["source"].value_counts().to_dict()


def in_folders(folders: list[str], num: int = 2) -> list[str]:
    return [f"{folder}/{folder.replace('/', '-')}{n}.jpg" for folder in folders for n in range(num)]


def test_class_folders_without_a_split(layout_of: Any) -> None:
    layout = layout_of(in_folders(["Dataset/Bus", "Dataset/Car", "Dataset/motorcycle"]))
    assert layout.class_names == ("Bus", "Car", "motorcycle") and num_by_source(layout) == {"train": 6}
    assert layout.submission is None and layout.metric == "accuracy"


def test_three_given_subsets(layout_of: Any) -> None:
    layout = layout_of(
        in_folders([f"Cars_Body_Type/{part}/{name}" for part in ("train", "valid", "test") for name in ("SUV", "Van")])
    )
    assert num_by_source(layout) == {"train": 4, "val": 4, "holdout": 4}


def test_three_doubled_folders_and_unlabeled_images_to_predict(layout_of: Any) -> None:
    folders = [f"seg_{part}/seg_{part}/{name}" for part in ("train", "test") for name in ("sea", "street")]
    layout = layout_of([*in_folders(folders), "seg_pred/seg_pred/5.jpg"])
    assert num_by_source(layout) == {"train": 4, "holdout": 4, "test": 1}


def test_a_nested_duplicate_is_ignored(tmp_path: Path) -> None:
    for parent in ("flowers", "flowers/flowers"):
        for name in ("daisy", "rose"):
            folder = tmp_path / parent / name
            folder.mkdir(parents=True)
            for number in range(3):
                (folder / f"{number}.jpg").write_bytes(b"x" * number)
    layout = detect(tmp_path, Config(), "")
    assert layout.class_names == ("daisy", "rose") and len(layout.images) == 6
    assert [(finding.kind, finding.path) for finding in layout.findings] == [("ignored_data", "flowers/flowers")]


def test_a_nested_folder_with_other_images_is_no_duplicate(layout_of: Any) -> None:
    paths = [*in_folders(["train/cat", "train/dog"], 9), "train/train/cat/new.jpg"]
    assert [finding.kind for finding in layout_of(paths).findings] == ["unknown_class"]


def test_the_same_names_in_all_classes_become_paths(layout_of: Any) -> None:
    images = [
        f"fruits/{part}/{name}/0_{n}.jpg"
        for part in ("Training", "Test")
        for name in ("Apple", "Kiwi")
        for n in range(3)
    ]
    layout = layout_of([*images, "fruits/test-multiple_fruits/mix.jpg"])
    assert num_by_source(layout) == {"train": 6, "holdout": 6, "test": 1}
    assert "fruits/Test/Kiwi/0_1.jpg" in set(layout.images["id"])


def test_several_sizes_of_the_same_images_need_the_train_folder(layout_of: Any) -> None:
    images = in_folders(
        [f"{size}/{part}/{name}" for size in ("s100", "s50") for part in ("Training", "Test") for name in "AB"]
    )
    with pytest.raises(ConfigError, match=r"data\.train_folder"):
        layout_of(images)
    layout = layout_of(images, train_folder="s50/Training", test_folder="s50/Test")
    assert num_by_source(layout) == {"train": 4, "holdout": 4}


@pytest.mark.parametrize("names", [["bus", "car", "train"], ["test", "cat", "dog", "elk"]])
def test_a_class_may_be_called_like_a_subset(layout_of: Any, names: list[str]) -> None:
    assert layout_of(in_folders(names)).class_names == tuple(sorted(names))


def test_a_header_less_table_confirms_the_folders(layout_of: Any) -> None:
    names = {f"{n:05}.jpg": ("Ram C-V 2012", "Audi S4")[n % 2] for n in range(1, 9)}
    table = "".join(f"{name},{n * 7},{n * 9},{1 + n % 2}\n" for n, name in enumerate(names))
    paths = [f"car_data/car_data/train/{label}/{name}" for name, label in names.items()]
    layout = layout_of(paths, {"anno_train.csv": table, "names.csv": "Ram C/V 2012\nAudi S4\n"})
    assert layout.class_names == ("Audi S4", "Ram C-V 2012") and num_by_source(layout) == {"train": 8}


def test_a_slash_in_a_class_name_comes_from_the_table(layout_of: Any) -> None:
    names = {f"{n}.jpg": ("Ram C/V 2012", "Audi S4")[n % 2] for n in range(1, 9)}
    layout = layout_of(
        [f"train/{label.replace('/', '-')}/{name}" for name, label in names.items()],
        {"labels.csv": "id,label\n" + "".join(f"{k},{v}\n" for k, v in names.items())},
    )
    assert layout.class_names == ("Audi S4", "Ram C/V 2012") and not layout.findings


def test_a_header_less_label_table(layout_of: Any) -> None:
    layout = layout_of(
        [f"images/{n}0.jpg" for n in range(6)], {"list.csv": "".join(f"{n}0.jpg,{'ab'[n % 2]}\n" for n in range(6))}
    )
    assert layout.class_names == ("a", "b") and num_by_source(layout) == {"train": 6}


def test_a_table_with_paths_and_a_column_of_subsets(layout_of: Any) -> None:
    paths = [f"img/{name}/{n:03}.jpg" for name in ("air hockey", "polo") for n in range(3)]
    table = "class id,filepaths,labels,data set\n" + "".join(
        f"{int('polo' in path)},{path},{path.split('/')[1]},{('train', 'valid', 'test')[n % 3]}\n"
        for n, path in enumerate(paths)
    )
    layout = layout_of(paths, {"sports.csv": table}, label_source="table")
    assert layout.class_names == ("air hockey", "polo") and num_by_source(layout) == {
        "train": 2,
        "val": 2,
        "holdout": 2,
    }


def test_tables_of_given_subsets(layout_of: Any) -> None:
    tables = {
        f"{part}.csv": "image,label\n" + "".join(f"{part}{n}.jpg,{'ab'[n % 2]}\n" for n in range(4))
        for part in ("train", "val", "test")
    }
    layout = layout_of([f"images/{part}{n}.jpg" for part in ("train", "val", "test") for n in range(4)], tables)
    assert num_by_source(layout) == {"train": 4, "val": 4, "holdout": 4}


def test_a_table_of_unlabeled_images_is_the_test_set(layout_of: Any) -> None:
    tables = {
        "train.csv": "image,label\n" + "".join(f"{n}.jpg,{'ab'[n % 2]}\n" for n in range(4)),
        "test.csv": "image\n7.jpg\n8.jpg\n",
    }
    layout = layout_of([*(f"images/{n}.jpg" for n in range(4)), "images/7.jpg", "images/8.jpg", "images/9.jpg"], tables)
    assert num_by_source(layout) == {"train": 4, "test": 2} and layout.ignored == ("images/9.jpg",)


def test_a_class_that_the_training_images_lack_is_an_error(layout_of: Any) -> None:
    with pytest.raises(DataError, match=r"test has 1 class .*: elk"):
        layout_of(in_folders(["train/cat", "train/dog", "test/cat", "test/elk"]))


def test_a_subset_may_lack_classes_and_write_them_in_another_case(layout_of: Any) -> None:
    layout = layout_of(in_folders(["train/Cat", "train/Dog", "valid/cat"]))
    assert layout.images.loc[layout.images["source"] == "val", "label"].tolist() == ["Cat", "Cat"]


@pytest.mark.parametrize(
    ("images", "files", "words"),
    [
        ([f"cars_train/{n}.jpg" for n in range(3)], {"car_devkit/cars_meta.mat": b"x"}, "cars_meta.mat"),
        ([f"train/{a}/{b}/{a}{b}{n}.jpg" for a in "01" for b in "01" for n in range(2)], {}, r"data\.train_folder"),
        ([f"photos/{n}.jpg" for n in range(3)], {}, r"data\.label_table"),
        (
            [],
            {"train.csv": "label," + ",".join(f"pixel{n}" for n in range(20)) + "\n" + ",".join("1" * 21) + "\n"},
            "pixels",
        ),
        ([], {"train.tfrec": b"x"}, "TFRecord"),
        ([], {"train/1.dcm": b"x"}, "DICOM"),
        ([], {"train.bson": b"x"}, "BSON"),
    ],
)
def test_data_without_labels_or_images_are_rejected(
    layout_of: Any, images: list[str], files: dict[str, Any], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        layout_of(images, files)


def test_several_label_columns_need_a_setting(layout_of: Any) -> None:
    table = "image,breed,color\n" + "".join(f"{n}.jpg,{'ab'[n % 2]},{'rg'[n // 4]}\n" for n in range(8))
    images = [f"images/{n}.jpg" for n in range(8)]
    with pytest.raises(ConfigError, match=r"data\.label_column"):
        layout_of(images, {"train.csv": table})
    assert layout_of(images, {"train.csv": table}, label_column="Color").class_names == ("g", "r")


def test_several_label_tables_need_a_setting(layout_of: Any) -> None:
    images = [f"images/{n}.jpg" for n in range(8)]
    tables = {
        f"{name}.csv": "image,label\n" + "".join(f"{n}.jpg,{values[n % 2]}\n" for n in range(8))
        for name, values in (("a", "xy"), ("b", "uv"))
    }
    with pytest.raises(ConfigError, match=r"data\.label_table"):
        layout_of(images, tables)
    assert layout_of(images, tables, label_table="b.csv").class_names == ("u", "v")


def test_several_group_columns_need_a_setting(layout_of: Any) -> None:
    table = "image,label,patient,site\n" + "".join(f"{n}.jpg,{'ab'[n % 2]},p{n // 2},s{n // 3}\n" for n in range(8))
    images = [f"images/{n}.jpg" for n in range(8)]
    with pytest.raises(ConfigError, match=r"data\.group_column"):
        layout_of(images, {"train.csv": table})
    assert layout_of(images, {"train.csv": table}, group_column="site").images["group"].tolist()[:4] == [
        "s0",
        "s0",
        "s0",
        "s1",
    ]


def test_stems_that_meet_need_the_form_of_the_ids(layout_of: Any) -> None:
    table = "image,label\n" + "".join(f"{n}x,{'ab'[n % 2]}\n" for n in range(4))
    images = [*(f"images/{n}x.jpg" for n in range(4)), "images/0x.png"]
    with pytest.raises(ConfigError, match=r"data\.id_form"):
        layout_of(images, {"train.csv": table})
    assert num_by_source(layout_of(images, {"train.csv": table}, id_form="{id}.jpg")) == {"train": 4}


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("label_table", "x.csv"),
        ("id_column", "x"),
        ("label_column", "x"),
        ("group_column", "x"),
        ("train_folder", "x"),
        ("val_folder", "x"),
        ("test_folder", "x"),
        ("class_names", "x=Lada"),
        ("class_names", "x"),
        ("class_names", "a=L,b=L"),
        ("label_source", "json"),
        ("label_source", "folders"),
        ("metric", "quadratic_weighted_kappa"),
    ],
)
def test_a_setting_that_does_not_fit_is_named(layout_of: Any, setting: str, value: str) -> None:
    table = "image,label\n" + "".join(f"{n}.jpg,{'ab'[n % 2]}\n" for n in range(4))
    with pytest.raises(ConfigError, match=rf"data\.{setting}"):
        layout_of([f"images/{n}.jpg" for n in range(4)], {"train.csv": table}, **{setting: value})


@pytest.mark.parametrize(
    ("name", "header", "rows", "expected"),
    [
        ("classes.csv", "label,make,train,models", ["0,Acura,192,6", "1,Audi,192,14"], ("Acura", "Audi")),
        ("label_names.csv", "make,id,num", ["Acura,0,9", "Audi,1,9"], ("Acura", "Audi")),
        ("sizes.csv", "label,make,train", ["0,Acura,192", "1,Audi,192"], ("0", "1")),
        ("classes.csv", "label,make,model", ["0,Acura,TL", "1,Audi,S4"], ("0", "1")),
        ("classes.csv", "label,make,train", ["0,Acura,192", "1,Acura,192"], ("0", "1")),
        ("classes.csv", "label,make,train", ["0,Acura,192", "2,Audi,192"], ("0", "1")),
    ],
)
def test_a_wide_table_of_classes_names_them(
    layout_of: Any, name: str, header: str, rows: list[str], expected: tuple[str, ...]
) -> None:
    layout = layout_of(in_folders(["train/0", "train/1"]), {name: "\n".join([header, *rows])})
    assert layout.class_names == expected
    evidence = next(row.evidence for row in layout.detections if row.question == "classes")
    assert (f"make of {name}" in evidence) == (expected == ("Acura", "Audi"))


def test_class_names_of_the_settings_and_of_a_table(layout_of: Any) -> None:
    images = in_folders(["train/0", "train/1", "extra-data/0/1"])
    assert layout_of(images, class_names="0=Lada Priora,1=Ford, Focus").class_names == ("Ford, Focus", "Lada Priora")
    layout = layout_of(images, {"classes.csv": "0,Priora\n1,Focus\n"})
    assert layout.class_names == ("Focus", "Priora")
    assert layout.images.loc[layout.images["source"] == "extra", "label"].tolist() == ["Focus", "Focus"]


def test_an_archives_folder_above_the_training_folder_is_no_class(layout_of: Any) -> None:
    paths = [*in_folders(["inner/train/0", "inner/train/1"]), "test_upload/x.jpg", "test_upload/y.jpg"]
    layout = layout_of(paths, {"sample_submission.csv": "Id,Label\nx.jpg,a\ny.jpg,a\n"})
    assert layout.class_names == ("0", "1") and num_by_source(layout) == {"train": 4, "test": 2}


def test_counts_of_images_are_not_class_names(layout_of: Any) -> None:
    layout = layout_of(in_folders(["0", "1"]), {"counts.json": '{"0": 600, "1": 400}'})
    assert layout.class_names == ("0", "1")


def test_a_table_of_class_names_is_used_although_images_have_numbers_as_names(layout_of: Any) -> None:
    layout = layout_of(["0/0.jpg", "0/2.jpg", "1/1.jpg", "1/3.jpg"], {"classes.csv": "id,name\n0,cat\n1,dog\n"})
    assert layout.class_names == ("cat", "dog")


def test_probabilities_in_one_column_raise_config_error(layout_of: Any) -> None:
    paths = [*in_folders(["train/cat", "train/dog"]), "test/x.jpg"]
    with pytest.raises(ConfigError, match=r"submit\.kind"):
        layout_of(paths, {"sample_submission.csv": "id,cat\nx,0.5\n"}, kind="probabilities")


def test_a_linked_class_folder_is_read_and_a_loop_is_not(tmp_path: Path) -> None:
    for name in ("elsewhere/a.jpg", "source/cat/b.jpg"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "source/dog").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "source/cat/loop").symlink_to(tmp_path / "source")
    layout = detect(tmp_path / "source", Config(), "")
    assert layout.images["path"].tolist() == ["cat/b.jpg", "dog/a.jpg"]


def test_a_class_folder_with_a_blank_name_raises_data_error(layout_of: Any) -> None:
    with pytest.raises(DataError, match="blank"):
        layout_of(["cat/a.jpg", "dog/b.jpg", "  /c.jpg"])


def test_images_in_a_single_folder_have_no_labels(layout_of: Any) -> None:
    with pytest.raises(DataError, match=r"in one folder \(cat\)"):
        layout_of(["cat/a.jpg", "cat/b.jpg"])


def test_the_images_in_deeper_folders_are_named(layout_of: Any) -> None:
    with pytest.raises(DataError, match=r"2 of 4 are deeper \(first: dog/more/c\.jpg\)"):
        layout_of(["cat/a.jpg", "dog/b.jpg", "dog/more/c.jpg", "dog/more/d.jpg"])


def test_a_label_column_without_a_table_raises_config_error(layout_of: Any) -> None:
    with pytest.raises(ConfigError, match=r"data\.label_column"):
        layout_of(["cat/a.jpg", "dog/b.jpg"], label_column="make")


NESTED = [f"{patient}/{label}/{patient}_{n}.png" for patient in ("8863", "8900") for label in ("0", "1")
          for n in range(2)]


def test_images_in_folders_of_folders_need_the_level_of_the_class(layout_of: Any) -> None:
    with pytest.raises(ConfigError, match=r"data\.class_level to 1 \(8863, 8900\) or 2 \(0, 1\)"):
        layout_of(NESTED)
    layout = layout_of(NESTED, class_level=2)
    assert layout.class_names == ("0", "1")
    assert layout.images["label"].tolist() == [path.split("/")[1] for path in sorted(NESTED)]
    assert layout_of(NESTED, class_level=1).class_names == ("8863", "8900")
    assert layout_of(NESTED, label_source="file_names").class_names == ("8863", "8900")


def test_the_level_of_the_class_counts_from_the_folder_of_each_subset(layout_of: Any) -> None:
    images = [f"data/{subset}/{camera}/{label}/{n}.jpg" for subset in ("train", "val") for camera in ("left", "right")
              for label in ("ok", "scratch") for n in range(2)]
    layout = layout_of(images, class_level=2)
    assert layout.class_names == ("ok", "scratch")
    assert layout.images["source"].value_counts().to_dict() == {"train": 8, "val": 8}
    assert layout.images["label"].tolist() == [path.split("/")[3] for path in layout.images["path"]]


def test_images_without_a_folder_at_the_level_of_the_class_are_an_error(layout_of: Any) -> None:
    layout = layout_of([*NESTED, "8863/stray.png"], class_level=2)
    assert [(finding.kind, finding.path) for finding in layout.findings] == [("unknown_class", "8863/stray.png")]
    with pytest.raises(ConfigError, match=r"data\.class_level is 3"):
        layout_of(NESTED, class_level=3)


@pytest.mark.parametrize("images", [
    ["batch_a/ok/CAM_{n}.jpg", "batch_a/bad/CAM_{n}.jpg", "batch_b/ok/USB_{n}.jpg", "batch_b/bad/USB_{n}.jpg"],
    ["ok/CAM_{n}.jpg", "more/ok/USB_{n}.jpg"],
])
def test_prefixes_next_to_folders_that_may_be_classes_need_the_setting(layout_of: Any, images: list[str]) -> None:
    names = [path.format(n=n) for path in images for n in range(3)]
    with pytest.raises(ConfigError, match=r"data\.label_source to file_names"):
        layout_of(names)
    assert layout_of(names, label_source="file_names").class_names == ("CAM", "USB")


def test_prefixes_of_cameras_are_no_classes(layout_of: Any) -> None:
    with pytest.raises(DataError, match="no labels"):
        layout_of([f"photos/{camera}_{n:04}.jpg" for camera in ("IMG", "DSC") for n in range(4)])


def test_training_folders_of_classes_are_the_classes(layout_of: Any) -> None:
    images = [f"faces/training_{label}/{prefix}_{n}.jpg" for label, prefix in
              (("fake", "easy"), ("fake", "hard"), ("real", "real")) for n in range(3)]
    assert layout_of(images).class_names == ("training_fake", "training_real")


@pytest.mark.parametrize(("folder", "setting"), [("validation", "val_folder"), ("test", "test_folder")])
@pytest.mark.parametrize("num_images", [9, 60])
def test_class_folders_in_a_subset_next_to_others_name_the_setting(
    layout_of: Any, folder: str, setting: str, num_images: int
) -> None:
    """Below 90% of images in class folders there are no labels; above, the others are a finding."""
    images = [f"{label}/{n}.jpg" for label in ("cats", "dogs") for n in range(num_images)]
    images += [f"{folder}/{label}/{n}.jpg" for label in ("cats", "dogs") for n in range(3)]
    pattern = rf"data\.{setting} to {folder}"
    if num_images > 9:
        assert re.search(pattern, layout_of(images).findings[0].message)
    else:
        with pytest.raises(DataError, match=pattern):
            layout_of(images)
    assert len(layout_of(images, **{setting: folder}).images) == len(images)


def test_training_folders_without_classes_next_to_others_name_the_setting(layout_of: Any) -> None:
    images = [f"data/{role}/{label}/{n}.jpg" for role in ("train", "val") for label in "ab" for n in range(4)]
    images += [f"runs/classify/train/{n}.png" for n in range(4)]
    with pytest.raises(DataError, match=r"data/train.*data\.train_folder"):
        layout_of(images, {"runs/classify/train/results.csv": "epoch,loss\n1,0.5\n"})
    assert layout_of(images, train_folder="data/train").class_names == ("a", "b")


def test_a_folder_with_the_same_class_folders_is_a_subset_by_its_name(layout_of: Any) -> None:
    images = [f"{folder}/{label}/{label}-{n}.tif" for folder in ("NCT-CRC-HE-100K", "CRC-VAL-HE-7K")
              for label in ("ADI", "LYM", "TUM") for n in range(2)]
    sources = layout_of(images).images.set_index("path")["source"]
    assert set(sources[sources.index.str.startswith("CRC")]) == {"val"} and sources.value_counts()["train"] == 6


def test_the_tables_of_batches_name_the_images_in_their_folders(layout_of: Any) -> None:
    images = [f"batch{batch}/{n}.jpg" for batch in (1, 2) for n in range(4)]
    tables = {f"batch{batch}/labels.csv": "filename,label\n" + "".join(
        f"{n}.jpg,{['ok', 'bad'][(n + batch) % 2]}\n" for n in range(4)) for batch in (1, 2)}
    labels = layout_of(images, tables).images.set_index("path")["label"]
    assert labels["batch1/0.jpg"] == "bad" and labels["batch2/0.jpg"] == "ok" and len(labels) == 8


@pytest.mark.parametrize("folders", [("rgb", "bands"), ("v1", "v2")])
def test_tables_of_two_formats_of_the_images_need_the_training_folder(layout_of: Any, folders: tuple[str, str]) -> None:
    names = {folder: [f"{label}/{label}_{n}.{suffix}" for label in "ab" for n in range(4)]
             for folder, suffix in zip(folders, ("jpg", "tif"), strict=True)}
    tables = {f"{folder}/train.csv": "Filename,Label\n" + "".join(f"{name},{name[0]}\n" for name in names[folder])
              for folder in folders}
    images = [f"{folder}/{name}" for folder in folders for name in names[folder]]
    with pytest.raises(ConfigError, match=r"data\.train_folder"):
        layout_of(images, tables)
    assert len(layout_of(images, tables, train_folder=folders[0]).class_names) == 2


def test_tables_whose_headers_differ_in_case_are_parts(layout_of: Any) -> None:
    tables = {f"labels_{year}.csv": f"{header}\n" + "".join(f"{year}_{n}.jpg,{'ab'[n % 2]}\n" for n in range(4))
              for year, header in ((2023, "filename,label"), (2024, "Filename,Label"))}
    layout = layout_of([f"images/{year}_{n}.jpg" for year in (2023, 2024) for n in range(4)], tables)
    assert len(layout.images) == 8 and layout.findings == ()


def test_rows_without_a_value_are_not_read(layout_of: Any) -> None:
    table = "file;class\n" + "".join(f"{n}.jpg;{'ab'[n % 2]}\n" for n in range(4)) + ";\n ; \n"
    layout = layout_of([f"images/{n}.jpg" for n in range(4)], {"labels.csv": table})
    assert len(layout.images) == 4 and layout.findings == ()


PATIENTS = [f"patient_{patient:02}/slice_{n}.png" for patient in range(6) for n in range(2)]


@pytest.mark.parametrize("keys", ["patient_{:02}", "scans/patient_{:02}/"])
def test_a_table_about_numbered_folders_is_a_warning(layout_of: Any, keys: str) -> None:
    table = "patient,sex,diagnosis\n" + "".join(f"{keys.format(n)},{'mf'[n % 2]},{'ab'[n // 3]}\n" for n in range(6))
    layout = layout_of(PATIENTS, {"clinical.csv": table})
    assert [(finding.kind, finding.path) for finding in layout.findings] == [("unmatched_label_table", "clinical.csv")]
    assert "diagnosis" in layout.findings[0].message


def test_a_table_about_classes_with_names_is_no_warning(layout_of: Any) -> None:
    table = "species,kind\n" + "".join(f"{name},{kind}\n" for name, kind in (
        ("oak", "deciduous"), ("beech", "deciduous"), ("pine", "conifer")))
    assert layout_of([f"{name}/{n}.jpg" for name in ("oak", "beech", "pine") for n in range(2)],
                     {"species.csv": table}).findings == ()


def test_a_table_about_patients_does_not_name_their_first_images(layout_of: Any) -> None:
    images = [f"images/P{patient:03}_{n}.png" for patient in range(6) for n in range(1, 11)]
    table = "patient_id,age,diagnosis\n" + "".join(f"P{n:03},{40 + n},{'ab'[n // 3]}\n" for n in range(6))
    layout = layout_of(images, {"patients.csv": table})
    assert len(layout.images) == 60
    assert [finding.kind for finding in layout.findings] == ["unmatched_label_table"]


def test_folders_of_sites_and_classes_are_no_groups(layout_of: Any) -> None:
    images = [f"{site}/{label}/{n:03}.jpg" for site in ("siteA", "siteB") for label in ("ok", "ng") for n in range(3)]
    tables = {f"{site}/labels.csv": "file,label\n" + "".join(
        f"{label}/{n:03}.jpg,{label}\n" for label in ("ok", "ng") for n in range(3)) for site in ("siteA", "siteB")}
    layout = layout_of(images, tables)
    assert len(layout.images) == 12 and set(layout.images["group"]) == {""}
    assert layout.images["label"].tolist() == [path.split("/")[1] for path in layout.images["path"]]


@pytest.mark.parametrize("folder", ["part_{}", "images_00{}", "train/cam{}", "2024-05-0{}"])
def test_parts_that_all_have_the_same_prefixes_need_the_setting(layout_of: Any, folder: str) -> None:
    images = [f"{folder.format(part)}/{label}_{part}{n}.png" for part in (1, 2, 3) for label in ("glioma", "healthy")
              for n in range(3)]
    with pytest.raises(ConfigError, match=r"data\.label_source to folders or file_names"):
        layout_of(images)
    assert layout_of(images, label_source="file_names").class_names == ("glioma", "healthy")
    assert len(layout_of(images, label_source="folders").class_names) == 3


@pytest.mark.parametrize(("folders", "setting"), [
    (("originals", "thumbnails"), "train_folder"), (("cam_left", "cam_right"), "label_source"),
    (("224", "512"), "train_folder"), (("high_res", "low_res"), "train_folder")])
def test_folders_with_the_same_names_may_be_copies(layout_of: Any, folders: tuple[str, str], setting: str) -> None:
    images = [f"{folder}/{label}_{n}.jpg" for folder in folders for label in ("cat", "dog") for n in range(3)]
    with pytest.raises(ConfigError, match=rf"data\.{setting}"):
        layout_of(images)
    assert layout_of(images, label_source="folders").findings == ()
    assert layout_of(images, train_folder=folders[0]).class_names == ("cat", "dog")


@pytest.mark.parametrize(("folders", "prefixes"), [
    (("ok", "ng"), ("top", "side")), (("left", "right"), ("red", "blue"))])
def test_folders_with_the_same_names_of_files_may_be_classes(
    layout_of: Any, folders: tuple[str, ...], prefixes: tuple[str, ...]
) -> None:
    layout = layout_of([f"{folder}/{prefix}_{n}.jpg" for folder in folders for prefix in prefixes for n in range(3)])
    assert set(layout.class_names) == set(folders)
    assert [finding.kind for finding in layout.findings] == ["common_prefixes"]


def test_parts_with_subsets_and_other_classes_are_one_dataset(layout_of: Any) -> None:
    classes = {"part1": ("ant", "bee"), "part2": ("cow", "dog")}
    images = [f"{part}/{subset}/{name}/{n}.jpg" for part, names in classes.items() for name in names
              for subset in ("train", "val") for n in range(3)]
    layout = layout_of(images)
    assert layout.class_names == ("ant", "bee", "cow", "dog")
    assert layout.images["source"].value_counts().to_dict() == {"train": 12, "val": 12}


def test_tables_of_batches_in_other_formats_are_parts(layout_of: Any) -> None:
    suffixes = {"batch1": "jpg", "batch2": "png"}
    tables = {f"{folder}/labels.csv": "file,label\n" + "".join(f"{n}.{suffix},{'ab'[n % 2]}\n" for n in range(4))
              for folder, suffix in suffixes.items()}
    images = [f"{folder}/{n}.{suffix}" for folder, suffix in suffixes.items() for n in range(4)]
    assert len(layout_of(images, tables).images) == 8


@pytest.mark.parametrize(("prefixes", "num_findings"), [
    ("ok defect", 1), ("cam1 cam2", 0), ("P01 P02", 0), ("IMG DSC", 0)])
def test_common_prefixes_of_folders_are_a_warning_if_they_are_words(
    layout_of: Any, prefixes: str, num_findings: int
) -> None:
    images = [f"{folder}/{prefix}_{n}{number}.jpg" for number, folder in enumerate(("january", "may"))
              for prefix in prefixes.split() for n in range(3)]
    layout = layout_of(images)
    assert layout.class_names == ("january", "may")
    assert [finding.kind for finding in layout.findings] == ["common_prefixes"] * num_findings


def test_prefixes_of_other_subsets_do_not_matter_next_to_class_folders(layout_of: Any) -> None:
    images = [f"train/{label}/{prefix}_{n}.jpg" for label in "ab" for prefix in ("top", "low") for n in range(2)]
    layout = layout_of([*images, *(f"val/{label}/{prefix}_{n}.jpg" for label in "ab" for n, prefix in enumerate(
        ("top", "top", "far")))], label_source="folders")
    assert layout.images["source"].value_counts().to_dict() == {"train": 8, "val": 6}


@pytest.mark.parametrize("names", [
    "cam1_OK cam1_NG cam2_OK cam2_NG", "20240101_OK 20240101_NG 20240102_OK 20240102_NG",
    "berlin_healthy berlin_sick ulm_healthy ulm_sick", "KA.AN1 KA.HA1 KL.AN2 KL.HA1", "20_0_1 20_1_0 21_0_1 21_1_1"])
def test_several_parts_of_names_that_may_be_the_class_need_the_setting(layout_of: Any, names: str) -> None:
    images = [f"images/{name}_{n:03}.jpg" for name in names.split() for n in range(3)]
    with pytest.raises(ConfigError, match=r"data\.label_source to file_names.*data\.label_table"):
        layout_of(images)
    assert len(layout_of(images, label_source="file_names").class_names) == 2


@pytest.mark.parametrize("names", [
    "apple_cam1 apple_cam2 pear_cam1 pear_cam2", "ok_P01 ok_P02 ng_P01 ng_P02", "dog_beagle dog_husky cat_tabby",
    "ok_20240101 ok_20240102 ng_20240101 ng_20240102", "cat_1a cat_1b dog_1a dog_1b", "cat_img cat_dsc dog_img dog_dsc",
    "cat_train cat_test dog_train dog_test"])
def test_numbers_and_kinds_after_a_prefix_are_no_classes(layout_of: Any, names: str) -> None:
    images = [f"images/{name}_{n:03}_x.jpg" for name in names.split() for n in range(3)]
    assert len(layout_of(images).class_names) == 2


@pytest.mark.parametrize("folder", ["grade_{}", "class{}", "{}"])
def test_numbered_classes_may_have_the_same_prefixes(layout_of: Any, folder: str) -> None:
    images = [f"{folder.format(number)}/{eye}_{number}{n}.png" for number in (1, 2) for eye in ("near", "far")
              for n in range(3)]
    assert len(layout_of(images).class_names) == 2


@pytest.mark.parametrize(("header", "num_findings"), [
    ("patient_id,diagnosis", 1), ("PatientID,result", 1), ("id,label", 1), ("id,supercategory", 0)])
def test_a_table_about_folders_with_numbers_is_a_warning_if_its_columns_are_called_so(
    layout_of: Any, header: str, num_findings: int
) -> None:
    images = [f"{folder:03}/{n}.png" for folder in range(1, 7) for n in range(2)]
    layout = layout_of(images, {"table.csv": f"{header}\n" + "".join(f"{n},{'ab'[n // 4]}\n" for n in range(1, 7))})
    assert [finding.kind for finding in layout.findings] == ["unmatched_label_table"] * num_findings


@pytest.mark.parametrize("labels", [("ok", "ok ng", "ok ng"), ("ok", "ok ng", "ng")])
def test_a_batch_may_have_only_one_class(layout_of: Any, labels: tuple[str, ...]) -> None:
    images = [f"batch_{batch}/{n}.jpg" for batch in range(3) for n in range(4)]
    tables = {f"batch_{batch}/labels.csv": "filename,label\n" + "".join(
        f"{n}.jpg,{(names.split() * 4)[n]}\n" for n in range(4)) for batch, names in enumerate(labels)}
    layout = layout_of(images, tables)
    assert len(layout.images) == 12 and layout.class_names == ("ng", "ok") and layout.findings == ()
