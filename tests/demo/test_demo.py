"""The demo competition, by the unmodified client and by its parts."""

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carclf.demo.competition import Competition, grade, open_competition
from carclf.demo.rendering import render_competition
from carclf.demo.server import DemoServer
from carclf.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cars")
    render_competition(path, num_train=40, num_test=10)
    return path


def digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    text = b"".join(str(path.relative_to(folder)).encode() + path.read_bytes() for path in files)
    return hashlib.sha256(text).hexdigest()


def test_the_same_seed_renders_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    render_competition(tmp_path / "again", num_train=40, num_test=10)
    render_competition(tmp_path / "other", num_train=40, num_test=10, seed=1)
    assert digest(tmp_path / "again") == digest(folder) != digest(tmp_path / "other")


def test_the_archive_has_the_competitions_layout_and_the_same_bytes_each_time(folder: Path, tmp_path: Path) -> None:
    first = open_competition(folder, slug="a", work=tmp_path / "1").archive
    second = open_competition(folder, slug="a", work=tmp_path / "2").archive
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:
        assert archive.namelist() == ["sample-submission.csv", "train.csv", "train.zip", "test.zip"]
        sample = pd.read_csv(archive.open("sample-submission.csv"))
    assert list(sample.columns) == ["Id", "Category"] and set(sample["Category"]) == {0}
    assert list(sample["Id"]) != sorted(sample["Id"])


def test_a_holdout_makes_a_competition_with_a_truth_of_its_own(folder: Path, tmp_path: Path) -> None:
    competition = open_competition(folder, slug="a", work=tmp_path, holdout=0.25)
    assert competition.truth is not None and list(competition.truth) == list(competition.ids)
    text = "Id,Category\n" + "".join(f"{name},{label}\n" for name, label in competition.truth.items())
    assert grade(competition, text.encode()) == ("1.00000", "")
    with zipfile.ZipFile(competition.archive) as archive, archive.open("train.zip") as inner:
        names = {Path(name).name for name in zipfile.ZipFile(inner).namelist()}
    assert not names & set(competition.ids)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"holdout": 1.5}, ConfigError, "between 0 and 1"),
        ({"holdout": 0.2, "truth": Path("x.csv")}, ConfigError, "not both"),
        ({"truth": Path("/nowhere.csv")}, DataError, "There is no /nowhere.csv"),
    ],
)
def test_wrong_arguments_are_refused(folder: Path, tmp_path: Path, options, error, message: str) -> None:
    with pytest.raises(error, match=message):
        open_competition(folder, slug="a", work=tmp_path, **options)


def test_a_folder_without_training_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no train/"):
        open_competition(tmp_path, slug="a", work=tmp_path)


COMPETITION = Competition("a", Path("none"), ("1.jpg", "2.jpg", "3.jpg"), {"1.jpg": "0", "2.jpg": "1", "3.jpg": "2"})


@pytest.mark.parametrize(
    ("answers", "score"), [(("0", "1", "2"), "1.00000"), (("0", "1", "0"), "0.66666"), (("9", "9", "9"), "0.00000")]
)
def test_the_score_is_the_accuracy_cut_to_five_digits(answers: tuple[str, ...], score: str) -> None:
    rows = "".join(f"{i}.jpg,{answer}\n" for i, answer in enumerate(answers, start=1))
    assert grade(COMPETITION, f"Id,Category\n{rows}".encode()) == (score, "")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=60) | st.text(alphabet="Id,Category\n123.jpg\"\0", max_size=80).map(str.encode))
def test_any_other_file_is_graded_with_an_error_and_nothing_else(data: bytes) -> None:
    score, error = grade(COMPETITION, data)
    assert score == "" and error


def test_the_unmodified_command_line_client_can_be_pointed_at_the_server(folder: Path, tmp_path: Path) -> None:
    competition = open_competition(folder, slug="demo-cars", work=tmp_path / "work", truth=folder / "truth.csv")
    with DemoServer(competition, scoring_seconds=0) as server:
        environment = {
            "PATH": os.environ["PATH"], "KAGGLE_CONFIG_DIR": str(tmp_path), "KAGGLE_USERNAME": "demo",
            "KAGGLE_KEY": "demo-key", "KAGGLE_API_ENVIRONMENT": "LOCALHOST", "HTTP_PROXY": server.url,
            "HOME": str(tmp_path),
        }
        code = "from kaggle.cli import main; main()"

        def kaggle(*arguments: str) -> str:
            command = [sys.executable, "-c", code, "competitions", *arguments]
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout

        assert "train.zip" in kaggle("files", "demo-cars")
        kaggle("download", "demo-cars", "-p", str(tmp_path / "got"))
        assert (tmp_path / "got/demo-cars.zip").read_bytes() == competition.archive.read_bytes()
        kaggle("submit", "demo-cars", "-f", str(folder / "truth.csv"), "-m", "by hand")
        assert "1.00000" in kaggle("submissions", "demo-cars")
