"""download and validate, from the loopback Kaggle server to the dataset: extra data, label fixes, reuse."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import boto3
import numpy as np
import pandas as pd
import pytest

from carclf.artifacts import StageContext
from carclf.config import Config, load_config
from carclf.dataset.archives import extract_images
from carclf.demo.competition import open_competition
from carclf.demo.rendering import car_image, render_competition
from carclf.demo.server import DemoServer, Fault
from carclf.errors import DataError, ServiceError
from carclf.services.storage import Store, open_store
from carclf.services.storage.folder import FolderStore
from carclf.services.storage.protocol import VersionedObject
from carclf.stages.download import download
from carclf.stages.validate import validate


@pytest.fixture(scope="module")
def kaggle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoServer]:
    folder = tmp_path_factory.mktemp("cars")
    render_competition(folder, num_train=80, num_test=10)
    competition = open_competition(folder, slug="cars", work=tmp_path_factory.mktemp("work"))
    with DemoServer(competition, scoring_seconds=0) as server:
        yield server


@pytest.fixture
def store(kaggle: DemoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("CARCLF_KAGGLE_ENDPOINT", kaggle.url)
    monkeypatch.setenv("KAGGLE_API_TOKEN", "demo-key")
    return open_store(tmp_path / "store")


def config(extra_data: str | Path = "") -> Config:
    return load_config("demo", {"competition": "cars", "validation.min_images_per_class": 4,
                         "download.extra_data": str(extra_data)})


@pytest.fixture(scope="module")
def cars() -> list[bytes]:
    random = np.random.default_rng(5)
    return [car_image(3, random) for _ in range(3)]


def laid(folder: Path, pictures: dict[str, bytes]) -> Path:
    for name, data in pictures.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def test_without_extra_data_the_archive_is_what_it_was_before_there_were_any(store: Store) -> None:
    archive, _ = download(StageContext(store, config()))
    assert list(archive.files) == ["archive.zip"] and archive.content_hash == archive.files["archive.zip"].sha256
    assert archive.settings.keys() == {"competition", "listing", "salt"} and archive.metrics.keys() == {"num_bytes"}


def test_extra_data_train_with_the_competitions_and_are_checked_alike(
    store: Store, tmp_path: Path, cars: list[bytes]
) -> None:
    one = laid(tmp_path / "one", {"3/a.jpg": cars[0], "3/notes.txt": b"", "3/.b.jpg": b"", "3/broken.JPG": b"x"})
    two = laid(tmp_path / "two", {"3/c.jpg": cars[1]})
    archive, _ = download(StageContext(store, config(f"{one}, {two}")))
    dataset, _ = validate(archive, StageContext(store, config()))
    index = pd.read_parquet(dataset.path(store, "index.parquet")).set_index("id")
    extra = index[index["source"] == "extra"]
    assert extra["label"].to_dict() == {"extra/0/3/a.jpg": 3, "extra/0/3/broken.JPG": 3, "extra/1/3/c.jpg": 3}
    assert extra["problem_kind"].tolist() == ["", "undecodable", ""] and (extra["path"] == extra.index).all()
    assert (extract_images(archive, store) / "extra/1/3/c.jpg").read_bytes() == cars[1]
    assert (dataset.metrics["num_extra"], dataset.metrics["num_train"]) == (2, 86)


def test_extra_data_are_known_by_names_and_bytes_wherever_they_lie(
    store: Store, tmp_path: Path, cars: list[bytes], aws: None
) -> None:
    first, reused = download(StageContext(store, config(laid(tmp_path / "one", {"3/a.jpg": cars[0]}))))
    assert not reused and download(StageContext(store, config(laid(tmp_path / "two", {"3/a.jpg": cars[0]})))) == (first, True)
    other, reused = download(StageContext(store, config(laid(tmp_path / "two", {"3/a.jpg": cars[1]}))))
    assert not reused and other.content != first.content
    plain, _ = download(StageContext(store, config()))
    assert plain.files["archive.zip"].sha256 == first.files["archive.zip"].sha256 and plain.key != first.key
    boto3.client("s3").create_bucket(Bucket="more")
    bucket = open_store("s3://more/cars")
    bucket.write("3/a.jpg", cars[0])
    bucket.write("3/list.csv", b"")
    assert download(StageContext(store, config("s3://more/cars"))) == (first, True)


def test_another_extra_picture_fetches_nothing_again_and_stores_its_own_archive_alone(
    store: Store, tmp_path: Path, cars: list[bytes], kaggle: DemoServer
) -> None:
    first, _ = download(StageContext(store, config(laid(tmp_path / "one", {"3/a.jpg": cars[0]}))))
    kaggle.faults.append(Fault("Download", "status"))  # the next body that is asked for
    try:
        plain, known = download(StageContext(store, config()))
        second, reused = download(StageContext(store, config(laid(tmp_path / "one", {"3/b.jpg": cars[1]}))))
        assert [fault.times for fault in kaggle.faults] == [1]
    finally:
        kaggle.faults.clear()
    assert known and not reused and second.key != first.key
    assert second.inputs == first.inputs == {"archive": plain.key}
    assert second.files["archive.zip"] == first.files["archive.zip"] == plain.files["archive.zip"]
    assert second.metrics == plain.metrics | {"num_extra": 2}
    names = sorted(key.rpartition("/")[2] for key in store.list_keys("archives/"))
    assert names == ["archive.zip", "extra.zip", "extra.zip", "manifest.json", "manifest.json", "manifest.json"]
    assert (extract_images(second, store) / "extra/0/3/b.jpg").read_bytes() == cars[1]


class Busy(FolderStore):
    """A store where, as soon as it is asked for an archive with extra data, somebody writes another picture."""

    picture, data, asked = Path(), b"", 0

    def read(self, key: str) -> VersionedObject | None:
        if key.startswith("archives/"):
            self.asked += 1
            if self.asked == 2:  # the first is the competition's
                self.picture.write_bytes(self.data)
        return super().read(key)


def test_a_picture_that_changes_while_it_is_packed_is_not_stored_as_what_it_was(
    store: Store, tmp_path: Path, cars: list[bytes]
) -> None:
    download(StageContext(store, config()))
    busy = Busy(tmp_path / "store")
    busy.picture, busy.data = laid(tmp_path / "one", {"3/a.jpg": cars[0]}) / "3/a.jpg", cars[1]
    with pytest.raises(ServiceError, match=r"pictures changed while they were packed\. Run"):
        download(StageContext(busy, config(tmp_path / "one")))
    archive, reused = download(StageContext(busy, config(tmp_path / "one")))
    assert not reused and (extract_images(archive, busy) / "extra/0/3/a.jpg").read_bytes() == cars[1]


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        ({}, "the folder .* is missing"),
        ({"readme.txt": b""}, "contains no images"),
        ({"sedan/a.jpg": b""}, r"sedan/a\.jpg is not of the form <class number>/<name>"),
        ({"a.jpg": b""}, r"a\.jpg is not of the form"),
        ({"3/more/a.jpg": b""}, r"3/more/a\.jpg is not of the form"),
        ({"3/a\udcff.jpg": b""}, "contains '3/a.udcff.jpg', a name"),
        ({"3/a\\b.jpg": b""}, "a name that not every system supports"),
    ],
)
def test_extra_data_that_cannot_be_meant_are_refused_before_the_download(
    store: Store, tmp_path: Path, pictures: dict[str, bytes], message: str
) -> None:
    with pytest.raises(DataError, match=rf"download\.extra_data: .*{message}"):
        download(StageContext(store, config(laid(tmp_path / "extra", pictures))))
    assert list(store.keys()) == []


def test_no_extra_file_vanishes_without_a_word_and_linked_folders_are_followed(
    store: Store, tmp_path: Path, cars: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    laid(tmp_path / "elsewhere", {"a.jpg": cars[0], "__MACOSX.jfif": cars[1], "list.txt": b""})
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra/3").symlink_to(tmp_path / "elsewhere")
    laid(tmp_path / "extra", {"4/d.jpg": cars[2]})
    (tmp_path / "extra/4/gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "extra/4/more").symlink_to(tmp_path / "elsewhere")
    caplog.set_level("WARNING", "carclf")
    archive, _ = download(StageContext(store, config(tmp_path / "extra")))
    dataset, _ = validate(archive, StageContext(store, config()))
    assert archive.metrics["num_extra"] == dataset.metrics["num_extra"] == 3
    assert "num=2 first='4/gone.jpg'" in caplog.text
    assert "num=1 first='3/list.txt'" in caplog.text


def test_a_class_that_the_competition_does_not_have_is_refused(
    store: Store, tmp_path: Path, cars: list[bytes]
) -> None:
    archive, _ = download(StageContext(store, config(laid(tmp_path / "extra", {"12/a.jpg": cars[0]}))))
    with pytest.raises(DataError, match=r"1 images are in class '12' \(the first: extra/0/12/a\.jpg\), which the comp"):
        validate(archive, StageContext(store, config()))


def test_where_validation_stops_its_page_is_in_the_store_and_no_dataset(
    store: Store, tmp_path: Path, cars: list[bytes]
) -> None:
    archive, _ = download(StageContext(store, config(laid(tmp_path / "extra", {"12/a.jpg": cars[0]}))))
    for _ in range(2):
        with pytest.raises(DataError, match=r"in class '12'.* Look at datasets/") as error:
            validate(archive, StageContext(store, config()))
    report, page = sorted(store.list_keys("datasets/"), key=lambda key: key.endswith(".html"))
    assert str(error.value).endswith(f"Look at {page} in {store.url}.")
    assert json.loads(store.read(report).data)["findings"]["counts"]["unknown_class"] == 1
    text = store.read(page).data.decode()
    assert "which the competition does not have" in text and "extra/0/12/a.jpg" in text and "image/jpeg" in text


@pytest.mark.parametrize("setting", [{"max_unusable_fraction": 0}, {"min_images_per_class": 500}, {"min_side": 4000}])
def test_also_where_little_or_nothing_is_usable(store: Store, setting: dict[str, float]) -> None:
    archive, _ = download(StageContext(store, config()))
    settings = {"competition": "cars"} | {f"validation.{name}": value for name, value in setting.items()}
    with pytest.raises(DataError, match=r"Look at (\S+/report\.html) in"):
        validate(archive, StageContext(store, load_config("demo", settings)))


def test_label_fixes_make_another_dataset_and_are_recorded(store: Store) -> None:
    archive, _ = download(StageContext(store, config()))
    before, _ = validate(archive, StageContext(store, config()))
    plain = pd.read_parquet(before.path(store, "index.parquet"))
    name = plain.loc[plain["label"] == 5, "id"].iloc[0]
    store.write("label_fixes.csv", f"id,action,label\n{name},relabel,6\nnone,drop,\n".encode())
    after, reused = validate(archive, StageContext(store, config()))
    report = json.loads(after.path(store, "report.json").read_text())
    assert not reused and after.key != before.key and after.metrics["num_label_fixes"] == 1
    assert report["label_fixes"][0]["new_label"] == 6 and report["findings"]["counts"]["unmatched_label_fix"] == 1
    assert validate(archive, StageContext(store, config())) == (after, True)


def test_another_fix_or_another_limit_does_not_decode_the_pictures_again(store: Store) -> None:
    archive, _ = download(StageContext(store, config()))
    before, _ = validate(archive, StageContext(store, config()))
    plain = pd.read_parquet(before.path(store, "index.parquet"))
    name = plain.loc[plain["label"] == 5, "id"].iloc[0]
    store.write("label_fixes.csv", f"id,action,label\n{name},drop,\n".encode())
    after, _ = validate(archive, StageContext(store, config()))
    other, _ = validate(archive, StageContext(store, load_config("demo", {"competition": "cars", "validation.min_images_per_class": 3})))
    assert len({before.key, after.key, other.key}) == 3 and after.metrics["num_label_fixes"] == 1
    assert len(list(store.list_keys("inspections/"))) == 2  # one index and its manifest
    fixed = pd.read_parquet(after.path(store, "index.parquet"))
    columns = [column for column in plain if column not in ("problem_kind", "problem", "warning")]
    pd.testing.assert_frame_equal(fixed[columns], plain[columns])
    validate(archive, StageContext(store, load_config("demo", {"competition": "cars", "validation.min_side": 33,
                                    "validation.min_images_per_class": 4})))
    assert len(list(store.list_keys("inspections/"))) == 4


def test_a_fix_that_cannot_be_applied_stops_before_the_pass(store: Store) -> None:
    archive, _ = download(StageContext(store, config()))
    store.write("label_fixes.csv", b"id,action,label\na.jpg,relabel,77\n")
    with pytest.raises(DataError, match=r"label_fixes\.csv: line 2: unknown class 77\. The classes are 0, 1, 2"):
        validate(archive, StageContext(store, config()))
    assert not [*store.list_keys("inspections/"), *store.list_keys("datasets/")]


def test_a_fix_that_label_fixes_wrote_follows_its_picture_when_the_sources_are_reordered(
    store: Store, tmp_path: Path, cars: list[bytes]
) -> None:
    one, two = laid(tmp_path / "one", {"3/a.jpg": cars[0]}), laid(tmp_path / "two", {"3/a.jpg": cars[1]})
    content = hashlib.sha256(cars[0]).hexdigest()
    store.write("label_fixes.csv", f"id,action,label,sha256\nextra/0/3/a.jpg,relabel,7,{content}\n".encode())
    for sources, labels in ((f"{one},{two}", {"extra/0/3/a.jpg": 7, "extra/1/3/a.jpg": 3}),
                            (f"{two},{one}", {"extra/0/3/a.jpg": 3, "extra/1/3/a.jpg": 7})):
        dataset, _ = validate(download(StageContext(store, config(sources)))[0], config(), store)
        index = pd.read_parquet(dataset.path(store, "index.parquet")).set_index("id")
        assert index.loc[index["source"] == "extra", "label"].to_dict() == labels
    laid(one, {"3/a.jpg": cars[2]})  # another picture under its name
    dataset, _ = validate(download(StageContext(store, config(one)))[0], config(), store)
    report = json.loads(dataset.path(store, "report.json").read_text())
    assert (dataset.metrics["num_label_fixes"], report["findings"]["counts"]["unmatched_label_fix"]) == (0, 1)


def test_the_dataset_says_what_was_found(store: Store) -> None:
    archive, _ = download(StageContext(store, config()))
    dataset, _ = validate(archive, StageContext(store, config()))
    report = json.loads(dataset.path(store, "report.json").read_text())
    assert set(dataset.files) == {"index.parquet", "report.html", "report.json", "sample-submission.csv"}
    assert report["findings"]["counts"] == {
        "empty": 1, "wrong_file_extension": 1, "non_rgb_mode": 1, "truncated": 1, "undecodable": 1}
    assert report["class_counts"] == {str(label): report["class_counts"][str(label)] for label in range(10)}
    assert [one["match"] for one in report["clusters"]] == ["exact", "exact"]
