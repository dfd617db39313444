"""The layouts of competitions, one by one: what is detected, and the one setting that resolves an ambiguity."""

import json
from typing import Any

import pytest

from carclf.dataset.detection.result import Layout
from carclf.errors import ConfigError, DataError

SAMPLE = "sample_submission.csv"


def labels(layout: Layout, source: str = "train") -> dict[str, str]:
    rows = layout.images[layout.images["source"] == source]
    return dict(zip(rows["path"], rows["label"], strict=True))


def test_ids(layout: Layout) -> list[str]:
    return layout.images.loc[layout.images["source"] == "test", "id"].tolist()


test_ids.__test__ = False  # type: ignore[attr-defined]


def rows(header: str, values: dict[str, str]) -> str:
    return "\n".join([header, *(f"{key},{value}" for key, value in values.items())]) + "\n"


def sample(header: str, ids: list[str], value: str) -> str:
    return rows(header, dict.fromkeys(ids, value))


CARS = [f"train/{label}/{label}{n}.jpg" for label in range(3) for n in range(3)] + [
    "test_upload/a.jpg",
    "test_upload/b.jpg",
]


@pytest.mark.parametrize("prefix", ["", "car/", "train", "data/data/"])
def test_numbered_class_folders_with_a_table_and_a_doubled_folder(layout_of: Any, prefix: str) -> None:
    paths = (
        [path.replace("train/", "train/train/") for path in CARS] if prefix == "train" else [prefix + p for p in CARS]
    )
    train = rows("Id,Category", {f"{label}{n}.jpg": str(label) for label in range(3) for n in range(3)})
    layout = layout_of(
        paths,
        {"train.csv": train, "sample-submission.csv": sample("Id,Category", ["a.jpg", "b.jpg"], "0")},
        metric="Categorization Accuracy",
    )
    assert layout.class_names == ("0", "1", "2")
    assert set(labels(layout).values()) == {"0", "1", "2"} and len(labels(layout)) == 9
    assert test_ids(layout) == ["a.jpg", "b.jpg"]
    assert layout.submission is not None
    assert (layout.submission.kind, layout.submission.id_column, layout.submission.columns) == (
        "label",
        "Id",
        ("Category",),
    )
    assert layout.submission.values == {"0": "0", "1": "1", "2": "2"}
    assert layout.metric == "accuracy" and not layout.findings


def test_stems_and_one_probability_per_class(layout_of: Any) -> None:
    train = {f"{n}a": ("pug", "shih-tzu")[n % 2] for n in range(6)}
    layout = layout_of(
        [*(f"train/{stem}.jpg" for stem in train), "test/ff.jpg"],
        {"labels.csv": rows("id,breed", train), SAMPLE: "id,pug,shih-tzu\nff,0.5,0.5\n"},
    )
    assert labels(layout) == {f"train/{stem}.jpg": breed for stem, breed in train.items()}
    assert layout.submission is not None and layout.submission.kind == "probabilities"
    assert layout.submission.values == {"pug": "pug", "shih-tzu": "shih-tzu"}
    assert layout.metric == "log_loss" and test_ids(layout) == ["ff"]


def test_class_folders_with_spaces_and_names_to_submit(layout_of: Any) -> None:
    images = [f"train/{name}/{n}.png" for n in range(4) for name in ("Black-grass", "Common wheat")]
    layout = layout_of([*images, "test/z.png"], {SAMPLE: "file,species\nz.png,Black-grass\n"}, metric="MeanFScore")
    assert layout.class_names == ("Black-grass", "Common wheat") and layout.metric == "micro_f1"
    assert layout.submission is not None and layout.submission.kind == "label"
    assert layout.images["id"].is_unique  # names that repeat in the classes are replaced by paths


def test_numbers_named_by_a_json_file_are_submitted_as_numbers(layout_of: Any) -> None:
    train = {f"{n}.jpg": str(n % 2) for n in range(6)}
    layout = layout_of(
        [*(f"train_images/{name}" for name in train), "test_images/9.jpg"],
        {
            "train.csv": rows("image_id,label", train),
            SAMPLE: "image_id,label\n9.jpg,4\n",
            "label_num_to_disease_map.json": '{"0": "Blight", "1": "Healthy"}',
        },
        metric="Categorization Accuracy",
    )
    assert layout.class_names == ("Blight", "Healthy") and layout.submission is not None
    assert layout.submission.values == {"Blight": "0", "Healthy": "1"}


def test_folders_and_table_agree_and_an_empty_target_takes_the_labels(layout_of: Any) -> None:
    train = {f"1{n}.jpg": ("blast", "tungro")[n % 2] + f",v{n % 3},{40 + n}" for n in range(8)}
    layout = layout_of(
        [*(f"train_images/{value.split(',')[0]}/{name}" for name, value in train.items()), "test_images/2.jpg"],
        {"train.csv": rows("image_id,label,variety,age", train), SAMPLE: "image_id,label\n2.jpg,\n"},
    )
    assert layout.class_names == ("blast", "tungro") and not layout.findings
    assert layout.submission is not None and layout.submission.kind == "label"


def test_one_folder_for_train_and_test_with_one_hot_columns(layout_of: Any) -> None:
    train = {f"Train_{n}": ("1,0,0", "0,1,0", "0,0,1")[n % 3] for n in range(6)}
    layout = layout_of(
        [f"images/T{name}.jpg" for name in [*(f"rain_{n}" for n in range(6)), "est_0", "est_1"]],
        {
            "train.csv": rows("image_id,healthy,rust,scab", train),
            "test.csv": "image_id\nTest_0\nTest_1\n",
            SAMPLE: sample("image_id,healthy,rust,scab", ["Test_0", "Test_1"], "0.3,0.3,0.4"),
        },
        metric="Mean Column-wise ROC AUC",
    )
    assert labels(layout)["images/Train_1.jpg"] == "rust" and test_ids(layout) == ["Test_0", "Test_1"]
    assert layout.metric == "roc_auc"


@pytest.mark.parametrize(("setting", "group"), [({}, "p0"), ({"group_column": "none"}, "")])
def test_drivers_are_groups(layout_of: Any, setting: dict[str, str], group: str) -> None:
    images = {f"img_{n}.jpg": f"c{n % 2}" for n in range(8)}
    table = "subject,classname,img\n" + "".join(
        f"p{n // 3},{label},{name}\n" for n, (name, label) in enumerate(images.items())
    )
    layout = layout_of(
        [*(f"imgs/train/{label}/{name}" for name, label in images.items()), "imgs/test/img_9.jpg"],
        {"driver_imgs_list.csv": table, SAMPLE: "img,c0,c1\nimg_9.jpg,0.5,0.5\n"},
        **setting,
    )
    groups = layout.images.set_index("id")["group"]
    assert groups["img_0.jpg"] == groups["img_1.jpg"] == group
    assert labels(layout)["imgs/train/c1/img_1.jpg"] == "c1" and not layout.findings


PETS = [f"train/{name}.{n}.jpg" for name in ("cat", "dog") for n in range(3)] + ["test1/1.jpg", "test1/2.jpg"]


@pytest.mark.parametrize(
    ("value", "metric", "kind"),
    [
        ("0.5", "", "positive"),
        ("0", "LogLoss", "positive"),
        ("0", "Categorization Accuracy", "label"),
    ],
)
def test_prefixes_of_file_names_with_the_positive_class(layout_of: Any, value: str, metric: str, kind: str) -> None:
    layout = layout_of(PETS, {SAMPLE: sample("id,label", ["1", "2"], value)}, metric, positive_class="dog")
    assert labels(layout)["train/dog.2.jpg"] == "dog" and layout.submission is not None
    assert (layout.submission.kind, layout.submission.positive_class) == (kind, "dog")
    if kind == "label":
        assert layout.submission.values == {"cat": "0", "dog": "1"}


def test_which_prefix_is_positive_must_be_set(layout_of: Any) -> None:
    with pytest.raises(ConfigError, match=r"submit\.positive_class"):
        layout_of(PETS, {SAMPLE: sample("id,label", ["1", "2"], "0.5")})


CANCER = {f"{n:x}{n:x}f": str(n % 2) for n in range(6)}
CANCER_IMAGES = [*(f"train/{stem}.tif" for stem in CANCER), "test/aaa.tif"]


@pytest.mark.parametrize(
    ("metric", "kind"),
    [
        ("Area Under Receiver Operating Characteristic Curve", "positive"),
        ("Categorization Accuracy", "label"),
        ("F1", "label"),
    ],
)
def test_binary_numbers_are_submitted_as_the_metric_needs(layout_of: Any, metric: str, kind: str) -> None:
    layout = layout_of(
        CANCER_IMAGES, {"train_labels.csv": rows("id,label", CANCER), SAMPLE: "id,label\naaa,0\n"}, metric
    )
    assert layout.submission is not None and layout.submission.kind == kind
    assert layout.submission.positive_class == ("1" if kind == "positive" else "")


def test_binary_numbers_without_a_metric_are_ambiguous(layout_of: Any) -> None:
    tables = {"train_labels.csv": rows("id,label", CANCER), SAMPLE: "id,label\naaa,0\n"}
    with pytest.raises(ConfigError, match=r"submit\.kind"):
        layout_of(CANCER_IMAGES, tables)
    layout = layout_of(CANCER_IMAGES, tables, kind="positive")
    assert layout.submission is not None and layout.submission.positive_class == "1"


def test_ordinal_classes_and_kappa(layout_of: Any) -> None:
    train = {f"{n}0ab": str(n % 3) for n in range(9)}
    layout = layout_of(
        [*(f"train_images/{stem}.png" for stem in train), "test_images/b7.png"],
        {"train.csv": rows("id_code,diagnosis", train), SAMPLE: "id_code,diagnosis\nb7,0\n"},
        metric="QuadraticWeightedKappa",
    )
    assert layout.metric == "quadratic_weighted_kappa" and layout.class_names == ("0", "1", "2")


def test_the_same_ids_in_train_and_test(layout_of: Any) -> None:
    train = {str(n): ("frog", "truck")[n % 2] for n in range(1, 7)}
    layout = layout_of(
        [f"{folder}/{n}.png" for folder in ("train", "test") for n in train],
        {"trainLabels.csv": rows("id,label", train), "sampleSubmission.csv": sample("id,label", list(train), "frog")},
    )
    assert labels(layout)["train/1.png"] == "truck" and test_ids(layout) == list(train)


def test_the_same_ids_in_folders_without_meaning_need_the_test_folder(layout_of: Any) -> None:
    train = {str(n): ("frog", "truck")[n % 2] for n in range(1, 7)}
    images = [f"{folder}/{n}.png" for folder in ("a", "b") for n in train]
    tables = {"trainLabels.csv": rows("id,label", train), SAMPLE: sample("id,label", list(train), "frog")}
    with pytest.raises(ConfigError, match=r"data\.test_folder"):
        layout_of(images, tables)
    layout = layout_of(images, tables, test_folder="b")
    assert set(labels(layout)) == {f"a/{n}.png" for n in train}


def test_several_sample_submissions_need_a_setting_and_ids_may_be_paths(layout_of: Any) -> None:
    images = [f"train/{name}/{name}{n}.jpg" for name in ("ALB", "YFT") for n in range(3)]
    images += ["test_stg1/x.jpg", "test_stg2/x.jpg"]
    tables = {
        "sample_submission_stg1.csv": "image,ALB,YFT\nx.jpg,0.5,0.5\n",
        "sample_submission_stg2.csv": "image,ALB,YFT\ntest_stg2/x.jpg,0.5,0.5\n",
    }
    with pytest.raises(ConfigError, match=r"submit\.sample"):
        layout_of(images, tables)
    layout = layout_of(images, tables, sample="sample_submission_stg2.csv")
    assert labels(layout, "test") == {"test_stg2/x.jpg": ""} and test_ids(layout) == ["test_stg2/x.jpg"]


def test_eyes_of_one_patient_are_a_group(layout_of: Any) -> None:
    train = {f"{n}_{eye}": str(n % 3) for n in range(6) for eye in ("left", "right")}
    layout = layout_of(
        [*(f"train/{stem}.jpeg" for stem in train), "test/9_left.jpeg"],
        {"trainLabels.csv": rows("image,level", train), "sampleSubmission.csv": "image,level\n9_left,0\n"},
    )
    assert layout.images.set_index("id").loc[["1_left.jpeg", "1_right.jpeg"], "group"].tolist() == ["1", "1"]


def test_feature_columns_are_no_labels(layout_of: Any) -> None:
    train = {str(n): ("Acer,0.01,3", "Alnus,0.02,3")[n % 2] for n in range(1, 9)}
    layout = layout_of(
        [f"images/{n}.jpg" for n in range(1, 11)],
        {
            "train.csv": rows("id,species,margin1,shape1", train),
            SAMPLE: sample("id,Acer,Alnus", ["9", "10"], "0.5,0.5"),
        },
    )
    assert labels(layout)["images/1.jpg"] == "Alnus" and test_ids(layout) == ["10", "9"]


def test_the_sample_may_name_no_column_of_the_table(layout_of: Any) -> None:
    train = {f"{n}ab": f"{n % 3},site{n % 2}" for n in range(12)}
    layout = layout_of(
        [*(f"train_images/{stem}.jpg" for stem in train), "test_images/zz.jpg"],
        {"train.csv": rows("id,category_id,location", train), SAMPLE: "Id,Predicted\nzz,0\n"},
        metric="MacroFScore",
    )
    assert layout.class_names == ("0", "1", "2") and layout.metric == "macro_f1"
    assert set(layout.images["group"]) == {"site0", "site1", ""}


def test_ids_are_relative_paths_in_one_folder(layout_of: Any) -> None:
    train = {f"images/{n}.jpg": ("acer", "maclura")[n % 2] for n in range(6)}
    layout = layout_of(
        [*train, "images/7.jpg"],
        {
            "train.csv": rows("image,label", train),
            "test.csv": "image\nimages/7.jpg\n",
            SAMPLE: "image,label\nimages/7.jpg,acer\n",
        },
    )
    assert labels(layout) == train and test_ids(layout) == ["images/7.jpg"]


@pytest.mark.parametrize("with_sample", [True, False])
def test_numeric_prefixes_with_given_validation(layout_of: Any, with_sample: bool) -> None:
    images = [
        f"food11/{folder}/{label}_{n}.jpg"
        for folder in ("training", "validation")
        for label in range(3)
        for n in range(2)
    ]
    layout = layout_of(
        [*images, "food11/test/0001.jpg"], {SAMPLE: "Id,Category\n0001,0\n"} if with_sample else {}, metric="accuracy"
    )
    assert len(labels(layout, "val")) == 6 and labels(layout)["food11/training/2_1.jpg"] == "2"
    assert test_ids(layout) == (["0001"] if with_sample else ["0001.jpg"])


def test_unpadded_ids_of_padded_files(layout_of: Any) -> None:
    images = [f"train/train/{name}/{name}{n}.jpg" for name in ("Car", "Bus") for n in range(3)]
    layout = layout_of(
        [*images, *(f"test/testset/{n:06}.jpg" for n in range(3))],
        {SAMPLE: sample("Id,Category", ["0", "1", "2"], "Car")},
    )
    assert test_ids(layout) == ["0", "1", "2"]


def test_a_common_suffix_and_scenes_as_groups(layout_of: Any) -> None:
    ids = [f"{guid}/{n:04}" for guid in ("ab12", "cd34", "ef56") for n in range(3)]
    train = {image_id: str(number % 2) for number, image_id in enumerate(ids)}
    layout = layout_of(
        [*(f"trainval/{image_id}_image.jpg" for image_id in ids), "test/0a0b/0000_image.jpg"],
        {"labels.csv": rows("guid/image,label", train), SAMPLE: "guid/image,label\n0a0b/0000,0\n"},
        metric="accuracy",
    )
    assert test_ids(layout) == ["0a0b/0000"] and labels(layout)["trainval/ab12/0001_image.jpg"] == "1"
    assert layout.images["group"].nunique() == 4


def test_coco_json(layout_of: Any) -> None:
    content = json.dumps({
        "images": [{"id": n, "file_name": f"train/{n}0.jpg"} for n in range(4)],
        "annotations": [{"image_id": n, "category_id": 5 + n % 2 * 2} for n in range(4)],
        "categories": [{"id": 5, "name": "oak"}, {"id": 7, "name": "elm"}],
    })
    layout = layout_of(
        [*(f"train/{n}0.jpg" for n in range(4)), "test/77.jpg"],
        {
            "train2019.json": content,
            "test2019.json": '{"images": [{"id": 123, "file_name": "test/77.jpg"}]}',
            "kaggle_sample_submission.csv": "id,predicted\n123,5\n",
        },
        metric="accuracy",
    )
    assert layout.class_names == ("elm", "oak") and labels(layout)["train/10.jpg"] == "elm"
    assert test_ids(layout) == ["123"] and layout.submission is not None
    assert layout.submission.values == {"oak": "5", "elm": "7"}


def test_records_with_copies_of_the_images_are_ignored_with_an_info(layout_of: Any) -> None:
    train = {f"{n}.jpg": str(n % 2) for n in range(6)}
    records = {f"{part}_tfrecords/ld_{part}0{n}-1.tfrec": b"x" for part in ("train", "test") for n in range(2)}
    layout = layout_of(
        [*(f"train_images/{name}" for name in train), "test_images/9.jpg"],
        {"train.csv": rows("image_id,label", train), SAMPLE: "image_id,label\n9.jpg,4\n", **records},
        metric="Categorization Accuracy",
    )
    assert labels(layout) == {f"train_images/{name}": label for name, label in train.items()}
    assert layout.ignored == tuple(sorted(records))
    (finding,) = layout.findings
    assert (finding.severity, finding.path) == ("info", "test_tfrecords/ld_test00-1.tfrec")


MELANOMA = {f"ISIC_{n:03}": f"IP_{n // 2},{n % 2}" for n in range(8)}
MELANOMA_TABLES = {
    "train.csv": rows("image_name,patient_id,target", MELANOMA),
    SAMPLE: "image_name,target\nISIC_901,0\nISIC_902,0\n",
    **{f"train/{stem}.dcm": b"x" for stem in MELANOMA},
}


def melanoma_images(folder: str, suffix: str) -> list[str]:
    return [*(f"{folder}/train/{stem}.{suffix}" for stem in MELANOMA),
            *(f"{folder}/test/ISIC_{n}.{suffix}" for n in (901, 902))]


def test_dicom_copies_of_the_images_are_ignored(layout_of: Any) -> None:
    layout = layout_of(melanoma_images("jpeg", "jpg"), MELANOMA_TABLES, "AUC")
    assert set(labels(layout)) == {f"jpeg/train/{stem}.jpg" for stem in MELANOMA}
    assert [finding.severity for finding in layout.findings] == ["info"]
    assert layout.images.set_index("id").loc["ISIC_003.jpg", "group"] == "IP_1"


def test_copies_in_several_formats_need_the_folders(layout_of: Any) -> None:
    images = melanoma_images("jpeg", "jpg") + melanoma_images("png", "png")
    with pytest.raises(ConfigError, match=r"data\.test_folder"):
        layout_of(images, MELANOMA_TABLES, "AUC")
    with pytest.raises(ConfigError, match=r"data\.train_folder"):
        layout_of(images, MELANOMA_TABLES, "AUC", test_folder="jpeg/test")
    layout = layout_of(images, MELANOMA_TABLES, "AUC", train_folder="jpeg/train", test_folder="jpeg/test")
    assert set(labels(layout)) == {f"jpeg/train/{stem}.jpg" for stem in MELANOMA}
    assert test_ids(layout) == ["ISIC_901", "ISIC_902"]


HOTELS = [f"train_images/{chain}/{chain}{n}.jpg" for chain in range(3) for n in range(4)]


def test_lying_folders_lose_against_the_target_column(layout_of: Any) -> None:
    table = rows("image,hotel_id", {path.split("/")[-1]: str(100 + n % 2) for n, path in enumerate(HOTELS)})
    layout = layout_of(
        [*HOTELS, "test_images/a.jpg"], {"train.csv": table, SAMPLE: "image,hotel_id\na.jpg,100\n"}, metric="accuracy"
    )
    assert layout.class_names == ("100", "101")


def test_folders_that_contradict_the_table_need_a_setting(layout_of: Any) -> None:
    table = rows("image,hotel", {path.split("/")[-1]: str(100 + n % 2) for n, path in enumerate(HOTELS)})
    with pytest.raises(ConfigError, match=r"data\.label_source"):
        layout_of(HOTELS, {"train.csv": table})
    assert layout_of(HOTELS, {"train.csv": table}, label_source="folders").class_names == ("0", "1", "2")
    assert layout_of(HOTELS, {"train.csv": table}, label_source="table").class_names == ("100", "101")


def test_a_column_called_id_may_be_the_label(layout_of: Any) -> None:
    train = {f"{n:x}e.jpg": ("w_1", "w_2")[n % 2] for n in range(6)}
    layout = layout_of(
        [*(f"train/{name}" for name in train), "test/z.jpg"],
        {"train.csv": rows("Image,Id", train), SAMPLE: "Image,Id\nz.jpg,w_1\n"},
    )
    assert layout.class_names == ("w_1", "w_2")


@pytest.mark.parametrize(
    ("header", "values", "target"),
    [
        ("id,labels", ["scab", "rust", "scab rust", "rust"], "labels"),
        ("id,attribute_ids", ["1 2", "3 4", "2 3", "1 2"], "attribute_ids"),
        ("id,a,b", ["1,1", "0,1", "1,0", "0,0"], ""),
    ],
)
def test_several_labels_per_image_are_rejected(layout_of: Any, header: str, values: list[str], target: str) -> None:
    table = rows(header, {f"{n}x.jpg": value for n, value in enumerate(values)})
    with pytest.raises(DataError, match="several labels"):
        layout_of([f"train/{n}x.jpg" for n in range(4)], {"train.csv": table})


def test_lists_of_classes_are_rejected(layout_of: Any) -> None:
    table = rows("Image,Id", {f"{n}x.jpg": ("w_1", "w_2")[n % 2] for n in range(4)})
    with pytest.raises(DataError, match="sample_submission"):
        layout_of(
            [*(f"train/{n}x.jpg" for n in range(4)), "test/z.jpg"],
            {"train.csv": table, SAMPLE: "Image,Id\nz.jpg,w_1 w_2\n"},
        )


def test_numbers_in_the_table_for_names_of_folders_are_submitted(layout_of: Any) -> None:
    images = {f"{n}q.jpg": n % 2 for n in range(6)}
    layout = layout_of(
        [*(f"train/{('van', 'suv')[label]}/{name}" for name, label in images.items()), "test/z.jpg"],
        {"train.csv": rows("id,Category", {k: str(v) for k, v in images.items()}), SAMPLE: "id,Category\nz.jpg,0\n"},
        metric="accuracy",
    )
    assert layout.class_names == ("suv", "van") and layout.submission is not None
    assert layout.submission.values == {"van": "0", "suv": "1"}


@pytest.mark.parametrize(("header", "row", "written"), [
    ("Category,Id", "cat,{}", "Category,Id"), (",id,label", "{n},{},cat", "id,label"),
    ("cat,image,dog", "0.5,{},0.5", "cat,image,dog")])
def test_the_ids_of_a_sample_are_the_column_that_names_images(
    layout_of: Any, header: str, row: str, written: str
) -> None:
    images = [f"train/{name}/{name}{n}.jpg" for name in ("cat", "dog") for n in range(4)]
    sample = f"{header}\n" + "".join(row.format(f"t{n}.jpg", n=n) + "\n" for n in range(3))
    layout = layout_of([*images, *(f"test/0/t{n}.jpg" for n in range(3))], {SAMPLE: sample})
    assert layout.submission is not None and layout.test_ids == ("t0.jpg", "t1.jpg", "t2.jpg")
    assert ",".join(layout.submission.header) == written


def test_the_setting_names_the_ids_of_a_sample(layout_of: Any) -> None:
    images = [f"train/{name}/{name}{n}.jpg" for name in ("cat", "dog") for n in range(4)] + ["test/a.jpg", "test/b.jpg"]
    sample = {SAMPLE: "label,file\ncat,a.jpg\ndog,b.jpg\n"}
    with pytest.raises(DataError, match="No id of"):
        layout_of(images, sample)
    assert layout_of(images, sample, id_column="file").test_ids == ("a.jpg", "b.jpg")
    with pytest.raises(DataError, match=r"data\.id_column"):
        layout_of(images, {SAMPLE: "label,file\ncat,a.jpg\ncat,a.jpg\n"})
