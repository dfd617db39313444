"""label_fixes.csv: what is applied, what is only recorded, and what is refused by its line."""

from pathlib import Path

import pandas as pd
import pytest

from carclf.dataset.fixes import LabelFixes, apply_fixes, check_fixes, read_fixes
from carclf.dataset.indexing import ImagePath
from carclf.errors import DataError
from carclf.services.storage import Store, open_store

INDEX = pd.DataFrame([
    {"id": "a.jpg", "path": "train/0/a.jpg", "label": 0, "source": "train"},
    {"id": "b.jpg", "path": "train/0/b.jpg", "label": 0, "source": "train"},
    {"id": "b.jpg", "path": "train/1/b.jpg", "label": 1, "source": "train"},
    {"id": "extra/0/1/c.jpg", "path": "extra/0/1/c.jpg", "label": 1, "source": "extra"},
    {"id": "t.jpg", "path": "test_upload/t.jpg", "label": -1, "source": "test"},
]).assign(problem_kind="", problem="", sha256=[digit * 64 for digit in "abcde"])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def fixes(store: Store, *lines: str, header: str = "id,action,label") -> LabelFixes:
    store.write("label_fixes.csv", "\n".join((header, *lines, "")).encode())
    return read_fixes(store)


def test_without_the_file_nothing_is_fixed(store: Store) -> None:
    assert read_fixes(store) == LabelFixes((), "")


def test_labels_are_changed_pictures_dropped_and_strangers_recorded(store: Store) -> None:
    lines = ("a.jpg,relabel,1", "train/1/b.jpg,drop,", "extra/0/1/c.jpg,relabel,0", "t.jpg,drop,", "x,drop,")
    done = apply_fixes(INDEX, fixes(store, *lines), {0, 1})
    assert done.index["label"].tolist() == [1, 0, 1, 0, -1]
    assert done.index["problem_kind"].tolist() == ["", "", "dropped", "", ""]
    assert done.index["problem"][2] == "dropped by label_fixes.csv"
    assert [fix.id for fix in done.unknown] == ["t.jpg", "x"]
    assert [found.kind for found in done.findings()] == ["unmatched_label_fix"] * 2
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
        ("a.jpg,drop", r"line 3: \['a\.jpg', 'drop'\] are not the 3 values id,action,label\."),
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
    with pytest.raises(DataError, match=r"label_fixes\.csv, lines 2 and 4: both name the picture train/0/a\.jpg\."):
        apply_fixes(INDEX, fixes(store, lines[0], "x,drop,", lines[1]), {0, 1})


def test_the_same_lines_are_known_by_their_bytes(store: Store) -> None:
    assert fixes(store, "a.jpg,drop,") == fixes(store, "a.jpg,drop,") != fixes(store, "a.jpg,drop,", "b,drop,")


WITH_CONTENT = "id,action,label,sha256"


def test_a_fix_with_a_content_means_that_picture_wherever_it_lies_and_none_that_took_its_name(store: Store) -> None:
    given = fixes(store, f"extra/0/1/c.jpg,relabel,0,{'d' * 64}", f"a.jpg,drop,,{'0' * 64}", "train/0/b.jpg,drop,,",
                  header=WITH_CONTENT)
    moved = INDEX.replace({"extra/0/1/c.jpg": "extra/1/1/c.jpg"})
    other = pd.DataFrame([{"id": "extra/0/1/c.jpg", "path": "extra/0/1/c.jpg", "label": 1, "source": "extra",
                           "problem_kind": "", "problem": "", "sha256": "f" * 64}])
    for index in (INDEX, pd.concat([moved, other], ignore_index=True)):
        done = apply_fixes(index, given, {0, 1})
        meant = done.index.set_index("sha256")
        assert meant["label"]["d" * 64] == 0 and (index is INDEX or meant["label"]["f" * 64] == 1)
        assert (meant["problem_kind"]["a" * 64], meant["problem_kind"]["b" * 64]) == ("", "dropped")
        assert [(found.kind, found.path) for found in done.findings()] == [("unmatched_label_fix", "a.jpg")]
        assert "no training picture has the content that is meant" in done.findings()[0].text


def test_among_copies_a_fix_with_a_content_means_the_one_of_its_id(store: Store) -> None:
    copies = INDEX.assign(sha256="a" * 64)
    line = f"train/1/b.jpg,relabel,0,{'a' * 64}"
    done = apply_fixes(copies, fixes(store, line, f"gone,drop,,{'a' * 64}", header=WITH_CONTENT), {0, 1})
    assert done.index["label"].tolist() == [0, 0, 0, 1, -1] and [fix.id for fix in done.unknown] == ["gone"]
    assert not (done.index["problem_kind"] == "dropped").any()


def test_a_content_that_is_none_is_refused(store: Store) -> None:
    with pytest.raises(DataError, match=r"line 2: 'A12' is no SHA-256 of a picture's file; leave it empty"):
        fixes(store, "a.jpg,drop,,A12", header=WITH_CONTENT)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a.jpg,relabel,7,"], "line 2: there is no class 7; the classes are 0, 1"),
        ([f"gone,relabel,7,{'a' * 64}"], "line 2: there is no class 7"),
        (["a.jpg,drop,,", "train/0/a.jpg,drop,,"], r"lines 2 and 3: both name the picture train/0/a\.jpg"),
        (["b.jpg,drop,,"], r"'b\.jpg' is the name of several pictures"),
        (["a.jpg,relabel,1,", f"b.jpg,drop,,{'b' * 64}", "gone,drop,,"], ""),
    ],
)
def test_mistakes_are_known_from_the_names_of_the_files(store: Store, lines: list[str], message: str) -> None:
    places = [ImagePath(row.id, row.path, row.label, row.source, True) for row in INDEX.itertuples()]
    for classes in (None, {0, 1}):
        if not message:
            check_fixes(fixes(store, *lines, header=WITH_CONTENT), places, classes)
            continue
        with pytest.raises(DataError, match=message):
            check_fixes(fixes(store, *lines, header=WITH_CONTENT), places, classes)
