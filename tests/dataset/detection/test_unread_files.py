"""Text and JSON files that name images in a form that is not read."""

import json
from typing import Any

import pytest

from carclf.errors import ConfigError, DataError

NAMES = [f"{['cam', 'web'][n % 2]}_{n}0.jpg" for n in range(8)]
LABELS = "".join(f"{name} {['suv', 'van'][n % 3 == 0]}\n" for n, name in enumerate(NAMES))
IN_FOLDERS = [f"day{n % 2}/{name}" for n, name in enumerate(NAMES)]
CHECKSUMS = "".join(f"d41d8cd98f00b20{n}  {name}\n" for n, name in enumerate(NAMES))


@pytest.mark.parametrize("text", [LABELS, LABELS.replace(".jpg", ""), LABELS.replace("cam", "/home/x/cam")])
def test_prefixes_next_to_a_list_with_other_labels_need_the_setting(layout_of: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=r"labels\.txt.*data\.label_source to file_names"):
        layout_of(NAMES, {"labels.txt": text})
    assert layout_of(NAMES, {"labels.txt": text}, label_source="file_names").class_names == ("cam", "web")


@pytest.mark.parametrize("files", [
    {"list.txt": "".join(f"{name} {n % 2}\n" for n, name in enumerate(NAMES))},  # the same classes
    {"MD5SUMS.txt": CHECKSUMS}, {"README.txt": "Photos of web and cam, such as\ncam_00.jpg,\nweb_10.jpg and others.\n"},
    {"files.txt": "".join(f"{name}\n" for name in NAMES)},
    {"sizes.json": json.dumps({name: {"width": 640 + n % 2, "height": 480} for n, name in enumerate(NAMES)})},
    {"predictions.json": json.dumps({name: {"label": "ab"[n % 2], "score": 0.5} for n, name in enumerate(NAMES)})},
])
def test_prefixes_next_to_other_files_about_the_images_are_the_labels(layout_of: Any, files: dict[str, str]) -> None:
    layout = layout_of(NAMES, files)
    assert layout.class_names == ("cam", "web") and layout.findings == ()


@pytest.mark.parametrize("data", [
    {"fold0": NAMES[::2], "fold1": NAMES[1::2]}, {name: [1, 2, 3, 4] for name in NAMES},
])
def test_json_files_that_cannot_be_read_are_reported_next_to_prefixes(layout_of: Any, data: dict[str, Any]) -> None:
    layout = layout_of(NAMES, {"data.json": json.dumps(data)})
    assert layout.class_names == ("cam", "web")
    assert [finding.kind for finding in layout.findings] == ["unmatched_label_table"]


@pytest.mark.parametrize(("name", "text"), [
    ("labels.txt", "cam_10 a\ncam_20 b\ncam_30 a\n"),
    ("labels.json", '{"a": ["cam_10.jpg", "cam_30.jpg"], "b": ["cam_20.jpg"]}'),
])
def test_the_error_about_missing_labels_names_the_file(layout_of: Any, name: str, text: str) -> None:
    with pytest.raises(DataError, match=name):
        layout_of(["cam_10.jpg", "cam_20.jpg", "cam_30.jpg"], {name: text})


@pytest.mark.parametrize(("text", "kinds"), [
    (LABELS, ["unmatched_label_table"]), ("".join(f"{name}\n" for name in NAMES[:4]), ["unused_subsets"]),
    ("".join(f"{name}\n" for name in NAMES), []), ("See cam_00.jpg.\n", []), (CHECKSUMS, []), ("", []),
])
def test_next_to_class_folders_such_a_file_is_reported(layout_of: Any, text: str, kinds: list[str]) -> None:
    layout = layout_of(IN_FOLDERS, {"list.txt": text})
    assert layout.class_names == ("day0", "day1") and [finding.kind for finding in layout.findings] == kinds


def test_files_about_one_class_each_are_not_reported(layout_of: Any) -> None:
    images = [f"{n}/photo_{n}{m}.jpg" for n in range(20) for m in range(3)]
    boxes = {f"{n}/boxes.txt": f"photo_{n}0.jpg 1\nphoto_{n}1.jpg 2\nphoto_{n}2.jpg 3\n" for n in range(20)}
    assert layout_of(images, boxes).findings == ()
