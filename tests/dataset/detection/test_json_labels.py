"""Labels in JSON files: COCO JSON, labels by file name, and lists of records."""

import functools
import json
from typing import Any

import pytest

from carclf.errors import ConfigError, DataError

NAMES = [f"{n}.jpg" for n in range(8)]
CLASSES = ["suv", "van"]
IMAGES = [f"images/{name}" for name in NAMES]


@pytest.mark.parametrize("data", [
    {name: CLASSES[n % 2] for n, name in enumerate(NAMES)},
    {f"images/{name}": CLASSES[n % 2] for n, name in enumerate(NAMES)},
    [{"image": name, "kind": CLASSES[n % 2], "box": [1, 2]} for n, name in enumerate(NAMES)],
    [{"image": name, "kind": CLASSES[n % 2], "width": 100 + n} for n, name in enumerate(NAMES)],
    [{"image": name, "kind": [CLASSES[n % 2]], "box": None if n else [1]} for n, name in enumerate(NAMES)],
    [{"image": f"/home/x/photos/{name}", "kind": CLASSES[n % 2]} for n, name in enumerate(NAMES)],
    [{"image": name.replace(".jpg", ".PNG"), "kind": CLASSES[n % 2]} for n, name in enumerate(NAMES)],
    {name: {"kind": CLASSES[n % 2], "box": [1]} for n, name in enumerate(NAMES)},
    {"info": {"version": 1}, "data": [{"image": name, "kind": CLASSES[n % 2]} for n, name in enumerate(NAMES)]},
])
def test_labels_by_file_name_and_records_are_read_like_tables(layout_of: Any, data: object) -> None:
    layout = layout_of(IMAGES, {"labels.json": json.dumps(data)})
    assert layout.images["label"].tolist() == CLASSES * 4
    assert layout.findings == ()


@pytest.mark.parametrize("data", [
    {"0": "suv", "1": "van"}, {"suv": 0, "van": 1}, {"epochs": 3, "seed": 1, "size": 224, "name": "x"}, [], [1], [[]],
    "text", {}, [{}], [{"a": []}], [{"0.jpg": {"box": [1, 2]}}],
    functools.reduce(lambda data, _: [data], range(900), 1),
])
def test_other_json_files_next_to_class_folders_change_nothing(layout_of: Any, data: object) -> None:
    images = [f"{CLASSES[n % 2]}/{name}" for n, name in enumerate(NAMES)]
    layout = layout_of(images, {"other.json": json.dumps(data)})
    assert layout.class_names == ("suv", "van") and layout.findings == ()


def coco_of(categories: list[dict[str, object]]) -> str:
    return json.dumps({
        "images": [{"id": n, "file_name": name} for n, name in enumerate(NAMES)], "categories": categories,
        "annotations": [{"image_id": n, "category_id": n % 2} for n in range(8)]})


@pytest.mark.parametrize(("names", "class_names", "kinds"), [
    (["van", "suv"], ("suv", "van"), []),
    (["van", "van"], ("0", "1"), ["unnamed_classes"]),
    ([None, None], ("0", "1"), ["unnamed_classes"]),
])
def test_categories_without_different_names_are_reported(
    layout_of: Any, names: list[str | None], class_names: tuple[str, ...], kinds: list[str]
) -> None:
    categories = [{"id": n} | ({"name": name} if name else {}) for n, name in enumerate(names)]
    layout = layout_of(IMAGES, {"labels.json": coco_of(categories)})
    assert layout.class_names == class_names and [finding.kind for finding in layout.findings] == kinds
    layout = layout_of(IMAGES, {"labels.json": coco_of(categories)}, class_names="0=van,1=suv")
    assert layout.class_names == ("suv", "van") and layout.findings == ()


def test_a_record_may_lack_a_field_or_have_null(layout_of: Any) -> None:
    data: list[dict[str, object]] = [{"image": name, "kind": CLASSES[n % 2], "patient": n // 2}
                                     for n, name in enumerate(NAMES)]
    del data[0]["patient"]
    data[3]["patient"], data[4]["kind"] = None, None
    layout = layout_of(IMAGES, {"labels.json": json.dumps(data)})
    assert layout.images["path"].tolist() == [path for n, path in enumerate(IMAGES) if n != 4]
    assert layout.images["group"].tolist() == ["", "0", "1", "", "2", "3", "3"]


@pytest.mark.parametrize("labels", [["suv", "van"], ["van", "suv"]])
@pytest.mark.parametrize("by_name", [True, False])
def test_lists_of_several_labels_are_rejected(layout_of: Any, labels: list[str], by_name: bool) -> None:
    values = {name: [CLASSES[n % 2]] for n, name in enumerate(NAMES)} | {"0.jpg": labels}
    data = values if by_name else [{"image": name, "label": value} for name, value in values.items()]
    with pytest.raises(DataError, match=r"labels\.json.*several labels"):
        layout_of(IMAGES, {"labels.json": json.dumps(data)})


def test_rare_fields_of_records_are_left_out(layout_of: Any) -> None:
    """A list of single-key records would otherwise become a table with a column per record."""
    images = [f"{CLASSES[n % 2]}/{n}.jpg" for n in range(400)]
    data = [{"image": f"{n}.jpg", "patient": n // 2, f"field {n}": n} for n in range(400)]
    layout = layout_of(images, {"labels.json": json.dumps(data)})
    assert layout.images["group"].nunique() == 200
    assert layout.findings == ()


def test_the_fields_of_coco_images_may_be_groups(layout_of: Any) -> None:
    data = json.loads(coco_of([{"id": n, "name": name} for n, name in enumerate(CLASSES)]))
    for n, image in enumerate(data["images"]):
        image |= {"location": f"park {n // 3}", "width": 640, "url": f"https://example.org/test/{n}.jpg"}
    del data["images"][0]["location"]
    layout = layout_of(IMAGES, {"labels.json": json.dumps(data)})
    assert layout.images["group"].tolist() == ["", *["park 0"] * 2, *["park 1"] * 3, *["park 2"] * 2]
    assert layout.class_names == ("suv", "van")
    assert set(layout.images["source"]) == {"train"}
    layout = layout_of(IMAGES, {"labels.json": json.dumps(data)}, group_column="width")
    assert set(layout.images["group"]) == {"640"}


@pytest.mark.parametrize("num_categories", [1, 8])
def test_the_fields_of_coco_images_are_not_labels(layout_of: Any, num_categories: int) -> None:
    data = json.loads(coco_of([{"id": n, "name": f"class {n}"} for n in range(num_categories)]))
    for n, image in enumerate(data["images"]):
        image["width"] = [640, 480][n % 2]
        data["annotations"][n]["category_id"] = n % num_categories
    with pytest.raises(DataError, match=f"category_id has {num_categories}"):
        layout_of(IMAGES, {"labels.json": json.dumps(data)})


def test_a_list_of_names_names_the_numbers(layout_of: Any) -> None:
    images = [f"{n % 2}/{name}" for n, name in enumerate(NAMES)]
    assert layout_of(images, {"names.json": '["suv", "van"]'}).class_names == ("suv", "van")


@pytest.mark.parametrize("label", [{"category": {"id": 1}}, {"annotations": [{"label": "a"}]}])
def test_nested_labels_are_not_replaced_by_another_field(layout_of: Any, label: dict[str, object]) -> None:
    data = [{"image": name, "camera": CLASSES[n % 2]} | label for n, name in enumerate(NAMES)]
    with pytest.raises(DataError, match="nested values"):
        layout_of(IMAGES, {"labels.json": json.dumps(data)})


@pytest.mark.parametrize("data", [
    ["0.jpg", "1.jpg", "2.jpg"], {name: [1, 2, 30, 30] for name in NAMES}, {name: {"a": 1} for name in NAMES},
])
def test_other_json_files_next_to_a_table_change_nothing(layout_of: Any, data: object) -> None:
    table = "file,label\n" + "".join(f"{name},{n % 2}\n" for n, name in enumerate(NAMES))
    layout = layout_of(IMAGES, {"labels.csv": table, "filenames.json": json.dumps(data)})
    assert layout.class_names == ("0", "1")
    assert {finding.kind for finding in layout.findings} <= {"unmatched_label_table"}


def test_a_field_with_another_name_is_ambiguous_next_to_folders(layout_of: Any) -> None:
    def records(names: list[str]) -> str:
        return json.dumps([{"file": name, "species": ["cat", "dog"][n // 4]} for n, name in enumerate(names)])

    folders = [f"day{n % 2}/{name}" for n, name in enumerate(NAMES)]
    with pytest.raises(ConfigError, match=r"data\.label_source to folders or json"):
        layout_of(folders, {"metadata.json": records(folders)})
    assert layout_of(folders, {"metadata.json": records(folders)}, label_source="json").class_names == ("cat", "dog")


def test_a_field_with_another_name_is_ambiguous_next_to_prefixes(layout_of: Any) -> None:
    names = [f"cam{n % 2}_{n}.jpg" for n in range(8)]
    lines = [json.dumps({"file": name, "owner": ["cat", "dog"][n // 4]}) for n, name in enumerate(names)]
    with pytest.raises(ConfigError, match=r"data\.label_source to file_names or json"):
        layout_of(names, {"metadata.jsonl": "\n".join(lines)})
    assert layout_of(names, {"metadata.jsonl": "\n".join(lines)}, label_source="json").class_names == ("cat", "dog")
    layout = layout_of(names, {"metadata.jsonl": "\n".join(lines)}, label_source="file_names")
    assert layout.class_names == ("cam0", "cam1")


@pytest.mark.parametrize("folder", ["{}", "images/{}"])
def test_the_size_of_images_is_not_a_class(layout_of: Any, folder: str) -> None:
    records = [{"file_name": name, "width": 640 + n % 2, "height": 480} for n, name in enumerate(NAMES)]
    lines = "".join(json.dumps(record) + "\n\n" for record in records)
    layout = layout_of([f"{CLASSES[n % 2]}/{name}" for n, name in enumerate(NAMES)], {folder.format("m.jsonl"): lines})
    assert layout.class_names == ("suv", "van") and layout.findings == ()


def test_lists_of_subsets_may_be_next_to_other_lists(layout_of: Any) -> None:
    images = [f"{CLASSES[n % 2]}/{name}" for n, name in enumerate(NAMES)]
    records = [{"image": path, "label": path.split("/")[0]} for path in images]
    categories = [{"id": n, "name": name} for n, name in enumerate(CLASSES)]
    data = {"train": records[:6], "test": records[6:], "categories": categories}
    layout = layout_of(images, {"splits.json": json.dumps(data)})
    assert layout.images["source"].value_counts().to_dict() == {"train": 6, "holdout": 2}


def test_json_lines_are_records(layout_of: Any) -> None:
    lines = "".join(json.dumps({"file_name": name, "label": CLASSES[n % 2]}) + "\n" for n, name in enumerate(NAMES))
    assert layout_of(IMAGES, {"images/metadata.jsonl": lines}).images["label"].tolist() == CLASSES * 4


def test_lists_of_records_by_subset_have_labels_and_subsets(layout_of: Any) -> None:
    records = [{"image": name, "label": CLASSES[n % 2]} for n, name in enumerate(NAMES)]
    data = {"train": records[:4], "val": records[4:6], "test": records[6:]}
    images = layout_of(IMAGES, {"data.json": json.dumps(data)}).images
    assert images["label"].tolist() == CLASSES * 4
    assert images["source"].tolist() == ["train"] * 4 + ["val"] * 2 + ["holdout"] * 2


@pytest.mark.parametrize("path", ["{}", "photos/{}", "/home/x/{}"])
def test_a_json_split_may_have_paths_of_another_folder(layout_of: Any, path: str) -> None:
    images = [f"data/{CLASSES[n % 2]}/{name}" for n, name in enumerate(NAMES)]
    data = [{"file": path.format(image), "split": ["train", "test"][n // 6]} for n, image in enumerate(images)]
    layout = layout_of(images, {"split.json": json.dumps(data)})
    assert layout.images["source"].value_counts().to_dict() == {"train": 6, "holdout": 2}


def test_nested_fields_next_to_a_label_do_not_matter(layout_of: Any) -> None:
    data = [{"file": name, "label": CLASSES[n % 2], "attributes": {"color": 1}} for n, name in enumerate(NAMES)]
    assert layout_of(IMAGES, {"labels.json": json.dumps(data)}).class_names == ("suv", "van")


def test_the_categories_of_coco_files_are_named_by_their_own_file(layout_of: Any) -> None:
    def coco(names: list[str], numbers: range, first: int = 0) -> str:
        ids = {name: first + index for index, name in enumerate(names)}
        return json.dumps({
            "images": [{"id": n, "file_name": f"{n}.jpg"} for n in numbers],
            "categories": [{"id": ids[name], "name": name} for name in names],
            "annotations": [{"image_id": n, "category_id": ids[["suv", "van"][n % 2]]} for n in numbers]})

    images = [f"images/{n}.jpg" for n in range(8)]
    for other in (coco(["van", "suv"], range(4, 8)), coco(["suv", "van"], range(4, 8), first=1)):
        layout = layout_of(images, {"a.json": coco(["suv", "van"], range(4)), "b.json": other})
        assert layout.class_names == ("suv", "van")
        assert layout.images["label"].tolist() == ["suv", "van"] * 4
    unrelated = json.dumps({
        "images": [{"id": 1, "file_name": "none.jpg"}], "annotations": [{"image_id": 1, "category_id": 0}],
        "categories": [{"id": 0, "name": "bus"}, {"id": 1, "name": "tram"}]})
    layout = layout_of(images, {"a.json": coco(["suv", "van"], range(8)), "b.json": unrelated})
    assert layout.class_names == ("suv", "van")


@pytest.mark.parametrize("ids", [[0, 1, 2], ["a", "b", "c"]])
@pytest.mark.parametrize("wrap", [lambda records: records, lambda records: {"images": records}])
def test_the_ids_of_a_sample_submission_may_be_keys_of_another_file(layout_of: Any, ids: list[Any], wrap: Any) -> None:
    images = [f"train_images/{CLASSES[n % 2]}/{name}" for n, name in enumerate(NAMES)]
    tests = [f"test_images/000/test-00{n}.jpg" for n in (2, 0, 1)]
    records = [{"image_id": key, "file_name": path.removeprefix("test_images/")}
               for key, path in zip(ids, tests, strict=True)]
    sample = "Id,Predicted\n" + "".join(f"{key},suv\n" for key in ids)
    files = {"test_metadata.json": json.dumps(wrap(records)), "sample_submission.csv": sample}
    test = layout_of([*images, *tests], files).images.query("source == 'test'").set_index("path")["id"]
    assert test.loc[tests].tolist() == [str(key) for key in ids]
