"""``carclf inspect`` of folders, archives and the demo server's competitions and datasets, as text and as JSON."""

import errno
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from source_files import write_files
from typer.testing import CliRunner

from carclf.cli.app import app
from carclf.demo.competition import Competition, ServedDataset
from carclf.demo.gallery.entries import ENTRIES
from carclf.demo.gallery.served import serve_entry
from carclf.demo.server import DemoServer
from carclf.errors import ConfigError, DataError
from carclf.services.storage import init_store

NAMES = ["Lada Priora", "Красная\x1b[2J"]
SMALL_CLASSES = ["--set", "validation.min_images_per_class=2"]
PHOTOS = [f"photos/{name}/{number}.jpg" for name in NAMES for number in range(3)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoServer]:
    competition, dataset = (
        serve_entry(ENTRIES[name], tmp_path_factory.mktemp("served")) for name in ("car-breeds", "scenes"))
    assert isinstance(competition, Competition) and isinstance(dataset, ServedDataset)
    with DemoServer(competition, dataset) as running:
        yield running


@pytest.fixture
def connected(server: DemoServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> DemoServer:
    monkeypatch.setenv("CARCLF_KAGGLE_ENDPOINT", server.url)
    monkeypatch.setenv("KAGGLE_API_TOKEN", server.token)
    monkeypatch.setenv("CARCLF_CACHE", str(tmp_path / "cache"))
    return server


def inspect(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["inspect", *SMALL_CLASSES, *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def run(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "CARCLF_CACHE": str(home / "cache")}
    return subprocess.run([sys.executable, "-m", "carclf", "inspect", *arguments], env=environment,
                          capture_output=True, text=True, check=False)


def test_a_folder_is_printed_once_with_the_errors_of_a_run(tmp_path: Path) -> None:
    photos = write_files(tmp_path / "source", [*PHOTOS[:3], "photos/Красная/3.jpg", "photos/Красная/4.jpg"], {})
    process = run(str(photos), *SMALL_CLASSES, home=tmp_path)
    assert (process.returncode, process.stderr) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in process.stdout.replace("class names", "class_names").splitlines())
    assert lines["class_names"] == "Lada Priora (3), Красная (2)"
    assert lines["labels"].startswith("folders") and lines["images"] == "5 train"
    process = run(str(write_files(tmp_path / "source", PHOTOS, {})), home=tmp_path)
    assert (process.returncode, process.stdout) == (65, "") and "data.source" in process.stderr


def test_an_empty_class_and_files_that_cannot_be_read_are_warnings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deny access as the system does for other users; root may read everything."""
    folder = write_files(tmp_path / "source", [f"{name}/{number}.jpg" for name in "ab" for number in range(3)], {})
    (folder / "c").mkdir()
    (folder / "b/gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("a/1.jpg"))
    content = json.loads(inspect(str(folder), "--json"))
    assert (content["num_images"], content["num_ignored"]) == ({"train": 5}, 2)
    findings = {finding["path"]: (finding["kind"], finding["severity"]) for finding in content["findings"]}
    assert findings == {"a/1.jpg": ("ignored_data", "warning"), "b/gone.jpg": ("ignored_data", "warning"),
                        "c": ("empty_class_folder", "warning")}
    text = inspect(str(folder))
    assert "b/gone.jpg: " in text and "broken link" in text


def test_a_zip_file_is_unpacked(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "source", PHOTOS, {})
    with zipfile.ZipFile(tmp_path / "cars.zip", "w") as archive:
        for path in PHOTOS:
            archive.write(folder / path, path)
    assert "Lada Priora (3), Красная_[2J" in inspect(str(tmp_path / "cars.zip"))
    content = json.loads(inspect(str(tmp_path / "cars.zip"), "--json"))
    assert content["num_images"] == {"train": 6} and content["submission"] is None
    assert content["class_names"][0] == "Lada Priora" and content["findings"] == []


def test_a_competition_has_a_submission_and_a_metric(connected: DemoServer) -> None:
    content = json.loads(inspect("car-breeds", "--json"))
    assert content["metric"] == "log_loss" and content["submission"]["kind"] == "probabilities"
    assert content["num_images"] == {"train": 96, "test": 24}
    assert {row["question"]: row["result"] for row in content["detections"]}["labels"] == "table"


def test_what_a_dataset_downloads_is_kept_in_the_store(connected: DemoServer, tmp_path: Path) -> None:
    store = init_store(str(tmp_path / "store"))
    before = connected.calls["Download"]
    texts = {inspect("kaggle://demo/scenes", "--store", store.url) for _ in range(2)}
    assert len(texts) == 1 and "96 train, 24 holdout, 20 test" in texts.pop()
    assert connected.calls["Download"] == before + 1 and list((tmp_path / "store").rglob("*.zip"))


def test_ambiguous_data_exit_with_the_setting(tmp_path: Path) -> None:
    rows = [f"{number}.jpg,{'ab'[number % 2]},{'rg'[number // 4]}" for number in range(8)]
    folder = write_files(tmp_path / "source", [f"images/{number}.jpg" for number in range(8)],
                         {"train.csv": "\n".join(["image,breed,color", *rows])})
    process = run(str(folder), home=tmp_path)
    assert (process.returncode, process.stdout) == (78, "")
    assert "data.label_column" in process.stderr
    assert "'color'" not in inspect(str(folder), "--set", "data.label_column=color")


def test_data_that_would_stop_a_run_exit_with_65(tmp_path: Path) -> None:
    images = [f"train/{name}/{number}.jpg" for name in ("1", "01") for number in range(3)]
    sample = {"sample_submission.csv": "id,label\na,1\nzz,1\n"}
    folder = write_files(tmp_path / "source", [*images, "val/1/9.jpg", "test/a.jpg"], sample)
    process = run(str(folder), *SMALL_CLASSES, "--set", "submit.kind=label", "--json", home=tmp_path)
    assert process.returncode == 65
    assert [finding["kind"] for finding in json.loads(process.stdout)["findings"]] == [
        "ambiguous_class", "missing_test_image", "empty_class"]


@pytest.mark.parametrize(("num_images", "kind"), [((30, 0), "too_few_classes"), ((30, 5), "too_few_images")])
def test_too_few_classes_and_images_exit_with_65(tmp_path: Path, num_images: tuple[int, int], kind: str) -> None:
    names = [name for name, num in zip(("van", "suv"), num_images, strict=True) for _ in range(num)]
    table = "id,label\n" + "".join(f"{number}.jpg,{name}\n" for number, name in enumerate(names))
    folder = write_files(tmp_path / "source", [f"photos/{number}.jpg" for number in range(len(names))],
                         {"labels.csv": table})
    process = run(str(folder), "--set", "data.label_column=label", "--json", home=tmp_path)
    assert process.returncode == 65
    assert [finding["kind"] for finding in json.loads(process.stdout)["findings"]] == [kind]


def test_a_table_without_permission_exits_as_in_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deny access as the system does for other users; root may read everything."""
    folder = write_files(tmp_path / "source", ["images/0.jpg"], {"labels.csv": "id,label\n0,a\n"})

    def deny(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", deny)
    with pytest.raises(DataError, match=r"data\.source: .*labels\.csv"):
        inspect(str(folder))


def test_a_second_source_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.source"):
        inspect(str(tmp_path), "--set", "data.source=./photos")


@pytest.mark.parametrize(("source", "status", "word"), [("missing/", 65, "data.source"), ("empty", 65, "images")])
def test_a_bad_source_exits_with_its_status(tmp_path: Path, source: str, status: int, word: str) -> None:
    (tmp_path / "empty").mkdir()
    process = run(str(tmp_path / source), home=tmp_path)
    assert (process.returncode, process.stdout) == (status, "")
    assert word in process.stderr and "Traceback" not in process.stderr
