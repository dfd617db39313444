"""label_fixes.csv: fixes that are applied, fixes that match no image, and files that are rejected."""

from pathlib import Path

import pandas as pd
import pytest

from carclf.dataset.fixes import LabelFixes, apply_fixes, check_fixes, read_fixes
from carclf.errors import DataError
from carclf.services.storage import Store, open_store

INDEX = pd.DataFrame([
    {"id": "a.jpg", "path": "train/0/a.jpg", "label": "0", "source": "train"},
    {"id": "b.jpg", "path": "train/0/b.jpg", "label": "0", "source": "train"},
    {"id": "b.jpg", "path": "train/1/b.jpg", "label": "1", "source": "train"},
    {"id": "extra/0/1/c.jpg", "path": "extra/0/1/c.jpg", "label": "1", "source": "extra"},
    {"id": "t.jpg", "path": "test_upload/t.jpg", "label": "", "source": "test"},
]).assign(problem_kind="", problem="", sha256=[digit * 64 for digit in "abcde"])
HEADER_WITH_SHA256 = "id,action,label,sha256"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def write_fixes(store: Store, *lines: str, header: str = "id,action,label") -> LabelFixes:
    store.write("label_fixes.csv", "\n".join((header, *lines, "")).encode())
    return read_fixes(store)


def test_a_missing_file_has_no_fixes(store: Store) -> None:
    assert read_fixes(store) == LabelFixes((), "")


def test_fixes_relabel_and_drop_images_and_unmatched_ones_are_warnings(store: Store) -> None:
    lines = ("a.jpg,relabel,1", "train/1/b.jpg,drop,", "extra/0/1/c.jpg,relabel,0", "t.jpg,drop,", "x,drop,")
    result = apply_fixes(INDEX, write_fixes(store, *lines), {"0", "1"})
    assert result.index["label"].tolist() == ["1", "0", "1", "0", ""]
    assert result.index["problem_kind"].tolist() == ["", "", "dropped", "", ""]
    assert result.index["problem"][2] == "dropped by label_fixes.csv"
    assert [fix.id for fix in result.unmatched] == ["t.jpg", "x"]
    assert [finding.kind for finding in result.findings()] == ["unmatched_label_fix"] * 2
    assert result.changes == [
        {"path": "train/0/a.jpg", "action": "relabel", "old_label": "0", "new_label": "1"},
        {"path": "train/1/b.jpg", "action": "drop", "old_label": "1", "new_label": None},
        {"path": "extra/0/1/c.jpg", "action": "relabel", "old_label": "1", "new_label": "0"},
    ]
    assert INDEX["label"].tolist() == ["0", "0", "1", "1", ""]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.jpg,rename,1", r"line 3: invalid action 'rename' with label '1'"),
        ("a.jpg,relabel,", r"line 3: invalid action 'relabel' with label ''"),
        ("a.jpg,drop,1", r"line 3: invalid action 'drop' with label '1'"),
        ("a.jpg,drop", r"line 3: expected 3 values id,action,label"),
        ("b,drop,", r"lines 2 and 3: duplicate id 'b'"),
        ('"a.jpg,drop,', r"not a valid CSV"),
    ],
)
def test_an_invalid_line_is_rejected(store: Store, line: str, message: str) -> None:
    with pytest.raises(DataError, match=rf"label_fixes\.csv: .*{message}"):
        write_fixes(store, "b,drop,", line)


@pytest.mark.parametrize("data", [b"", b"Id,Category\n", b"\xff\xfe", b"id,action\n"])
def test_a_file_with_another_header_is_rejected(store: Store, data: bytes) -> None:
    store.write("label_fixes.csv", data)
    with pytest.raises(DataError, match="header must be id,action,label"):
        read_fixes(store)


def test_an_unknown_class_is_rejected(store: Store) -> None:
    with pytest.raises(DataError, match=r"label_fixes\.csv.*line 2: .*\b7\b.* 0, 1"):
        apply_fixes(INDEX, write_fixes(store, "a.jpg,relabel,7"), {"0", "1"})


def test_an_id_of_several_images_is_rejected(store: Store) -> None:
    with pytest.raises(DataError, match=r"'b\.jpg': train/0/b\.jpg, train/1/b\.jpg"):
        apply_fixes(INDEX, write_fixes(store, "b.jpg,drop,"), {"0", "1"})


@pytest.mark.parametrize("lines", [("a.jpg,relabel,1", "train/0/a.jpg,drop,"), ("train/0/a.jpg,drop,", "a.jpg,drop,")])
def test_two_fixes_of_one_image_are_rejected(store: Store, lines: tuple[str, str]) -> None:
    with pytest.raises(DataError, match=r"label_fixes\.csv: lines 2 and 4: .*train/0/a\.jpg"):
        apply_fixes(INDEX, write_fixes(store, lines[0], "x,drop,", lines[1]), {"0", "1"})


def test_fixes_are_equal_if_their_files_have_the_same_bytes(store: Store) -> None:
    fixes = write_fixes(store, "a.jpg,drop,")
    assert fixes == write_fixes(store, "a.jpg,drop,")
    assert fixes != write_fixes(store, "a.jpg,drop,", "b,drop,")


@pytest.mark.parametrize("moved", [False, True])
def test_a_fix_with_a_sha256_follows_the_image(store: Store, moved: bool) -> None:
    """It applies neither to another image with the same id nor to an image with this id but other content."""
    fixes = write_fixes(store, f"extra/0/1/c.jpg,relabel,0,{'d' * 64}", f"a.jpg,drop,,{'0' * 64}",
                        "train/0/b.jpg,drop,,", header=HEADER_WITH_SHA256)
    index = INDEX
    if moved:
        successor = INDEX[INDEX["source"] == "extra"].assign(sha256="f" * 64)
        index = pd.concat([INDEX.replace({"extra/0/1/c.jpg": "extra/1/1/c.jpg"}), successor], ignore_index=True)
    result = apply_fixes(index, fixes, {"0", "1"})
    by_sha256 = result.index.set_index("sha256")
    assert by_sha256["label"]["d" * 64] == "0"
    assert not moved or by_sha256["label"]["f" * 64] == "1"
    assert (by_sha256["problem_kind"]["a" * 64], by_sha256["problem_kind"]["b" * 64]) == ("", "dropped")
    assert [(finding.kind, finding.path) for finding in result.findings()] == [("unmatched_label_fix", "a.jpg")]


def test_among_copies_a_fix_with_a_sha256_applies_to_its_id(store: Store) -> None:
    copies = INDEX.assign(sha256="a" * 64)
    fixes = write_fixes(store, f"train/1/b.jpg,relabel,0,{'a' * 64}", f"gone,drop,,{'a' * 64}",
                        header=HEADER_WITH_SHA256)
    result = apply_fixes(copies, fixes, {"0", "1"})
    assert result.index["label"].tolist() == ["0", "0", "0", "1", ""]
    assert [fix.id for fix in result.unmatched] == ["gone"]
    assert not (result.index["problem_kind"] == "dropped").any()


def test_an_invalid_sha256_is_rejected(store: Store) -> None:
    with pytest.raises(DataError, match=r"line 2: 'A12'"):
        write_fixes(store, "a.jpg,drop,,A12", header=HEADER_WITH_SHA256)


IMAGES = INDEX.drop(columns=["problem_kind", "problem", "sha256"])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a.jpg,relabel,7,"], r"line 2: unknown class '7'\. The classes are 0, 1"),
        ([f"gone,relabel,7,{'a' * 64}"], "line 2: unknown class '7'"),
        (["a.jpg,drop,,", "train/0/a.jpg,drop,,"], r"lines 2 and 3: .*train/0/a\.jpg"),
        (["b.jpg,drop,,"], r"'b\.jpg': train/0/b\.jpg"),
    ],
)
def test_errors_are_detected_before_the_images_are_read(store: Store, lines: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_fixes(write_fixes(store, *lines, header=HEADER_WITH_SHA256), IMAGES, {"0", "1"})


def test_valid_fixes_pass_the_check_of_the_images(store: Store) -> None:
    lines = ("a.jpg,relabel,1,", f"b.jpg,drop,,{'b' * 64}", "gone,drop,,")
    check_fixes(write_fixes(store, *lines, header=HEADER_WITH_SHA256), IMAGES, {"0", "1"})
