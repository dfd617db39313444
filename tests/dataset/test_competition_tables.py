"""sample-submission.csv and train.csv: valid tables, and files that are rejected."""

from pathlib import Path

import pytest

from carclf.dataset.competition_tables import read_sample_submission, read_train_csv
from carclf.errors import DataError


@pytest.mark.parametrize(
    "text",
    ["", "Id,Category\n", "\xff\xfe", "Id,Category\na,0\na,0\n", "Name\na\n", 'Id,Category\n"a,0\n', "Id,Id\na,0\n"],
)
def test_an_invalid_sample_submission_is_rejected(tmp_path: Path, text: str) -> None:
    (tmp_path / "sample-submission.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match="sample-submission"):
        read_sample_submission(tmp_path)


def test_a_missing_sample_submission_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="sample-submission"):
        read_sample_submission(tmp_path)


@pytest.mark.parametrize(
    ("text", "line"),
    [("Id,Category\na.jpg,1\n\n1.jpg,3,4\n", 4), ("Id,Category\na.jpg\n", 2), ('Id,Category\n"a\nb",0\nc,1,2\n', 4)],
)
def test_the_error_names_a_line_with_too_many_or_too_few_values(tmp_path: Path, text: str, line: int) -> None:
    for name, read in (("sample-submission.csv", read_sample_submission), ("train.csv", read_train_csv)):
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match=rf"{name}: line {line}: \d values, expected 2"):
            read(tmp_path)


@pytest.mark.parametrize("text", ["", "Id,Category\n", "Name\na\n", "Id,Category\na,sedan\n", "Id,Category\na,-1\n"])
def test_an_invalid_train_csv_is_rejected(tmp_path: Path, text: str) -> None:
    (tmp_path / "train.csv").write_text(text)
    with pytest.raises(DataError, match=r"train\.csv"):
        read_train_csv(tmp_path)


def test_train_csv_is_optional(tmp_path: Path) -> None:
    assert read_train_csv(tmp_path) is None


def test_an_id_named_na_is_kept(tmp_path: Path) -> None:
    for name in ("sample-submission.csv", "train.csv"):
        (tmp_path / name).write_text("\ufeffId,Category\nNA,0\n")
    assert read_sample_submission(tmp_path).to_dict("list") == {"Id": ["NA"], "Category": ["0"]}
    assert read_train_csv(tmp_path).to_dict("list") == {"Id": ["NA"], "Category": [0]}
