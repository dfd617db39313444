"""A folder as a competition: its archive, its holdout, and the grading of submissions."""

import csv
import io
import re
import shutil
import zipfile
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carclf.demo.competition import Competition, open_competition
from carclf.demo.grading import grade
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


def copy_folder(rendered: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(rendered, tmp_path / "copy"))


def test_the_archive_has_the_folders_files_except_the_truth(competition: Competition, rendered: Path) -> None:
    with zipfile.ZipFile(competition.archive) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    files = [path for path in sorted(rendered.rglob("*")) if path.is_file() and path.name != "truth.csv"]
    assert contents == {str(path.relative_to(rendered)): path.read_bytes() for path in files}


def test_the_same_folder_gives_the_same_archive(competition: Competition, rendered: Path, tmp_path: Path) -> None:
    folder = copy_folder(rendered, tmp_path)
    for path in folder.rglob("*"):
        path.touch()
    (folder / "train/@eaDir").mkdir()
    for name in ("train/@eaDir/a.jpg", "train/0/Thumbs.db", "test_upload/.hidden"):
        (folder / name).write_bytes(b"left by a file manager or a file server")
    again = open_competition(folder, slug="demo-cars", work=tmp_path / "work")
    assert again.archive.read_bytes() == competition.archive.read_bytes()
    assert list((tmp_path / "work").iterdir()) == [again.archive]
    assert again.truth is None  # the folder's truth.csv is not used unless it is given


def test_a_missing_train_csv_is_not_needed(competition: Competition, rendered: Path, tmp_path: Path) -> None:
    folder = copy_folder(rendered, tmp_path)
    (folder / "train.csv").unlink()
    again = open_competition(folder, slug="demo-cars", work=tmp_path / "work", truth=rendered / "truth.csv")
    assert (again.ids, again.truth) == (competition.ids, competition.truth)


def test_a_holdout_is_stratified_readable_and_removed_from_training(rendered: Path, tmp_path: Path) -> None:
    held = open_competition(rendered, slug="held", work=tmp_path, holdout=0.25)
    archive = members(held.archive)
    assert held.truth is not None
    assert Counter(held.truth.values()) == {str(label): 1 for label in range(10)}
    assert archive["sample-submission.csv"] == ["Id,Category", *(f"{name},0" for name in held.ids)]
    assert archive["test.zip"] == sorted(f"test_upload/{name}" for name in held.ids)
    assert len(archive["train.zip"]) == 47 - 10 == len(archive["train.csv"]) - 1
    assert not set(held.ids) & {name.rpartition("/")[2] for name in archive["train.zip"]}
    assert list(held.ids) != sorted(held.ids)
    assert not set(held.ids) & {"900001.jpg", "900002.jpg", "900003.jpg"}  # the broken ones
    assert grade(held, submission([held.truth[name] for name in held.ids], held.ids)) == ("1.00000", "")
    again = open_competition(rendered, slug="held", work=tmp_path / "2", holdout=0.25)
    assert again == replace(held, archive=tmp_path / "2" / "held.zip")
    assert again.archive.read_bytes() == held.archive.read_bytes()


@pytest.mark.parametrize("holdout", [-0.1, 0.0, 1.0, 20.0, float("nan")])
def test_a_holdout_out_of_range_raises_config_error(rendered: Path, tmp_path: Path, holdout: float) -> None:
    with pytest.raises(ConfigError, match="holdout"):
        open_competition(rendered, slug="c", work=tmp_path, holdout=holdout)


def test_a_truth_together_with_a_holdout_raises_config_error(rendered: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not both"):
        open_competition(rendered, slug="c", work=tmp_path, holdout=0.2, truth=rendered / "truth.csv")


def test_a_holdout_that_leaves_nothing_to_train_on_raises_data_error(rendered: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holdout"):
        open_competition(rendered, slug="c", work=tmp_path, holdout=0.95)


@pytest.mark.parametrize("missing", ["train", "test_upload", "sample-submission.csv"])
def test_a_missing_part_raises_data_error(rendered: Path, tmp_path: Path, missing: str) -> None:
    folder = copy_folder(rendered, tmp_path)
    shutil.move(folder / missing, tmp_path / "elsewhere")
    with pytest.raises(DataError, match="sample" if "." in missing else ""):
        open_competition(folder, slug="c", work=tmp_path / "work")
    assert not (tmp_path / "work" / "c.zip").exists()


def test_a_missing_folder_raises_data_error_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        open_competition(tmp_path / "nowhere", slug="c", work=tmp_path)


def test_a_missing_truth_raises_data_error_with_its_path(rendered: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"/nowhere\.csv"):
        open_competition(rendered, slug="c", work=tmp_path, truth=Path("/nowhere.csv"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Id,Category\n1.jpg,0\n", "20 of the sample's 20 ids"),
        ("Id;Category\n1.jpg;0\n", "Id;Category"),
        ("Id,Category\n1.jpg,0\n1.jpg,1\n", "1 id"),
        ("", "not a valid CSV"),
    ],
)
def test_an_invalid_truth_raises_data_error(rendered: Path, tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "truth.csv").write_text(text)
    with pytest.raises(DataError, match=expected):
        open_competition(rendered, slug="c", work=tmp_path, truth=tmp_path / "truth.csv")


def test_a_row_without_an_image_raises_data_error(rendered: Path, tmp_path: Path) -> None:
    folder = copy_folder(rendered, tmp_path)
    missing = min((folder / "test_upload").iterdir())
    missing.unlink()
    with pytest.raises(CarclfError, match=re.escape(missing.name)):
        open_competition(folder, slug="c", work=tmp_path)


@pytest.mark.parametrize(("correct", "score"), [(7, "1.00000"), (2, "0.28571"), (0, "0.00000")])
def test_the_score_is_truncated_to_five_digits(correct: int, score: str) -> None:
    categories = [name[0] for name in IDS[:correct]] + ["99"] * (len(IDS) - correct)
    assert grade(SMALL, submission(categories)) == (score, "")


@given(st.lists(st.integers(0, 9).map(str), min_size=7, max_size=7), st.permutations(IDS))
def test_the_score_is_the_truncated_accuracy(categories: list[str], order: list[str]) -> None:
    correct = sum(name[0] == category for name, category in zip(order, categories, strict=True))
    score, error = grade(SMALL, submission(categories, tuple(order)))
    assert (error, len(score)) == ("", 7)
    assert 0 <= Fraction(correct, 7) - Fraction(score) < Fraction(1, 100_000)


NEAR_VALID = st.text(alphabet="Id,Category\n123.jpg\"\0", max_size=80).map(str.encode)


@given(st.binary() | st.text().map(str.encode) | st.binary().map(b"Id,Category\n".__add__) | NEAR_VALID)
def test_arbitrary_bytes_are_graded_with_an_error(data: bytes) -> None:
    score, error = grade(SMALL, data)
    assert score == ""
    assert error != ""


def test_without_a_truth_there_is_no_score() -> None:
    unknown = Competition("small", Path("none.zip"), IDS, None)
    assert grade(unknown, submission(["0"] * 7)) == ("", "")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (submission(["1"] * 7).replace(b"Category", b"Class"), "columns must be"),
        (submission(["1"] * 6, IDS[:6]), "has 6 rows"),
        (submission(["1"] * 7, (*IDS[:6], IDS[0])), "the sample's 7 ids"),
        (submission(["sedan"] * 7), "must be a class number, not 'sedan'"),
        (submission(["1.0"] * 7), "must be a class number"),
        (submission(["1,1"] * 7), "2 values per row"),
        (b"\xff\xfe", "not a valid CSV"),
        (b"Id,Category\n" + b"x" * (csv.field_size_limit() + 1), "not a valid CSV"),
    ],
)
def test_an_invalid_submission_is_graded_with_its_error(data: bytes, expected: str) -> None:
    score, error = grade(SMALL, data)
    assert score == ""
    assert expected in error
