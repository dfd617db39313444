"""Files that name images in a form that is not read."""

from typing import Any

import pytest

from carclf.errors import ConfigError, DataError

NAMES = [f"{['img', 'dsc'][n % 2]}_{n}0.jpg" for n in range(8)]
LABELS = "".join(f"{name} {['suv', 'van'][n % 3 == 0]}\n" for n, name in enumerate(NAMES))
IN_FOLDERS = [f"day{n % 2}/{name}" for n, name in enumerate(NAMES)]


@pytest.mark.parametrize("text", [LABELS, LABELS.replace(".jpg", ""), LABELS.replace("img", "/home/x/img")])
@pytest.mark.parametrize("name", ["labels.txt", "annotations.xml"])
def test_prefixes_next_to_a_file_that_may_have_the_labels_need_the_setting(
    layout_of: Any, name: str, text: str
) -> None:
    with pytest.raises(ConfigError, match=rf"{name}.*data\.label_source to file_names"):
        layout_of(NAMES, {name: text})
    assert layout_of(NAMES, {name: text}, label_source="file_names").class_names == ("dsc", "img")


def test_the_error_about_missing_labels_names_the_file(layout_of: Any) -> None:
    with pytest.raises(DataError, match=r"labels\.txt"):
        layout_of(["img_10.jpg", "img_20.jpg", "img_30.jpg"], {"labels.txt": "img_10 a\nimg_20 b\nimg_30 a\n"})


@pytest.mark.parametrize(("text", "kinds"), [
    (LABELS, ["unmatched_label_table"]),
    ("".join(f"{name}\n" for name in NAMES[:4]), ["unmatched_label_table"]),
    ("".join(f"{name}\n" for name in NAMES), []),  # neither labels nor subsets
    ("See img_00.jpg.\n", []), ("", []),
])
def test_next_to_class_folders_such_a_file_is_reported(layout_of: Any, text: str, kinds: list[str]) -> None:
    layout = layout_of(IN_FOLDERS, {"list.txt": text})
    assert layout.class_names == ("day0", "day1") and [finding.kind for finding in layout.findings] == kinds


def test_files_about_one_class_or_image_each_are_not_reported(layout_of: Any) -> None:
    images = [f"{n}/photo_{n}{m}.jpg" for n in range(20) for m in range(3)]
    boxes = {f"{n}/boxes.txt": f"photo_{n}0.jpg 1\nphoto_{n}1.jpg 2\nphoto_{n}2.jpg 3\n" for n in range(20)}
    assert layout_of(images, boxes).findings == ()
