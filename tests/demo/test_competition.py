"""A folder becomes a competition: its archive, a holdout, and how submissions are graded."""

import csv
import io
import shutil
import zipfile
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carclf.demo.competition import Competition, grade, open_competition
from carclf.errors import CarclfError, ConfigError, DataError

IDS = tuple(f"{number}.jpg" for number in (5, 3, 9, 1, 7, 2, 8))
SMALL = Competition("small", Path("none.zip"), IDS, {name: name[0] for name in IDS})


def members(archive: Path) -> dict[str, list[str]]:
    with zipfile.ZipFile(archive) as outer:
        assert outer.testzip() is None
        return {
            name: sorted(zipfile.ZipFile(io.BytesIO(outer.read(name))).namelist())
            if name.endswith(".zip")
            else outer.read(name).decode().splitlines()
            for name in outer.namelist()
        }


def submission(categories: list[str], ids: tuple[str, ...] = IDS) -> bytes:
    return "\n".join(["Id,Category", *map(",".join, zip(ids, categories, strict=True))]).encode()


def copy_of(rendered: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(rendered, tmp_path / "copy"))


def test_the_archive_holds_the_folder_in_kaggles_layout(competition: Competition, rendered: Path) -> None:
    found = members(competition.archive)
    assert list(found) == ["sample-submission.csv", "train.csv", "train.zip", "test.zip"]
    assert found["train.zip"] == sorted(str(path.relative_to(rendered)) for path in rendered.glob("train/*/*"))
    assert found["test.zip"] == sorted(str(path.relative_to(rendered)) for path in rendered.glob("test_upload/*"))
    for name in ("train", "sample-submission"):
        assert found[f"{name}.csv"] == (rendered / f"{name}.csv").read_text().splitlines()


def test_the_same_folder_gives_the_same_archive(competition: Competition, rendered: Path, tmp_path: Path) -> None:
    folder = copy_of(rendered, tmp_path)
    for path in folder.rglob("*"):
        path.touch()
    again = open_competition(folder, slug="demo-cars", work=tmp_path / "work")
    assert again.archive.read_bytes() == competition.archive.read_bytes()
    assert list((tmp_path / "work").iterdir()) == [again.archive]
    assert again.truth is None  # truth.csv lies in the folder, but nobody gave it


def test_a_folder_without_train_csv_gets_one(competition: Competition, rendered: Path, tmp_path: Path) -> None:
    folder = copy_of(rendered, tmp_path)
    (folder / "train.csv").unlink()
    again = open_competition(folder, slug="demo-cars", work=tmp_path / "work")
    assert again.archive.read_bytes() == competition.archive.read_bytes()


def test_a_holdout_is_stratified_readable_and_no_longer_in_training(rendered: Path, tmp_path: Path) -> None:
    held = open_competition(rendered, slug="held", work=tmp_path, holdout=0.25)
    found = members(held.archive)
    assert held.truth is not None
    assert Counter(held.truth.values()) == {str(label): 1 for label in range(10)}
    assert found["sample-submission.csv"] == ["Id,Category", *(f"{name},0" for name in held.ids)]
    assert found["test.zip"] == sorted(f"test_upload/{name}" for name in held.ids)
    assert len(found["train.zip"]) == 47 - 10 == len(found["train.csv"]) - 1
    assert not set(held.ids) & {name.rpartition("/")[2] for name in found["train.zip"]}
    assert list(held.ids) != sorted(held.ids)
    assert not set(held.ids) & {"900001.jpg", "900002.jpg", "900003.jpg"}  # the broken ones
    assert open_competition(rendered, slug="held", work=tmp_path / "2", holdout=0.25) == Competition(
        "held", tmp_path / "2" / "held.zip", held.ids, held.truth
    )


@pytest.mark.parametrize("share", [-0.1, 0.0, 1.0, 20.0, float("nan")])
def test_a_holdout_out_of_range_is_refused(rendered: Path, tmp_path: Path, share: float) -> None:
    with pytest.raises(ConfigError, match=r"must lie between 0 and 1, for example 0\.2"):
        open_competition(rendered, slug="c", work=tmp_path, holdout=share)


def test_a_truth_and_a_holdout_exclude_each_other(rendered: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not both"):
        open_competition(rendered, slug="c", work=tmp_path, holdout=0.2, truth=rendered / "truth.csv")


def test_a_holdout_that_leaves_nothing_to_train_on_is_refused(rendered: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="lower the holdout"):
        open_competition(rendered, slug="c", work=tmp_path, holdout=0.95)


@pytest.mark.parametrize(
    ("spoilt", "words"),
    [
        ("train", "Give a folder in the competition's layout"),
        ("test_upload", "Add the test images, or take a holdout"),
        ("sample-submission.csv", "Add this CSV with the columns Id,Category"),
    ],
)
def test_what_is_missing_is_told_with_the_mend(rendered: Path, tmp_path: Path, spoilt: str, words: str) -> None:
    folder = copy_of(rendered, tmp_path)
    (folder / spoilt).rename(folder / "elsewhere")
    with pytest.raises(DataError, match=words):
        open_competition(folder, slug="c", work=tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Id,Category\n1.jpg,0\n", "lacks 20 of the sample's 20 ids"),
        ("Id;Category\n1.jpg;0\n", "must have the columns"),
        ("Id,Category\n1.jpg,sedan\n", "class numbers"),
        ("Id,Category\n1.jpg,0\n1.jpg,1\n", "1 ids twice"),
        ("", "must have the columns"),
    ],
)
def test_a_truth_of_another_form_is_told(rendered: Path, tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "truth.csv").write_text(text)
    with pytest.raises(CarclfError, match=words):
        open_competition(rendered, slug="c", work=tmp_path, truth=tmp_path / "truth.csv")


def test_a_class_folder_without_a_number_is_refused_and_not_left_out(rendered: Path, tmp_path: Path) -> None:
    folder = copy_of(rendered, tmp_path)
    (folder / "train" / "3").rename(folder / "train" / "BMW")
    with pytest.raises(DataError, match=r"train/BMW is no class number.*Rename the folder"):
        open_competition(folder, slug="c", work=tmp_path)


def test_a_row_without_a_picture_is_told(rendered: Path, tmp_path: Path) -> None:
    folder = copy_of(rendered, tmp_path)
    min((folder / "test_upload").iterdir()).unlink()
    with pytest.raises(DataError, match="names 1 ids without a picture"):
        open_competition(folder, slug="c", work=tmp_path)


@given(st.lists(st.integers(0, 9).map(str), min_size=7, max_size=7), st.permutations(IDS))
def test_the_score_is_the_share_of_right_answers_cut_to_five_digits(answers: list[str], order: list[str]) -> None:
    right = sum(name[0] == answer for name, answer in zip(order, answers, strict=True))
    score, error = grade(SMALL, submission(answers, tuple(order)))
    assert (error, len(score)) == ("", 7)
    assert 0 <= Fraction(right, 7) - Fraction(score) < Fraction(1, 100_000)


@given(st.binary() | st.text().map(str.encode) | st.binary().map(b"Id,Category\n".__add__))
def test_arbitrary_bytes_are_an_error_and_never_a_crash(data: bytes) -> None:
    score, error = grade(SMALL, data)
    assert score == ""
    assert error != ""


def test_without_a_truth_there_is_no_score() -> None:
    unknown = Competition("small", Path("none.zip"), IDS, None)
    assert grade(unknown, submission(["0"] * 7)) == ("", "")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (submission(["1"] * 7).replace(b"Category", b"Class"), "columns must be"),
        (submission(["1"] * 6, IDS[:6]), "has 6 rows; exactly the sample's 7 ids"),
        (submission(["1"] * 7, (*IDS[:6], IDS[0])), "exactly the sample's 7 ids"),
        (submission(["sedan"] * 7), "must be a class number, not 'sedan'"),
        (submission(["1.0"] * 7), "must be a class number"),
        (submission(["1,1"] * 7), "Two values per row"),
        (b"\xff\xfe", "no CSV"),
        (b"Id,Category\n" + b"x" * (csv.field_size_limit() + 1), "no CSV"),
    ],
)
def test_what_is_wrong_with_a_submission_is_said(data: bytes, words: str) -> None:
    score, error = grade(SMALL, data)
    assert score == ""
    assert words in error
