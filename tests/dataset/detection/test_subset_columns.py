"""Columns of tables that give the subset of each image, next to each kind of labels."""

from typing import Any

import pytest

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
