"""download and validate, from a local Kaggle server to the dataset: extra data, label fixes and reuse."""

import dataclasses
import errno
import hashlib
import io
import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pandas as pd
import pytest

from carclf.artifacts import Archive, Dataset, StageContext
from carclf.config import load_config
from carclf.dataset.archives import extract_images
from carclf.demo.competition import open_competition
from carclf.demo.rendering import car_image, render_competition
from carclf.demo.server import DemoServer, Fault
from carclf.errors import ConfigError, DataError, ServiceError
from carclf.services.storage import Store, open_store
from carclf.services.storage.folder import FolderStore
from carclf.services.storage.protocol import VersionedObject
from carclf.stages.download import download
from carclf.stages.validate import validate

SETTINGS = {"data.source": "cars", "validation.min_images_per_class": 4}


@pytest.fixture(scope="module")
def cars_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoServer]:
    folder = tmp_path_factory.mktemp("cars")
    render_competition(folder, num_train=80, num_test=10)
    competition = open_competition(folder, slug="cars", work=tmp_path_factory.mktemp("work"))
    with DemoServer(competition, scoring_seconds=0) as server:
        yield server


@pytest.fixture
def store(cars_server: DemoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("CARCLF_KAGGLE_ENDPOINT", cars_server.url)
    monkeypatch.setenv("KAGGLE_API_TOKEN", "demo-key")
    return open_store(tmp_path / "store")


@pytest.fixture(scope="module")
def cars() -> list[bytes]:
    rng = np.random.default_rng(5)
    return [car_image(3, rng) for _ in range(3)]


def download_with(store: Store, extra_data: str | Path = "") -> tuple[Archive, bool]:
    settings = SETTINGS | {"download.extra_data": str(extra_data)}
    return download(StageContext(store, load_config("demo", settings)))


def validate_with(archive: Archive, store: Store, **settings: Any) -> tuple[Dataset, bool]:
    overrides = SETTINGS | {f"validation.{name}": value for name, value in settings.items()}
    return validate(archive, StageContext(store, load_config("demo", overrides)))


def validated_index(store: Store) -> tuple[Archive, Dataset, pd.DataFrame]:
    archive, _ = download_with(store)
    dataset, _ = validate_with(archive, store)
    return archive, dataset, dataset.index(store)


def read_report(dataset: Dataset, store: Store) -> dict[str, Any]:
    return json.loads(dataset.path(store, "report.json").read_text())


def write_images(folder: Path, images: dict[str, bytes]) -> Path:
    for name, data in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def test_an_archive_without_extra_data_is_the_competitions(store: Store) -> None:
    archive, _ = download_with(store)
    assert list(archive.files) == ["archive.zip"] and archive.content_hash == archive.files["archive.zip"].sha256
    assert archive.settings.keys() == {"competition", "listing", "salt"}
    assert archive.metrics.keys() == {"num_bytes", "evaluation_metric"}


def test_the_metric_is_stored_and_why_nothing_can_be_submitted_is_logged(
    store: Store, cars_server: DemoServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING", "carclf")
    archive, _ = download_with(store)
    assert archive.metrics["evaluation_metric"] == "Accuracy" and "no submission" not in caplog.text
    closed = dataclasses.replace(cars_server.competition, is_notebooks_only=True)
    monkeypatch.setattr(cars_server, "competition", closed)
    assert download_with(store) == (archive, True)
    assert "no submission" in caplog.text and "notebooks" in caplog.text


def test_extra_data_join_the_training_images_and_are_checked(store: Store, tmp_path: Path, cars: list[bytes]) -> None:
    files = {"3/a.jpg": cars[0], "3/notes.txt": b"", "3/.b.jpg": b"", "3/broken.JPG": b"x"}
    first = write_images(tmp_path / "first", files)
    second = write_images(tmp_path / "second", {"3/c.jpg": cars[1]})
    archive, _ = download_with(store, f"{first}, {second}")
    dataset, _ = validate_with(archive, store)
    index = dataset.index(store).set_index("id")
    extra = index[index["source"] == "extra"]
    assert extra["label"].to_dict() == {
        "extra-data/0/3/a.jpg": "3", "extra-data/0/3/broken.JPG": "3", "extra-data/1/3/c.jpg": "3"}
    assert extra["problem_kind"].tolist() == ["", "undecodable", ""] and (extra["path"] == extra.index).all()
    assert (extract_images(archive, store) / "extra-data/1/3/c.jpg").read_bytes() == cars[1]
    assert (dataset.metrics["num_extra"], dataset.metrics["num_train"]) == (2, 86)


def test_extra_data_are_identified_by_names_and_bytes(
    store: Store, tmp_path: Path, cars: list[bytes], aws: None
) -> None:
    first, reused = download_with(store, write_images(tmp_path / "first", {"3/a.jpg": cars[0]}))
    assert not reused
    assert download_with(store, write_images(tmp_path / "second", {"3/a.jpg": cars[0]})) == (first, True)
    other, reused = download_with(store, write_images(tmp_path / "second", {"3/a.jpg": cars[1]}))
    assert not reused and other.content_hash != first.content_hash
    plain, _ = download_with(store)
    assert plain.files["archive.zip"].sha256 == first.files["archive.zip"].sha256 and plain.key != first.key
    boto3.client("s3").create_bucket(Bucket="more")
    bucket = open_store("s3://more/cars")
    bucket.write("3/a.jpg", cars[0])
    bucket.write("3/list.csv", b"")
    assert download_with(store, "s3://more/cars") == (first, True)


def test_adding_an_extra_image_does_not_repeat_the_download(
    store: Store, tmp_path: Path, cars: list[bytes], cars_server: DemoServer
) -> None:
    folder = tmp_path / "extra"
    first, _ = download_with(store, write_images(folder, {"3/a.jpg": cars[0]}))
    cars_server.faults.append(Fault("Download", "status"))  # the next download would fail
    try:
        plain, plain_reused = download_with(store)
        second, second_reused = download_with(store, write_images(folder, {"3/b.jpg": cars[1]}))
        assert [fault.times for fault in cars_server.faults] == [1]
    finally:
        cars_server.faults.clear()
    assert plain_reused and not second_reused and second.key != first.key
    assert second.inputs == first.inputs == {"archive": plain.key}
    assert second.files["archive.zip"] == first.files["archive.zip"] == plain.files["archive.zip"]
    assert second.metrics == plain.metrics | {"num_extra": 2}
    names = sorted(key.rpartition("/")[2] for key in store.list_keys("archives/"))
    assert names == ["archive.zip", "extra.zip", "extra.zip", "manifest.json", "manifest.json", "manifest.json"]
    assert (extract_images(second, store) / "extra-data/0/3/b.jpg").read_bytes() == cars[1]


class BusyStore(FolderStore):
    """A store that overwrites an image when an archive is read the second time, before the extra data are packed."""

    def __init__(self, root: Path, image: Path, data: bytes) -> None:
        super().__init__(root)
        self.image = image
        self.data = data
        self.num_reads = 0

    def read(self, key: str) -> VersionedObject | None:
        if key.startswith("archives/"):
            self.num_reads += 1
            if self.num_reads == 2:  # the first read is for the competition's archive
                self.image.write_bytes(self.data)
        return super().read(key)


def test_an_image_that_changes_while_it_is_packed_raises_service_error(
    store: Store, tmp_path: Path, cars: list[bytes]
) -> None:
    download_with(store)
    folder = write_images(tmp_path / "extra", {"3/a.jpg": cars[0]})
    busy = BusyStore(tmp_path / "store", folder / "3/a.jpg", cars[1])
    with pytest.raises(ServiceError, match=r"download\.extra_data"):
        download_with(busy, folder)
    archive, reused = download_with(busy, folder)
    assert not reused and (extract_images(archive, busy) / "extra-data/0/3/a.jpg").read_bytes() == cars[1]


@pytest.mark.parametrize(
    ("images", "name"),
    [
        ({}, "extra"),
        ({"readme.txt": b""}, "extra"),
        ({"a.jpg": b""}, r"a\.jpg"),
        ({"3/more/a.jpg": b""}, r"3/more/a\.jpg"),
        ({"3/a\udcff.jpg": b""}, r"3/a.udcff\.jpg"),
        ({"3/a\\b.jpg": b""}, r"3/a.*b\.jpg"),
    ],
)
def test_unusable_extra_data_raise_data_error_before_the_download(
    store: Store, tmp_path: Path, images: dict[str, bytes], name: str
) -> None:
    with pytest.raises(DataError, match=rf"download\.extra_data: .*{name}"):
        download_with(store, write_images(tmp_path / "extra", images))
    assert list(store.list_keys()) == []


def test_skipped_extra_files_log_a_warning(
    store: Store, tmp_path: Path, cars: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_images(tmp_path / "extra", {"3/a.jpg": cars[0], "3/list.txt": b"", "3/lost+found/b.jpg": cars[1]})
    (folder / "3/gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (folder / "3/more").symlink_to(write_images(tmp_path / "elsewhere", {"b.jpg": cars[1]}))
    caplog.set_level("WARNING", "carclf")
    archive, _ = download_with(store, folder)
    assert archive.metrics["num_extra"] == 1
    assert "'3/gone.jpg'" in caplog.text and "'3/list.txt'" in caplog.text


@pytest.mark.parametrize(("source", "error"), [("~nobody-here/cars", ConfigError), ("{folder}/gone", DataError)])
def test_missing_extra_data_raise_an_error(store: Store, tmp_path: Path, source: str, error: type[Exception]) -> None:
    source = source.format(folder=tmp_path)
    with pytest.raises(error, match=source):
        download_with(store, source)


@pytest.mark.parametrize("unreadable", ["3", "3/deep", "3/a.jpg"])
def test_unreadable_extra_data_raise_data_error(
    store: Store, tmp_path: Path, cars: list[bytes], monkeypatch: pytest.MonkeyPatch, unreadable: str
) -> None:
    """Deny access as the system does for other users; root may read everything."""
    folder = write_images(tmp_path / "extra", {"3/a.jpg": cars[0], "3/deep/notes.txt": b"", "4/b.jpg": cars[1]})
    path = str(folder / unreadable)
    scandir, file_open = os.scandir, io.open

    def deny(function: Any, name: Any, *arguments: Any, **options: Any) -> Any:
        if str(name) == path:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return function(name, *arguments, **options)

    monkeypatch.setattr(os, "scandir", partial(deny, scandir))
    monkeypatch.setattr(io, "open", partial(deny, file_open))
    with pytest.raises(DataError, match=rf"download\.extra_data: .*{path}"):
        download_with(store, folder)


def test_the_folders_of_a_process_are_not_extra_data(store: Store) -> None:
    with pytest.raises(DataError, match=r"download\.extra_data: .*/proc/1"):
        download_with(store, "/proc/1")


def test_linked_class_folders_are_followed(store: Store, tmp_path: Path, cars: list[bytes]) -> None:
    folder = write_images(tmp_path / "extra", {"4/d.jpg": cars[2]})
    (folder / "3").symlink_to(write_images(tmp_path / "elsewhere", {"a.jpg": cars[0], "__MACOSX.jfif": cars[1]}))
    archive, _ = download_with(store, folder)
    dataset, _ = validate_with(archive, store)
    assert archive.metrics["num_extra"] == dataset.metrics["num_extra"] == 3


def test_extra_data_of_an_unknown_class_raise_data_error_with_a_report(
    store: Store, tmp_path: Path, cars: list[bytes]
) -> None:
    """The report is in the store, without a manifest: there is no dataset."""
    archive, _ = download_with(store, write_images(tmp_path / "extra", {"12/a.jpg": cars[0]}))
    for _ in range(2):
        with pytest.raises(DataError, match=r"extra-data/0/12/a\.jpg") as error:
            validate_with(archive, store)
    report, page = sorted(store.list_keys("datasets/"), key=lambda key: key.endswith(".html"))
    assert str(error.value).endswith(f"{page} in {store.url}.")
    contents = [store.read(key) for key in (report, page)]
    report_json, html = (content.data.decode() for content in contents if content)
    assert json.loads(report_json)["findings"]["counts"]["unknown_class"] == 1
    assert "extra-data/0/12/a.jpg" in html and "image/jpeg" in html


@pytest.mark.parametrize("setting", [{"max_unusable_fraction": 0}, {"min_images_per_class": 500}, {"min_side": 4000}])
def test_too_few_usable_images_raise_data_error_with_a_report(store: Store, setting: dict[str, float]) -> None:
    archive, _ = download_with(store)
    with pytest.raises(DataError, match=r"\S+/report\.html in"):
        validate_with(archive, store, **setting)


def test_label_fixes_produce_a_new_dataset_and_are_recorded(store: Store) -> None:
    archive, before, index = validated_index(store)
    image = index.loc[index["label"] == "5", "id"].iloc[0]
    store.write("label_fixes.csv", f"id,action,label\n{image},relabel,6\nnone,drop,\n".encode())
    after, reused = validate_with(archive, store)
    report = read_report(after, store)
    assert not reused and after.key != before.key and after.metrics["num_label_fixes"] == 1
    assert "6" in report["label_fixes"][0].values()
    assert report["findings"]["counts"]["unmatched_label_fix"] == 1
    assert validate_with(archive, store) == (after, True)


def test_changed_fixes_and_limits_do_not_decode_the_images_again(store: Store) -> None:
    archive, before, index = validated_index(store)
    image = index.loc[index["label"] == "5", "id"].iloc[0]
    store.write("label_fixes.csv", f"id,action,label\n{image},drop,\n".encode())
    after, _ = validate_with(archive, store)
    other, _ = validate_with(archive, store, min_images_per_class=3)
    assert len({before.key, after.key, other.key}) == 3 and after.metrics["num_label_fixes"] == 1
    assert len(list(store.list_keys("inspections/"))) == 2  # one index and its manifest
    columns = [column for column in index if column not in ("problem_kind", "problem", "warning")]
    pd.testing.assert_frame_equal(after.index(store)[columns], index[columns])
    validate_with(archive, store, min_side=33)
    assert len(list(store.list_keys("inspections/"))) == 4


def test_an_invalid_fix_raises_data_error_before_images_are_decoded(store: Store) -> None:
    archive, _ = download_with(store)
    store.write("label_fixes.csv", b"id,action,label\na.jpg,relabel,77\n")
    with pytest.raises(DataError, match=r"label_fixes\.csv: line 2: .*77"):
        validate_with(archive, store)
    assert not [*store.list_keys("inspections/"), *store.list_keys("datasets/")]


def test_a_fix_with_a_hash_follows_its_image_when_sources_are_reordered(
    store: Store, tmp_path: Path, cars: list[bytes]
) -> None:
    first = write_images(tmp_path / "first", {"3/a.jpg": cars[0]})
    second = write_images(tmp_path / "second", {"3/a.jpg": cars[1]})
    sha256 = hashlib.sha256(cars[0]).hexdigest()
    store.write("label_fixes.csv", f"id,action,label,sha256\nextra-data/0/3/a.jpg,relabel,7,{sha256}\n".encode())
    for sources, labels in (
        (f"{first},{second}", {"extra-data/0/3/a.jpg": "7", "extra-data/1/3/a.jpg": "3"}),
        (f"{second},{first}", {"extra-data/0/3/a.jpg": "3", "extra-data/1/3/a.jpg": "7"}),
    ):
        dataset, _ = validate_with(download_with(store, sources)[0], store)
        index = dataset.index(store).set_index("id")
        assert index.loc[index["source"] == "extra", "label"].to_dict() == labels
    write_images(first, {"3/a.jpg": cars[2]})  # another image of the same name
    dataset, _ = validate_with(download_with(store, first)[0], store)
    counts = read_report(dataset, store)["findings"]["counts"]
    assert (dataset.metrics["num_label_fixes"], counts["unmatched_label_fix"]) == (0, 1)


def test_each_detection_is_logged_in_one_line(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "carclf")
    archive, _ = download_with(store)
    dataset, _ = validate_with(archive, store)
    detections = json.loads(dataset.path(store, "layout.json").read_text())["detections"]
    lines = [record.getMessage() for record in caplog.records if "detected question=" in record.getMessage()]
    assert [line.split("question=")[1].split()[0] for line in lines] == [row["question"] for row in detections]
    assert not any("\n" in line for line in lines)


def test_the_report_counts_findings_classes_and_clusters(store: Store) -> None:
    _, dataset, _ = validated_index(store)
    report = read_report(dataset, store)
    assert set(dataset.files) == {
        "index.parquet", "layout.json", "report.html", "report.json", "sample-submission.csv"}
    kinds = ("empty", "wrong_file_extension", "non_rgb_mode", "truncated", "undecodable")
    assert report["findings"]["counts"] == dict.fromkeys(kinds, 1)
    assert sorted(report["class_counts"]) == [str(label) for label in range(10)]
    assert [cluster["match"] for cluster in report["clusters"]] == ["exact", "exact"]
