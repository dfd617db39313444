"""``carclf source status``: each kind of source before and after a download, and after changes."""

import json
import os
import uuid
from pathlib import Path
from typing import Any

import boto3
import pytest
from archive_bytes import zip_bytes
from typer.testing import CliRunner

from carclf.artifacts import StageContext
from carclf.cli.app import app
from carclf.config import load_config
from carclf.demo.competition import Competition, ServedDataset
from carclf.demo.server import DemoServer
from carclf.errors import ConfigError, DataError
from carclf.experiments.plan import make_plan
from carclf.experiments.trainings import prepare
from carclf.reevaluation import prepare_test_set
from carclf.runs.run import Run
from carclf.services.storage import Store, init_store
from carclf.services.storage.bucket import Bucket
from carclf.stages.download import download

pytestmark = pytest.mark.integration


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("CARCLF_STORE", str(tmp_path / "store"))
    return init_store(str(tmp_path / "store"))


def write(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def status(source: str | Path) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["source", "status", str(source), "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    return dict(json.loads(result.stdout))


def numbers(source: str | Path) -> tuple[bool, int | None, int | None]:
    """Return whether the source has changed, the number of its images and that of the new ones."""
    row = status(source)
    assert row["changed"] == (row["fingerprint"] != row["last_fingerprint"])
    return row["changed"], row["num_images"], row["num_new_images"]


def download_from(source: str | Path, store: Store, salt: str = "") -> str:
    config = load_config("demo", {"data.source": str(source)})
    return download(StageContext(store, config, salt))[0].key


def test_a_folder_is_compared_with_what_the_last_download_read(store: Store, tmp_path: Path) -> None:
    folder = write(tmp_path / "photos", "cat/a.jpg", "cat/b.JPG", "labels.csv", "notes.txt")
    assert numbers(folder) == (True, 2, 2)
    key = download_from(folder, store)
    assert numbers(folder) == (False, 2, 0)
    assert status(folder)["archive"] == key
    write(folder, "run.log", "dog/c.png", "cat/a.jpg")
    assert numbers(folder) == (True, 3, 2)
    (folder / "dog/c.png").unlink()
    (folder / "cat/b.JPG").unlink()
    assert numbers(folder) == (True, 1, 1)
    download_from(folder, store)
    assert numbers(folder) == (False, 1, 0)


def test_new_times_are_read_once_although_the_archive_is_the_same(store: Store, tmp_path: Path) -> None:
    folder = write(tmp_path / "photos", "cat/a.jpg", "cat/b.jpg")
    key = download_from(folder, store)
    os.utime(folder / "cat/a.jpg", ns=(0, 1))
    assert numbers(folder) == (True, 2, 1)
    assert download_from(folder, store) == key
    assert numbers(folder) == (False, 2, 0)


def test_a_forced_download_counts_as_the_last_one(store: Store, tmp_path: Path) -> None:
    folder = write(tmp_path / "photos", "cat/a.jpg")
    download_from(folder, store, salt="forced")
    assert numbers(folder) == (False, 1, 0)


def test_the_number_of_images_in_a_new_archive_is_unknown(store: Store, tmp_path: Path) -> None:
    folder = write(tmp_path / "photos", "cat/a.jpg")
    download_from(folder, store)
    (folder / "more.zip").write_bytes(zip_bytes({"cat/b.jpg": b"b"}))
    assert numbers(folder) == (True, 1, None)


def test_a_bucket_is_listed_in_pages_and_no_image_is_fetched(
    store: Store, aws: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, name = boto3.client("s3"), f"bucket-{uuid.uuid4().hex[:8]}"
    client.create_bucket(Bucket=name)
    for number in range(1005):  # a page has 1000 objects
        client.put_object(Bucket=name, Key=f"some/prefix/cat/{number}.jpg", Body=b"")
    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "fetch", None)
        assert numbers(f"s3://{name}/some/prefix/") == (True, 1005, 1005)
    download_from(f"s3://{name}/some/prefix", store)
    assert numbers(f"s3://{name}/some/prefix") == (False, 1005, 0)
    client.put_object(Bucket=name, Key="some/prefix/cat/7.jpg", Body=b"other")
    assert numbers(f"s3://{name}/some/prefix") == (True, 1005, 1)


def test_a_competition_and_a_dataset_change_with_what_kaggle_reports(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, random_bytes_competition: Competition
) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", "demo-key")
    monkeypatch.chdir(tmp_path)
    versions = []
    for version in (1, 2):
        (tmp_path / f"{version}.zip").write_bytes(zip_bytes({f"cat/{version}.jpg": b"a"}))
        versions.append(ServedDataset("someone", "pets", version, tmp_path / f"{version}.zip"))
    for last in (1, 2):
        with DemoServer(random_bytes_competition, *versions[:last], scoring_seconds=0) as server:
            monkeypatch.setenv("CARCLF_KAGGLE_ENDPOINT", server.url)
            before = status("kaggle://someone/pets")
            assert (before["changed"], before["version"], before["num_new_images"]) == (True, last, None)
            download_from("kaggle://someone/pets", store)
            assert status("kaggle://someone/pets")["changed"] is False
    assert before["last_fingerprint"] != before["fingerprint"]
    with DemoServer(random_bytes_competition, scoring_seconds=0) as server:
        monkeypatch.setenv("CARCLF_KAGGLE_ENDPOINT", server.url)
        assert status("demo-cars")["changed"] is True
        download_from("demo-cars", store)
        assert status("demo-cars")["changed"] is False


def test_only_the_download_of_a_run_counts(store: Store, tmp_path: Path) -> None:
    folder, archive = write(tmp_path / "photos", "cat/a.jpg"), tmp_path / "cars.zip"
    archive.write_bytes(zip_bytes({"cat/a.jpg": b"a"}))
    config = load_config("demo", {"data.source": str(folder)})
    with pytest.raises(DataError):  # in validate
        prepare_test_set(StageContext(store, config))
    with pytest.raises(DataError):
        prepare(make_plan("one", "demo", ["mixup"], settings={"data.source": str(folder)}), 0, store)
    CliRunner().invoke(app, ["inspect", str(archive), "--store", store.url])
    assert len(list(store.list_keys("sources/"))) == 2
    assert numbers(folder) == (True, 1, 1) and numbers(archive)[0] is True
    Run.start_or_resume("r", store, "demo", config).run_stage("download")
    assert numbers(folder) == (False, 1, 0)


def test_an_archive_changes_with_its_size_or_time(store: Store, tmp_path: Path) -> None:
    archive = tmp_path / "cars.zip"
    archive.write_bytes(zip_bytes({"cat/a.jpg": b"a"}))
    assert numbers(archive) == (True, None, None)
    download_from(archive, store)
    assert numbers(archive)[0] is False
    os.utime(archive, ns=(0, 1))
    assert numbers(archive)[0] is True


def test_the_deployments_source_is_the_default(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "photos", "cat/a.jpg")
    monkeypatch.setenv("CARCLF_SETTINGS", f"data.source={folder}")
    result = CliRunner().invoke(app, ["source", "status"], catch_exceptions=False)
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert (lines["source"], lines["changed"], lines["images"]) == (str(folder), "yes", "1, 1 new or changed")


@pytest.mark.parametrize(
    ("source", "error"),
    [("{folder}/gone", DataError), ("{folder}", DataError), ("s3://no-such-bucket-0/x", ConfigError)],
)
def test_an_unavailable_source_raises_an_error(
    store: Store, aws: None, tmp_path: Path, source: str, error: type[Exception]
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(error, match=r"data\.source"):
        status(source.format(folder=tmp_path / "empty"))
