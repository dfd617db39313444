"""Labels in JSON files: COCO JSON, labels by file name, and lists of records."""

import json
from typing import Any

import pytest

NAMES = [f"{n}.jpg" for n in range(8)]
CLASSES = ["suv", "van"]
IMAGES = [f"images/{name}" for name in NAMES]


@pytest.mark.parametrize("data", [
    {name: CLASSES[n % 2] for n, name in enumerate(NAMES)},
    {f"images/{name}": CLASSES[n % 2] for n, name in enumerate(NAMES)},
    [{"image": name, "kind": CLASSES[n % 2], "box": [1, 2]} for n, name in enumerate(NAMES)],
    [{"image": name, "kind": CLASSES[n % 2], "width": 100 + n} for n, name in enumerate(NAMES)],
])
def test_labels_by_file_name_and_records_are_read_like_tables(layout_of: Any, data: object) -> None:
    layout = layout_of(IMAGES, {"labels.json": json.dumps(data)})
    assert layout.images["label"].tolist() == CLASSES * 4
    assert layout.findings == ()


@pytest.mark.parametrize("data", [
    {"0": "suv", "1": "van"}, {"suv": 0, "van": 1}, {"epochs": 3, "seed": 1, "size": 224, "name": "x"}, [], [1], [[]],
    "text", {}, [{}], [{"a": []}],
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
