"""label_fixes.csv: what is applied, what is only recorded, and what is refused by its line."""

from pathlib import Path

import pandas as pd
import pytest

from carclf.data.label_fixes import LabelFixes, apply_fixes, read_fixes
from carclf.errors import DataError
from carclf.services.storage import Store, open_store

INDEX = pd.DataFrame([
    {"id": "a.jpg", "path": "train/0/a.jpg", "label": 0, "source": "train"},
    {"id": "b.jpg", "path": "train/0/b.jpg", "label": 0, "source": "train"},
    {"id": "b.jpg", "path": "train/1/b.jpg", "label": 1, "source": "train"},
    {"id": "extra/0/1/c.jpg", "path": "extra/0/1/c.jpg", "label": 1, "source": "extra"},
    {"id": "t.jpg", "path": "test_upload/t.jpg", "label": -1, "source": "test"},
]).assign(kind="", problem="")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def fixes(store: Store, *lines: str) -> LabelFixes:
    store.write("label_fixes.csv", "\n".join(("id,action,label", *lines, "")).encode())
    return read_fixes(store)


def test_without_the_file_nothing_is_fixed(store: Store) -> None:
    assert read_fixes(store) == LabelFixes((), "")


def test_labels_are_changed_pictures_dropped_and_strangers_recorded(store: Store) -> None:
    lines = ("a.jpg,relabel,1", "train/1/b.jpg,drop,", "extra/0/1/c.jpg,relabel,0", "t.jpg,drop,", "x,drop,")
    done = apply_fixes(INDEX, fixes(store, *lines), {0, 1})
    assert done.index["label"].tolist() == [1, 0, 1, 0, -1]
    assert done.index["kind"].tolist() == ["", "", "dropped", "", ""]
    assert done.index["problem"][2] == "dropped by label_fixes.csv"
    assert done.unknown == ["t.jpg", "x"] and [found.kind for found in done.findings()] == ["unknown_fix"] * 2
    assert done.applied == [
        {"path": "train/0/a.jpg", "action": "relabel", "from": 0, "to": 1},
        {"path": "train/1/b.jpg", "action": "drop", "from": 1, "to": None},
        {"path": "extra/0/1/c.jpg", "action": "relabel", "from": 1, "to": 0},
    ]
    assert INDEX["label"].tolist() == [0, 0, 1, 1, -1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.jpg,rename,1", r"line 3: 'rename' with the label '1' is unknown; write relabel"),
        ("a.jpg,relabel,", r"line 3: 'relabel' with the label ''"),
        ("a.jpg,relabel,1.5", r"line 3: 'relabel' with the label '1\.5'"),
        ("a.jpg,drop,1", r"line 3: 'drop' with the label '1'"),
        ("a.jpg,drop", r"line 3: \['a\.jpg', 'drop'\] are not the three values"),
        ("b,drop,", r"lines 2 and 3: 'b' is there twice"),
        ('"a.jpg,drop,', r"is no CSV"),
    ],
)
def test_a_line_that_cannot_be_meant_is_refused(store: Store, line: str, message: str) -> None:
    with pytest.raises(DataError, match=rf"label_fixes\.csv.*{message}.*Mend label_fixes\.csv"):
        fixes(store, "b,drop,", line)


@pytest.mark.parametrize("data", [b"", b"Id,Category\n", b"\xff\xfe", b"id,action\n"])
def test_another_file_of_that_name_is_refused(store: Store, data: bytes) -> None:
    store.write("label_fixes.csv", data)
    with pytest.raises(DataError, match="its header is id,action,label"):
        read_fixes(store)


def test_a_class_that_there_is_not_and_an_id_of_several_pictures_are_refused(store: Store) -> None:
    with pytest.raises(DataError, match=r"line 2: there is no class 7; the classes are 0, 1"):
        apply_fixes(INDEX, fixes(store, "a.jpg,relabel,7"), {0, 1})
    with pytest.raises(DataError, match=r"'b\.jpg' is the name of several pictures \(train/0/b\.jpg, train/1/b\.jpg\)"):
        apply_fixes(INDEX, fixes(store, "b.jpg,drop,"), {0, 1})


@pytest.mark.parametrize("lines", [("a.jpg,relabel,1", "train/0/a.jpg,drop,"), ("train/0/a.jpg,drop,", "a.jpg,drop,")])
def test_a_picture_that_two_lines_name_by_id_and_by_path_is_refused(store: Store, lines: tuple[str, str]) -> None:
    with pytest.raises(DataError, match=r"label_fixes\.csv, lines 2 and 4: both name the picture train/0/a\.jpg, by"):
        apply_fixes(INDEX, fixes(store, lines[0], "x,drop,", lines[1]), {0, 1})


def test_the_same_lines_are_known_by_their_bytes(store: Store) -> None:
    assert fixes(store, "a.jpg,drop,") == fixes(store, "a.jpg,drop,") != fixes(store, "a.jpg,drop,", "b,drop,")
